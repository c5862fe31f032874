"""Random numbers as compositions of integer operations: the counter-based generator Threefry-2x32, for all front ends.

The same key and shape give the same numbers on every back end and for any number of threads.
Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011); 20 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ds_compiler.ir import Dim, DType, Operation, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bf16, f16, f32, f64, u32, u64
from ds_compiler.ops.elementwise import Binary, Cast, Unary
from ds_compiler.ops.shape import Broadcast, Constant, Iota, Reshape

Emit = Callable[[Operation], Value]
Key = tuple[Value, Value]
"""Two scalars u32."""

DIGITS = {f64: 53, f32: 24, f16: 11, bf16: 8}
"""How many random bits a number in [0, 1) has: as many as its type holds."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(emit: Emit, key: Key, x0: Value, x1: Value) -> tuple[Value, Value]:
    """Two random words for each counter (x0, x1)."""
    k0, k1 = key
    parity = _binary(emit, "xor", _binary(emit, "xor", k0, k1), _PARITY)
    x0, x1 = _binary(emit, "add", x0, k0), _binary(emit, "add", x1, k1)
    keys = (k0, k1, parity)
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x0 = _binary(emit, "add", x0, x1)
            turned = _binary(emit, "or", _binary(emit, "shl", x1, distance), _binary(emit, "shr", x1, 32 - distance))
            x1 = _binary(emit, "xor", turned, x0)
        x0 = _binary(emit, "add", x0, keys[(group + 1) % 3])
        x1 = _binary(emit, "add", x1, _binary(emit, "add", keys[(group + 2) % 3], group + 1))
    return x0, x1


def fold_in(emit: Emit, key: Key, number: Value) -> Key:
    """The key that `key` and a scalar u32 determine."""
    return threefry(emit, key, number, emit(Constant(np.asarray(1, np.uint32))))


def pairs(emit: Emit, key: Key, total: Dim, blocks: int = 1, stream: int = 0) -> list[Value]:
    """Two vectors of `total` random numbers: u32, or u64 where there are two `blocks` for each element.

    Args:
        stream: sequences under the same key that have nothing in common; below 2**19, of up to 2**44 numbers each.
    """
    words = [threefry(emit, key, *_counters(emit, total, stream << 12 ^ i << 31)) for i in range(blocks)]
    return list(words[0]) if blocks == 1 else [_joined(emit, a, b) for a, b in words]


def _counters(emit: Emit, total: Dim, offset: int) -> tuple[Value, Value]:
    """The low words of 0, 1, … and their high words, xor `offset`."""
    if isinstance(total, int) and total < 1 << 32:
        return emit(Iota((total,), 0, u32)), _full(emit, offset, (total,), u32)
    count = emit(Iota((total,), 0, u64))
    high = _cast(emit, _binary(emit, "shr", count, 32), u32)
    return _cast(emit, _binary(emit, "and", count, 0xFFFFFFFF), u32), _binary(emit, "xor", high, offset)


def wide_bits(emit: Emit, key: Key, total: Dim, stream: int = 0) -> Value:
    """A vector of `total` random numbers u64."""
    a, b = pairs(emit, key, total, stream=stream)
    return _joined(emit, a, b)


def uniform(emit: Emit, key: Key, shape: Sequence[Dim], dtype: DType, stream: int = 0) -> Value:
    """Numbers in [0, 1) that are exact in `dtype`, a float type; those of narrow types come in f32."""
    total = product(tuple(shape))
    bits = wide_bits(emit, key, total, stream) if dtype == f64 else pairs(emit, key, total, stream=stream)[0]
    return _reshape(emit, _as_unit(emit, bits, dtype), shape)


def normal(emit: Emit, key: Key, shape: Sequence[Dim], dtype: DType, stream: int = 0) -> Value:
    """Numbers of the standard normal distribution, by Box and Muller's transform; of narrow types in f32."""
    total = product(tuple(shape))
    wide = f64 if dtype == f64 else f32
    a, b = pairs(emit, key, total, 2 if wide == f64 else 1, stream)
    radius = _binary(emit, "sub", _full(emit, 1.0, (total,), wide), _as_unit(emit, a, wide))  # in (0, 1]
    angle = _binary(emit, "mul", _as_unit(emit, b, wide), 2 * math.pi)
    length = emit(Unary(_binary(emit, "mul", emit(Unary(radius, "log")), -2.0), "sqrt"))
    return _reshape(emit, _binary(emit, "mul", length, emit(Unary(angle, "cos"))), shape)


def integers(emit: Emit, key: Key, shape: Sequence[Dim], low: int, high: int, dtype: DType, stream: int = 0) -> Value:
    """Integers in [low, high), from 64 random bits each (a bias below 2**-32 for spans under 2**32)."""
    bits = wide_bits(emit, key, product(tuple(shape)), stream)
    offset = _cast(emit, _binary(emit, "mod", bits, high - low), dtype)
    return _reshape(emit, _binary(emit, "add", offset, low), shape)


def _joined(emit: Emit, a: Value, b: Value) -> Value:
    """Two words as one."""
    return _binary(emit, "or", _binary(emit, "shl", _cast(emit, a, u64), 32), _cast(emit, b, u64))


def _as_unit(emit: Emit, bits: Value, dtype: DType) -> Value:
    """Random bits as numbers in [0, 1), of the highest ones."""
    digits = DIGITS[dtype]
    kept = _binary(emit, "shr", bits, bits.type.dtype.bits - digits)
    return _binary(emit, "mul", _cast(emit, kept, f64 if dtype == f64 else f32), 2.0**-digits)


def _binary(emit: Emit, kind: str, lhs: Value, rhs: Value | float) -> Value:
    """`rhs` is a number, a scalar, or of the same shape."""
    if not isinstance(rhs, Value):
        rhs = emit(Constant(np.asarray(rhs).astype(lhs.type.dtype.numpy)))
    if rhs.type.rank != lhs.type.rank:
        rhs = emit(Broadcast(rhs, lhs.type.shape, ()))
    return emit(Binary(lhs, rhs, kind))


def _full(emit: Emit, number: float, shape: Sequence[Dim], dtype: DType) -> Value:
    return emit(Broadcast(emit(Constant(np.asarray(number, dtype.numpy))), tuple(shape), ()))


def _cast(emit: Emit, value: Value, dtype: DType) -> Value:
    return value if value.type.dtype == dtype else emit(Cast(value, dtype))


def _reshape(emit: Emit, value: Value, shape: Sequence[Dim]) -> Value:
    return value if value.type.shape == tuple(shape) else emit(Reshape(value, tuple(shape)))
