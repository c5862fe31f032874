"""Floats of 8 and 4 bits, integers of 4 and 2: compiled casts against ml_dtypes, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler.backends.llvm.narrow import FLOATS, POWER
from ds_compiler.ir import Block, Function, Module, Region, TensorType
from ds_compiler.ir.dtypes import DType, dtype, f16, f32, i8, i32
from ds_compiler.ops import Binary, Cast, Return

Array = np.ndarray[Any, Any]


def _cast(x: Array, source: DType, to: DType) -> Array:
    block = Block([TensorType(x.shape, source)], ["x"])
    cast = Cast(block.arguments[0], to)
    block.append(cast)
    block.append(Return((cast.result,)))
    return ds.compile(Module([Function("main", Region(block), ["y"])], {}), cache=False, threads=1)(x)["y"]


def _numbers() -> Array:
    """Any bits, many sizes, ties, powers of two, and what is special."""
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    sizes = rng.standard_normal(20000) * np.exp(rng.uniform(-14, 14, 20000))
    ties = np.arange(-600, 600, 0.25)
    powers = np.ldexp(np.array([[1.0], [1.25], [1.5], [1.75]]), np.arange(-150, 128)).reshape(-1)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan]
    return np.concatenate([any_bits, *(part.astype(np.float32) for part in (sizes, ties, powers, np.array(special)))])


@pytest.mark.parametrize("name", [*FLOATS, POWER])
def test_rounding_to_small_floats(name: str) -> None:
    x, to = _numbers(), dtype(name)
    result = _cast(x, f32, to)
    with np.errstate(all="ignore"):
        expected = x.astype(to.numpy)
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(result.astype(np.float32)), nan)
    nan |= np.isnan(x)  # what it becomes in a format without NaN is open
    np.testing.assert_array_equal(result.view(np.uint8)[~nan], expected.view(np.uint8)[~nan])


@pytest.mark.parametrize("wide", [f32, f16], ids=str)
@pytest.mark.parametrize("name", [*FLOATS, POWER])
def test_every_small_float(name: str, wide: DType) -> None:
    source = dtype(name)
    x = np.arange(1 << source.bits, dtype=np.uint8).view(source.numpy)
    result, expected = _cast(x, source, wide), x.astype(wide.numpy)
    np.testing.assert_array_equal(result, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(result[number]), np.signbit(expected[number]))


@pytest.mark.parametrize("name", ["i4", "u4", "i2", "u2"])
def test_integers_keep_the_low_bits(name: str) -> None:
    narrow, x = dtype(name), np.arange(-128, 128).astype(np.int8)
    stored = _cast(x, i8, narrow)
    low = x.view(np.uint8) & ((1 << narrow.bits) - 1)
    np.testing.assert_array_equal(stored.view(np.uint8), low)
    signed = narrow.kind == "i"
    value = np.where(signed & (low >> (narrow.bits - 1) == 1), low.astype(np.int32) - (1 << narrow.bits), low)
    np.testing.assert_array_equal(_cast(stored, narrow, i32), value)


@pytest.mark.parametrize("name", ["i4", "u4", "i2", "u2"])
def test_floats_saturate(name: str) -> None:
    narrow = dtype(name)
    x = np.array([-1e9, -8.7, -2.5, -0.5, 0.9, 1.5, 3.2, 9.0, 15.9, 1e9, np.nan], np.float32)
    expected = np.clip(np.trunc(np.nan_to_num(x)), *narrow.limits).astype(np.int32)
    np.testing.assert_array_equal(_cast(x, f32, narrow).astype(np.int32), expected)


def test_signed_shifts_beyond_the_width_leave_the_sign() -> None:
    a = np.array([-8, 8, -1, 127, -128, -128], np.int8)
    b = np.array([8, 8, 100, 7, -1, 3], np.int8)
    block = Block([TensorType((6,), i8)] * 2, ["a", "b"])
    shift = Binary(block.arguments[0], block.arguments[1], "shr")
    block.append(shift)
    block.append(Return((shift.result,)))
    module = Module([Function("main", Region(block), ["y"])], {})
    result = ds.compile(module, cache=False, threads=1)(a=a, b=b)["y"]
    np.testing.assert_array_equal(result, np.right_shift(a, b))
