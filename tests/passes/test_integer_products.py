"""Products and convolutions of 8-bit tensors against exact integers, at odd and symbolic sizes, extremes included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Builder, Module, Value, dtypes
from ds_compiler.ops import Binary, Broadcast, Cast, Conv, DotGeneral
from ds_compiler.passes.manager import run
from tests.backends.programs import check_program
from tests.passes.helpers import const, module_of, names, spread

Array = np.ndarray[Any, Any]
TYPES = ("u8", "i8")
_rng = np.random.default_rng(4)


def bytes_of(dtype: str, *shape: int, extreme: bool = False) -> Array:
    limits = np.iinfo(dtypes.dtype(dtype).numpy)
    drawn = (
        _rng.choice([limits.min, limits.max], shape) if extreme else _rng.integers(limits.min, limits.max + 1, shape)
    )
    return np.asarray(drawn).astype(limits.dtype)


def centred(b: Builder, x: Value, zero: int, to: Any = dtypes.i32) -> Value:
    wide = b.emit(Cast(x, dtypes.i32))
    less = b.emit(Binary(wide, spread(b, zero, wide), "sub"))
    return less if to == dtypes.i32 else b.emit(Cast(less, to))


def product(weights: Array, zero: int = 3) -> Any:
    def body(b: Builder, x: Value) -> Value:
        left = centred(b, x, zero)
        return b.emit(DotGeneral(left, const(b, weights, "i32"), (), (), (x.type.rank - 1,), (0,)))

    return body


def optimised(module: Module) -> Module:
    run(module, "cleanup,integer-products,cleanup", verify=True)
    return module


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (1, 37, 19), (3, 64, 16), (31, 75, 33), (129, 513, 70)])
def test_products_are_exact(dtype: str, extreme: bool, m: int, k: int, n: int) -> None:
    x, w = bytes_of(dtype, m, k, extreme=extreme), bytes_of("i8", k, n, extreme=extreme)
    for shape in (f"{m} {k}", f"rows {k}"):
        module = optimised(module_of(product(w), dtypes_of(shape, dtype)))
        assert "dot_integer" in names(module) and "dot_general" not in names(module)
        compiled = check_program(module, {"rows": m}, inputs=[x], threads=(1, 2))
        assert compiled is not None
    expected = (x.astype(np.int64) - 3) @ w.astype(np.int64)
    assert np.abs(expected).max() < 1 << 31


def dtypes_of(shape: str, dtype: str) -> Any:
    from tests.passes.helpers import tensor

    return tensor(shape, dtype)


def test_rows_of_several_axes_and_weights_with_zero_points() -> None:
    w = bytes_of("u8", 21, 10).astype(np.int32) - _rng.integers(0, 256, 10)
    module = optimised(module_of(product(w), dtypes_of("b s 21", "u8")))
    assert "dot_integer" in names(module)
    check_program(module, {"b": 3, "s": 7}, inputs=[bytes_of("u8", 3, 7, 21)], threads=(1, 2))


def test_a_zero_point_made_at_run_time() -> None:
    w = bytes_of("i8", 12, 9)

    def body(b: Builder, x: Value, zero: Value) -> Value:
        wide = b.emit(Cast(x, dtypes.i32))
        spread_zero = b.emit(Broadcast(b.emit(Cast(zero, dtypes.i32)), wide.type.shape, ()))
        left = b.emit(Binary(wide, spread_zero, "sub"))
        return b.emit(DotGeneral(left, const(b, w, "i32"), (), (), (1,), (0,)))

    module = optimised(module_of(body, dtypes_of("n 12", "u8"), dtypes_of("", "u8")))
    assert "dot_integer" in names(module)
    check_program(module, {"n": 5}, inputs=[bytes_of("u8", 5, 12), np.array(255, np.uint8)], threads=(1, 2))


def test_integers_that_may_not_fit_stay() -> None:
    w = bytes_of("i8", 12, 9)

    def body(b: Builder, x: Value) -> Value:
        return b.emit(DotGeneral(x, const(b, w, "i32"), (), (), (1,), (0,)))

    assert "dot_general" in names(optimised(module_of(body, dtypes_of("n 12", "i32"))))


def convolution(weights: Array, groups: int, strides: int, pad: int, dilation: int) -> Any:
    def body(b: Builder, x: Value) -> Value:
        rank = weights.ndim - 2
        each = [(value,) * rank for value in (strides, pad, pad, dilation)]
        return b.emit(Cast(b.emit(
            Conv(centred(b, x, 9, dtypes.f64), const(b, weights, "f64"), each[0], each[1], each[2], each[3], groups)
        ), dtypes.i32))  # fmt: skip

    return body


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("weight", "groups", "strides", "pad", "dilation"),
    [
        ((7, 5, 3, 3), 1, 1, 1, 1),
        ((7, 5, 3, 2), 1, 2, 1, 2),
        ((9, 5, 1, 1), 1, 1, 0, 1),
        ((9, 5, 1, 1), 1, 2, 0, 1),
        ((6, 5, 4), 1, 1, 2, 1),
        ((5, 1, 3, 3), 5, 2, 1, 1),
        ((10, 1, 3, 3), 5, 1, 1, 1),
    ],
)
def test_convolutions_are_exact(
    dtype: str, weight: tuple[int, ...], groups: int, strides: int, pad: int, dilation: int
) -> None:
    w = bytes_of("i8", *weight, extreme=True)
    spatial = (9, 8)[: len(weight) - 2]
    for shape in (f"2 5 {' '.join(map(str, spatial))}", f"n 5 {' '.join('hw'[: len(spatial)])}"):
        module = module_of(convolution(w, groups, strides, pad, dilation), dtypes_of(shape, dtype))
        optimised(module)
        found = [op.result.type.dtype for op in module.walk() if isinstance(op, Conv)]
        assert found == ([dtypes.f32] if groups > 1 else [])
        sizes = {"n": 2, "h": 9, "w": 8}
        inputs = [bytes_of(dtype, 2, 5, *spatial, extreme=True)]
        check_program(module, sizes, inputs=inputs, threads=(1, 2), rtol=0)
