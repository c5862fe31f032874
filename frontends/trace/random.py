"""``ds.random``: random numbers as a pure function of a key, by the counter-based generator Threefry-2x32.

The same key gives the same numbers on every back end and for any number of threads. Use a key once: `split` it, or
`fold_in` a step's number, for further ones. A key is a uint32 array whose last axis has two words.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011); 20 rounds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, is_array, read, wrap
from ds_compiler.frontends.trace.axes import shape_of
from ds_compiler.frontends.trace.creation import iota
from ds_compiler.frontends.trace.dtypes import DEFAULT_FLOAT, DEFAULT_INTEGER, element_type, name_of
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import Dim, DType, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bf16, f16, f32, f64, u32, u64

__all__ = ["bernoulli", "fold_in", "key", "normal", "randint", "split", "uniform"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_DIGITS = {f64: 53, f32: 24, f16: 11, bf16: 8}


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
    k0, k1 = _words(key)
    count = iota((num,), 0, u32)
    a, b = _threefry(k0, k1, count, compose.full(0, (num,), u32))
    return wrap(compose.concat([compose.reshape(v, (num, 1)) for v in (a, b)], 1))


@public
def fold_in(key: ArrayLike, data: ArrayLike, /) -> TracedArray:
    """The key that `key` and an integer (a step's or a layer's number) determine."""
    k0, k1 = _words(key)
    value = read(data)
    if value.type.rank or not value.type.dtype.is_integer:
        raise located(f"random.fold_in: the number is {value.type}, expected an integer")
    a, b = _threefry(k0, k1, compose.cast(value, u32), compose.scalar(1, u32))
    return wrap(compose.concat([compose.reshape(v, (1,)) for v in (a, b)], 0))


@public
def uniform(
    key: ArrayLike, shape: Any = (), /, *, minval: ArrayLike = 0.0, maxval: ArrayLike = 1.0, dtype: Any = None
) -> TracedArray:
    """Numbers in [minval, maxval)."""
    found = _float("uniform", dtype)
    unit = _unit(key, shape_of(shape), found)
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
    dims = shape_of(shape)
    total = product(dims)
    wide = f64 if found == f64 else f32
    a, b = _pairs(key, total, 2 if wide == f64 else 1)
    radius = compose.binary("sub", compose.full(1.0, (total,), wide), _as_unit(a, wide))  # in (0, 1]
    angle = compose.binary("mul", _as_unit(b, wide), 2 * math.pi)
    length = compose.unary("sqrt", compose.binary("mul", compose.unary("log", radius), -2.0))
    result = compose.binary("mul", length, compose.unary("cos", angle))
    return wrap(compose.cast(compose.reshape(result, dims), found))


@public
def bernoulli(key: ArrayLike, p: ArrayLike = 0.5, shape: Any = None, /) -> TracedArray:
    """True with probability `p`; the shape is that of `p` unless it is given."""
    chance = read(p, None if is_array(p) else DEFAULT_FLOAT)
    dims = chance.type.shape if shape is None else shape_of(shape)
    if chance.type.dtype not in _DIGITS:
        raise located(f"random.bernoulli: the probability is of {name_of(chance.type.dtype)}")
    unit = _unit(key, dims, f32 if chance.type.dtype != f64 else f64)
    return wrap(compose.compare("lt", unit, compose.broadcast_to(compose.cast(chance, unit.type.dtype), dims)))


@public
def randint(key: ArrayLike, shape: Any, minval: int, maxval: int, /, *, dtype: Any = None) -> TracedArray:
    """Integers in [minval, maxval), from 64 random bits each (a bias below 2**-32 for spans under 2**32)."""
    found = DEFAULT_INTEGER if dtype is None else element_type(dtype)
    if not found.is_integer or minval >= maxval:
        raise located(f"random.randint: [{minval}, {maxval}) of {name_of(found)}")
    if minval < found.limits[0] or maxval - 1 > found.limits[1]:
        raise located(f"random.randint: [{minval}, {maxval}) does not fit {name_of(found)}")
    dims = shape_of(shape)
    bits = _wide_bits(key, product(dims))
    offset = compose.cast(compose.binary("mod", bits, maxval - minval), found)
    return wrap(compose.reshape(compose.binary("add", offset, minval), dims))


def _float(name: str, dtype: Any) -> DType:
    found = DEFAULT_FLOAT if dtype is None else element_type(dtype)
    if found not in _DIGITS:
        raise located(f"random.{name}: gives floating-point numbers, not {name_of(found)}")
    return found


def _words(key: ArrayLike) -> tuple[Value, Value]:
    value = read(key)
    if value.type.dtype != u32 or value.type.shape != (2,):
        raise located(f"a random key is uint32[2], got {value.type}", help="make one with ds.random.key(seed)")
    return tuple(compose.reshape(compose.sliced(value, 0, i, i + 1), ()) for i in (0, 1))  # type: ignore[return-value]


def _rotated(x: Value, distance: int) -> Value:
    return compose.binary("or", compose.binary("shl", x, distance), compose.binary("shr", x, 32 - distance))


def _threefry(k0: Value, k1: Value, x0: Value, x1: Value) -> tuple[Value, Value]:
    """Two random words for each counter (x0, x1)."""
    keys = (k0, k1, compose.binary("xor", compose.binary("xor", k0, k1), _PARITY))
    x0, x1 = compose.binary("add", x0, k0), compose.binary("add", x1, k1)
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = compose.binary("add", x0, x1)
            x1 = compose.binary("xor", _rotated(x1, distance), x0)
        x0 = compose.binary("add", x0, keys[(group + 1) % 3])
        x1 = compose.binary("add", x1, compose.binary("add", keys[(group + 2) % 3], group + 1))
    return x0, x1


def _pairs(key: ArrayLike, total: Dim, blocks: int) -> list[Value]:
    """Two vectors of `total` random numbers: u32, or u64 where there are two `blocks` for each element."""
    k0, k1 = _words(key)
    count = iota((total,), 0, u64)
    low = compose.cast(compose.binary("and", count, 0xFFFFFFFF), u32)
    high = compose.cast(compose.binary("shr", count, 32), u32)
    if blocks == 1:
        return list(_threefry(k0, k1, low, high))
    words = [_threefry(k0, k1, low, compose.binary("xor", high, i << 31)) for i in range(blocks)]
    return [_joined(a, b) for a, b in words]


def _joined(a: Value, b: Value) -> Value:
    """Two words as one."""
    return compose.binary("or", compose.binary("shl", compose.cast(a, u64), 32), compose.cast(b, u64))


def _wide_bits(key: ArrayLike, total: Dim) -> Value:
    a, b = _pairs(key, total, 1)
    return _joined(a, b)


def _as_unit(bits: Value, dtype: DType) -> Value:
    """Random bits as numbers in [0, 1): as many of the highest bits as the type holds; narrow types come in f32."""
    digits = _DIGITS[dtype]
    wide = f64 if dtype == f64 else f32
    kept = compose.binary("shr", bits, bits.type.dtype.bits - digits)
    return compose.binary("mul", compose.cast(kept, wide), 2.0**-digits)


def _unit(key: ArrayLike, shape: tuple[Dim, ...], dtype: DType) -> Value:
    """Numbers in [0, 1), exact in `dtype`."""
    total = product(shape)
    bits = _wide_bits(key, total) if dtype == f64 else _pairs(key, total, 1)[0]
    return compose.reshape(_as_unit(bits, dtype), shape)
