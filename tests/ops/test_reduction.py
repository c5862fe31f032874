"""Reductions, windows and running totals, against Python's exact numbers."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_compiler.ir import CompileError, DType, TensorType, dtypes, symbol
from ds_compiler.ops import ArgReduce, Cumulative, Reduce, ReduceWindow
from ds_compiler.ops.reduction import identity
from tests.ops.running import FLOATS, INTEGERS, NUMBERS, PROPERTY, Array, arrays, run, same, value
from tests.ops.test_elementwise import numbers, truncated, wrapped


def exact(how: str, items: Sequence[int | float], dtype: DType, count: int | None = None) -> int | float:
    """The reduction of Python numbers; floats in exact fractions where all are finite."""
    count = len(items) if count is None else count
    if how in ("max", "min"):
        if any(x != x for x in items):
            return math.nan
        neutral = numbers(np.asarray(identity(how, dtype.numpy)))[0]
        return (max if how == "max" else min)([*items, neutral])
    if dtype.is_integer:
        total = math.prod(items) if how == "prod" else sum(items)
        return wrapped(truncated(wrapped(int(total), dtype), count) if how == "mean" else int(total), dtype)
    if all(math.isfinite(x) for x in items):
        fractions = [Fraction(x) for x in items]
        total = math.prod(fractions) if how == "prod" else sum(fractions, Fraction(0))
        if how == "mean":
            return float(total / count) if count else math.nan
        try:
            return float(total)
        except OverflowError:
            return math.inf if total > 0 else -math.inf
    with np.errstate(all="ignore"):
        array = np.array(items, np.float64)
        result = array.prod() if how == "prod" else array.sum()
        return float(result / count if how == "mean" else result)


def near(got: Array, expected: Array) -> None:
    """Integers equal; floats within the rounding of an f64 sum and of the result's type."""
    dtype = dtypes.from_numpy(got.dtype)
    if dtype.is_integer:
        same(got, expected.astype(got.dtype))
        return
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float64).astype(got.dtype).astype(np.float64)
    epsilon = float(ml_dtypes.finfo(got.dtype).eps)
    np.testing.assert_allclose(got.astype(np.float64), rounded, rtol=epsilon, atol=1e-300)


@st.composite
def tame(draw: st.DrawFn, low: int = 0) -> Array:
    """Any integers; floats that add up without cancelling to the last bit, some NaN and infinities."""
    x = draw(arrays(NUMBERS, low=low))
    dtype = dtypes.from_numpy(x.dtype)
    if not dtype.is_float:
        return x
    pool = [0.0, 0.5, 1.0, 3.0, 1.5, 0.25, *([math.nan, math.inf] if draw(st.booleans()) else ())]
    picked = [draw(st.sampled_from(pool)) for _ in range(x.size)]
    with np.errstate(all="ignore"):
        return np.array(picked, np.float64).reshape(x.shape).astype(x.dtype)


@pytest.mark.parametrize("how", ["sum", "mean", "max", "min", "prod"])
@PROPERTY
@given(data=st.data(), x=tame())
def test_reduce(how: str, data: st.DataObject, x: Array) -> None:
    axes = tuple(a for a in range(x.ndim) if data.draw(st.booleans()))
    dtype = dtypes.from_numpy(x.dtype)
    kept = [a for a in range(x.ndim) if a not in axes]
    expected = np.empty([x.shape[a] for a in kept], object)
    for at in np.ndindex(*expected.shape):
        index: list[Any] = [slice(None)] * x.ndim
        for axis, i in zip(kept, at, strict=True):
            index[axis] = i
        expected[at] = exact(how, numbers(x[tuple(index)]), dtype)
    near(run(lambda v: Reduce(v, axes, how), x), expected)


@pytest.mark.parametrize("how", ["any", "all"])
@PROPERTY
@given(x=arrays([dtypes.bool_], low=1))
def test_reduce_bool(how: str, x: Array) -> None:
    expected = np.empty(x.shape[:-1], bool)
    for at in np.ndindex(*expected.shape):
        expected[at] = (any if how == "any" else all)(x[at].tolist())
    same(run(lambda v: Reduce(v, (x.ndim - 1,), how), x), expected)


@pytest.mark.parametrize("how", ["max", "min"])
@pytest.mark.parametrize("last", [False, True])
@PROPERTY
@given(data=st.data(), x=arrays(NUMBERS, low=1))
def test_arg_reduce(how: str, last: bool, data: st.DataObject, x: Array) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    if not x.shape[axis]:
        return
    rows = np.moveaxis(x, axis, -1)
    expected = np.empty(rows.shape[:-1], np.int64)
    for at in np.ndindex(*expected.shape):
        items = numbers(rows[at])
        unordered = [i for i, v in enumerate(items) if v != v]
        best = max(items) if how == "max" else min(items)
        found = unordered or [i for i, v in enumerate(items) if v == best]
        expected[at] = found[-1 if last else 0]
    same(run(lambda v: ArgReduce(v, axis, how, last), x), expected)


@pytest.mark.parametrize("how", ["sum", "prod", "max", "min"])
@PROPERTY
@given(data=st.data(), x=tame(low=1), exclusive=st.booleans(), reverse=st.booleans())
def test_cumulative(how: str, data: st.DataObject, x: Array, exclusive: bool, reverse: bool) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    dtype = dtypes.from_numpy(x.dtype)
    rows = np.moveaxis(x, axis, -1)
    expected = np.empty(rows.shape, object)
    for at in np.ndindex(*rows.shape):
        row, i = numbers(rows[at[:-1]]), at[-1]
        taken = row[i + exclusive :] if reverse else row[: i + 1 - exclusive]
        expected[at] = exact(how, taken, dtype)
    near(run(lambda v: Cumulative(v, axis, how, exclusive, reverse), x), np.moveaxis(expected, -1, axis))


@pytest.mark.parametrize("how", ["max", "sum", "mean", "mean_valid"])
@PROPERTY
@given(data=st.data(), x=tame())
def test_reduce_window(how: str, data: st.DataObject, x: Array) -> None:
    axes = tuple(a for a in range(x.ndim) if data.draw(st.booleans()))
    window, strides, low, high, dilations = ([], [], [], [], [])  # type: ignore[var-annotated]
    for axis in axes:
        window.append(data.draw(st.integers(1, 3)))
        strides.append(data.draw(st.integers(1, 3)))
        dilations.append(data.draw(st.integers(1, 2)))
        low.append(data.draw(st.integers(0, 2)))
        span = (window[-1] - 1) * dilations[-1] + 1
        high.append(data.draw(st.integers(0, 2)) + max(0, span - x.shape[axis] - low[-1]))
    dtype = dtypes.from_numpy(x.dtype)
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        span = (window[i] - 1) * dilations[i] + 1
        shape[axis] = (x.shape[axis] + low[i] + high[i] - span) // strides[i] + 1
    expected = np.empty(shape, object)
    for at in np.ndindex(*shape):
        items = []
        for tap in itertools.product(*(range(w) for w in window)):
            place = list(at)
            for i, axis in enumerate(axes):
                place[axis] = at[axis] * strides[i] + tap[i] * dilations[i] - low[i]
            if all(0 <= p < e for p, e in zip(place, x.shape, strict=True)):
                items += numbers(x[tuple(place)])
        count = math.prod(window) if how == "mean" else len(items)
        expected[at] = exact("mean" if how == "mean_valid" else how, items, dtype, count)
    attributes = [tuple(a) for a in (window, strides, low, high, dilations)]
    near(run(lambda v: ReduceWindow(v, axes, *attributes, how), x), expected)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_identity_is_neutral(dtype: DType) -> None:
    extremes = [dtype.limits[0], 0, dtype.limits[1], *([-math.inf, math.inf] if dtype.is_float else ())]
    for how, combine in (("max", max), ("min", min), ("sum", operator.add), ("prod", operator.mul)):
        (neutral,) = numbers(np.asarray(identity(how, dtype.numpy)))
        endless = how in ("max", "min") and not math.isinf(neutral)  # a type without infinities
        for x in extremes:
            assert combine(x, neutral) == x or (endless and math.isinf(x))


def test_a_wrapped_sum_and_mean() -> None:
    x = np.array([100, 100], np.int8)
    assert run(lambda v: Reduce(v, (0,), "sum"), x) == -56
    assert run(lambda v: Reduce(v, (0,), "mean"), x) == -28
    big = np.array([2**62 + 1, 2**62 + 1], np.uint64)
    assert int(run(lambda v: Reduce(v, (0,), "mean"), big)) == 2**62 + 1
    assert len(FLOATS) + len(INTEGERS) == len(NUMBERS)


WINDOW = ((2,), (1,), (0,), (0,), (1,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reduce(value("4 f32"), (0,), "avg"), "reduce: unknown kind 'avg'; known: sum, mean"),
        (lambda: Reduce(value("4 4 f32"), (1, 0), "sum"), r"reduce: axes \(1, 0\) do not fit"),
        (lambda: Reduce(value("4 f32"), (1,), "sum"), r"reduce: axes \(1,\) do not fit"),
        (lambda: Reduce(value("4 bool"), (0,), "sum"), "reduce: 'sum' does not take element type bool"),
        (lambda: Reduce(value("4 f32"), (0,), "any"), "reduce: 'any' does not take element type f32"),
        (lambda: Reduce(value("4 str"), (0,), "sum"), "reduce: does not take element type str"),
        (lambda: ArgReduce(value("4 f32"), 0, "sum"), "arg_reduce: unknown kind 'sum'"),
        (lambda: ArgReduce(value("4 f32"), 1, "max"), "arg_reduce: axis 1 is out of range"),
        (lambda: ArgReduce(value("4 bool"), 0, "max"), "arg_reduce: does not take element type bool"),
        (lambda: Cumulative(value("4 f32"), 0, "mean"), "cumulative: unknown kind 'mean'"),
        (lambda: Cumulative(value("f32"), 0, "sum"), "cumulative: axis 0 is out of range"),
        (lambda: Cumulative(value("4 bool"), 0, "sum"), "cumulative: does not take element type bool"),
        (lambda: ReduceWindow(value("4 f32"), (0,), *WINDOW, "min"), "reduce_window: unknown kind 'min'"),
        (lambda: ReduceWindow(value("4 4 f32"), (0, 1), *WINDOW, "max"), "reduce_window: window, strides, padding"),
        (lambda: ReduceWindow(value("4 f32"), (1,), *WINDOW, "max"), r"reduce_window: axes \(1,\) do not fit"),
        (lambda: ReduceWindow(value("4 bool"), (0,), *WINDOW, "max"), "reduce_window: does not take element type bool"),
        (
            lambda: ReduceWindow(value("4 f32"), (0,), (0,), (1,), (0,), (0,), (1,), "max"),
            "reduce_window: window, strides and dilations must be positive",
        ),
        (
            lambda: ReduceWindow(value("4 f32"), (0,), (9,), (1,), (0,), (0,), (1,), "max"),
            "reduce_window: the window .* is larger than the padded",
        ),
    ],
)
def test_type_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


def test_symbolic_windows_and_costs() -> None:
    pool = ReduceWindow(value("n 9 f32"), (0,), (3,), (2,), (1,), (1,), (1,), "max")
    assert str(pool.result.type) == "tensor<floordiv(n+1, 2) x 9 x f32>" or pool.result.type == TensorType(
        ((symbol("n") - 1) // 2 + 1, 9), dtypes.f32
    )
    cost = Reduce(value("8 4 f32"), (1,), "sum").cost()
    assert (cost.flops, cost.read, cost.written) == (32, 128, 32)
