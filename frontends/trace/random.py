"""``ds.random``: random numbers as a pure function of a key, by the counter-based generator Threefry-2x32.

The same key gives the same numbers on every back end and for any number of threads. Use a key once: `split` it, or
`fold_in` a step's number, for further ones. A key is a uint32 array whose last axis has two words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, is_array, read, wrap
from ds_compiler.frontends.trace.axes import shape_of
from ds_compiler.frontends.trace.creation import iota
from ds_compiler.frontends.trace.dtypes import DEFAULT_FLOAT, DEFAULT_INTEGER, element_type, name_of
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import DType, Operation, Value
from ds_compiler.ir.dtypes import f32, f64, u32, u64
from ds_compiler.ops import Constant
from ds_compiler.ops import random as rng
from ds_compiler.ops.random import Key

__all__ = ["bernoulli", "fold_in", "key", "normal", "randint", "split", "uniform"]


@public
def key(seed: ArrayLike, /) -> TracedArray:
    """The key of a seed: an integer, known or traced."""
    if isinstance(seed, int):
        return wrap(current().constant(np.asarray([(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)))
    value = read(seed)
    if value.type.rank or not value.type.dtype.is_integer:
        raise located(f"random.key: the seed is {value.type}, expected an integer")
    wide = compose.cast(value, u64)
    words = [
        compose.cast(compose.binary("shr", wide, 32), u32),
        compose.cast(compose.binary("and", wide, 0xFFFFFFFF), u32),
    ]
    return wrap(compose.concat([compose.reshape(w, (1,)) for w in words], 0))


@public
def split(key: ArrayLike, num: int = 2, /) -> TracedArray:
    """`num` independent keys: an array of shape [num, 2], or [num, *, 2] of several keys."""
    words = rng.threefry(_emit, _words(key), iota((num,), 0, u32), compose.full(0, (num,), u32))
    return wrap(compose.concat([compose.reshape(w, (num, 1)) for w in words], 1))


@public
def fold_in(key: ArrayLike, data: ArrayLike, /) -> TracedArray:
    """The key that `key` and an integer (a step's or a layer's number) determine."""
    words = _words(key)
    value = read(data)
    if value.type.rank or not value.type.dtype.is_integer:
        raise located(f"random.fold_in: the number is {value.type}, expected an integer")
    words = rng.fold_in(_emit, words, compose.cast(value, u32))
    return wrap(compose.concat([compose.reshape(w, (1,)) for w in words], 0))


@public
def uniform(
    key: ArrayLike, shape: Any = (), /, *, minval: ArrayLike = 0.0, maxval: ArrayLike = 1.0, dtype: Any = None
) -> TracedArray:
    """Numbers in [minval, maxval)."""
    found = _float("uniform", dtype)
    unit = rng.uniform(_emit, _words(key), shape_of(shape), found)
    if isinstance(minval, float | int) and isinstance(maxval, float | int) and (minval, maxval) == (0, 1):
        return wrap(compose.cast(unit, found))
    low, high = (compose.cast(read(v, None if is_array(v) else found), unit.type.dtype) for v in (minval, maxval))
    scaled = compose.binary("add", compose.binary("mul", unit, compose.binary("sub", high, low)), low)
    below = compose.binary("min", scaled, high)  # rounding may reach maxval, never pass it
    return wrap(compose.cast(below, found))


@public
def normal(key: ArrayLike, shape: Any = (), /, *, dtype: Any = None) -> TracedArray:
    """Numbers of the standard normal distribution, by Box and Muller's transform of two uniform ones."""
    found = _float("normal", dtype)
    return wrap(compose.cast(rng.normal(_emit, _words(key), shape_of(shape), found), found))


@public
def bernoulli(key: ArrayLike, p: ArrayLike = 0.5, shape: Any = None, /) -> TracedArray:
    """True with probability `p`; the shape is that of `p` unless it is given."""
    chance = read(p, None if is_array(p) else DEFAULT_FLOAT)
    dims = chance.type.shape if shape is None else shape_of(shape)
    if chance.type.dtype not in rng.DIGITS:
        raise located(f"random.bernoulli: the probability is of {name_of(chance.type.dtype)}")
    unit = rng.uniform(_emit, _words(key), dims, f32 if chance.type.dtype != f64 else f64)
    return wrap(compose.compare("lt", unit, compose.broadcast_to(compose.cast(chance, unit.type.dtype), dims)))


@public
def randint(key: ArrayLike, shape: Any, minval: int, maxval: int, /, *, dtype: Any = None) -> TracedArray:
    """Integers in [minval, maxval), from 64 random bits each (a bias below 2**-32 for spans under 2**32)."""
    found = DEFAULT_INTEGER if dtype is None else element_type(dtype)
    if not found.is_integer or minval >= maxval:
        raise located(f"random.randint: [{minval}, {maxval}) of {name_of(found)}")
    if minval < found.limits[0] or maxval - 1 > found.limits[1]:
        raise located(f"random.randint: [{minval}, {maxval}) does not fit {name_of(found)}")
    return wrap(rng.integers(_emit, _words(key), shape_of(shape), minval, maxval, found))


def _float(name: str, dtype: Any) -> DType:
    found = DEFAULT_FLOAT if dtype is None else element_type(dtype)
    if found not in rng.DIGITS:
        raise located(f"random.{name}: gives floating-point numbers, not {name_of(found)}")
    return found


def _words(key: ArrayLike) -> Key:
    value = read(key)
    if value.type.dtype != u32 or value.type.shape != (2,):
        raise located(f"a random key is uint32[2], got {value.type}", help="make one with ds.random.key(seed)")
    first, second = (compose.reshape(compose.sliced(value, 0, i, i + 1), ()) for i in (0, 1))
    return first, second


def _emit(operation: Operation) -> Value:
    """Constants are shared."""
    return current().constant(operation.value) if isinstance(operation, Constant) else current().emit(operation)
