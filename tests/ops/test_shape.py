"""Operations that move elements, against index formulas written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_compiler.ir import CompileError, TensorType, dtypes, symbol
from ds_compiler.ops import (
    Assume,
    Bind,
    Broadcast,
    Concat,
    Constant,
    DynamicSlice,
    Iota,
    Pad,
    Reshape,
    Size,
    Slice,
    Transpose,
)
from ds_compiler.ops.shape import slice_size
from tests.ir.random_modules import elements
from tests.ops.running import ALL, NUMBERS, PROPERTY, Array, arrays, run, same, value

N = symbol("n")


@PROPERTY
@given(x=arrays(ALL))
def test_constant(x: Array) -> None:
    same(run(lambda: Constant(x)), x)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_size(n: int) -> None:
    same(run(lambda: Size(3 * N + 1), sizes={"n": n}), np.array(3 * n + 1))
    same(run(lambda: Size(5)), np.array(5))


def test_bind_and_assume_have_no_results() -> None:
    assert run(lambda v: Bind(v, "_k"), np.array(3)) == ()
    assert run(lambda: Assume(2 * N, 6), sizes={"n": 3}) == ()
    with pytest.raises(ValueError, match="must be equal, they are 8 and 6"):
        run(lambda: Assume(2 * N, 6), sizes={"n": 4})


@PROPERTY
@given(data=st.data())
def test_iota(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)))
    axis, dtype = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.sampled_from(NUMBERS))
    expected = np.empty(shape, dtype.numpy)
    for at in np.ndindex(*shape):
        expected[at] = at[axis]
    same(run(lambda: Iota(shape, axis, dtype)), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL))
def test_reshape_keeps_row_major_order(data: st.DataObject, x: Array) -> None:
    shape = list(data.draw(st.permutations(x.shape)))
    shape.insert(data.draw(st.integers(0, len(shape))), 1)
    got = run(lambda v: Reshape(v, tuple(shape)), x)
    assert [e.tobytes() for e in got.reshape(-1)] == [e.tobytes() for e in x.reshape(-1)] if x.dtype != object else True


@PROPERTY
@given(data=st.data(), x=arrays(ALL))
def test_transpose(data: st.DataObject, x: Array) -> None:
    permutation = tuple(data.draw(st.permutations(range(x.ndim))))
    expected = np.empty([x.shape[p] for p in permutation], x.dtype)
    for at in np.ndindex(*expected.shape):
        source = [0] * x.ndim
        for axis, p in enumerate(permutation):
            source[p] = at[axis]
        expected[at] = x[tuple(source)]
    same(run(lambda v: Transpose(v, permutation), x), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL))
def test_broadcast(data: st.DataObject, x: Array) -> None:
    shape: list[int] = []
    axes = []
    for extent in x.shape:
        shape += data.draw(st.lists(st.integers(0, 3), max_size=1))
        axes.append(len(shape))
        shape.append(data.draw(st.integers(0, 3)) if extent == 1 else extent)
    expected = np.empty(shape, x.dtype)
    for at in np.ndindex(*shape):
        expected[at] = x[tuple(0 if extent == 1 else at[a] for a, extent in zip(axes, x.shape, strict=True))]
    same(run(lambda v: Broadcast(v, tuple(shape), tuple(axes)), x), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL))
def test_slice(data: st.DataObject, x: Array) -> None:
    starts, counts, steps = [], [], []
    for extent in x.shape:
        step = data.draw(st.sampled_from([1, 2, 3, -1, -2]))
        start = data.draw(st.integers(0, max(extent - 1, 0)))
        room = len(range(start, extent, step)) if step > 0 else len(range(start, -1, step))
        starts.append(start)
        counts.append(data.draw(st.integers(0, room)) if extent else 0)
        steps.append(step)
    expected = np.empty(counts, x.dtype)
    for at in np.ndindex(*counts):
        expected[at] = x[tuple(s + i * d for s, i, d in zip(starts, at, steps, strict=True))]
    same(run(lambda v: Slice(v, tuple(starts), tuple(counts), tuple(steps)), x), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL))
def test_dynamic_slice_clamps_its_corner(data: st.DataObject, x: Array) -> None:
    corner = [data.draw(st.integers(-9, 9)) for _ in x.shape]
    window = [data.draw(st.integers(0, extent)) for extent in x.shape]
    expected = np.empty(window, x.dtype)
    for at in np.ndindex(*window):
        first = [min(max(c, 0), e - w) for c, e, w in zip(corner, x.shape, window, strict=True)]
        expected[at] = x[tuple(f + i for f, i in zip(first, at, strict=True))]
    starts = [np.array(c) for c in corner]
    same(run(lambda v, *s: DynamicSlice(v, s, tuple(window)), x, *starts), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL))
def test_pad(data: st.DataObject, x: Array) -> None:
    fill = data.draw(elements(dtypes.from_numpy(x.dtype), ()))
    low, high = ([data.draw(st.integers(0, 2)) for _ in x.shape] for _ in range(2))
    expected = np.empty([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)], x.dtype)
    for at in np.ndindex(*expected.shape):
        source = tuple(i - a for i, a in zip(at, low, strict=True))
        inside = all(0 <= i < n for i, n in zip(source, x.shape, strict=True))
        expected[at] = x[source] if inside else fill[()]
    same(run(lambda v, f: Pad(v, f, tuple(low), tuple(high)), x, fill), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL, low=1))
def test_concat(data: st.DataObject, x: Array) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    extents = data.draw(st.lists(st.integers(0, 3), max_size=2))
    dtype = dtypes.from_numpy(x.dtype)
    parts = [x, *(data.draw(elements(dtype, [*x.shape[:axis], e, *x.shape[axis + 1 :]])) for e in extents)]
    expected = np.empty([*x.shape[:axis], sum(p.shape[axis] for p in parts), *x.shape[axis + 1 :]], x.dtype)
    begin = 0
    for part in parts:
        for at in np.ndindex(*part.shape):
            expected[(*at[:axis], at[axis] + begin, *at[axis + 1 :])] = part[at]
        begin += part.shape[axis]
    same(run(lambda *v: Concat(v, axis), *parts), expected)


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 5, 2), (4, -1, -3), (3, 3, 1), (5, 2, 1), (0, 7, 7)])
def test_slice_size(start: int, stop: int, step: int) -> None:
    assert slice_size(start, stop, step) == len(range(start, stop, step))


def test_symbolic_sizes() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    sizes = {"n": 3}
    same(run(lambda v: Reshape(v, (2 * N,)), x, sizes=sizes), x.reshape(6))
    same(run(lambda v: Slice(v, (N - 1, 0), (1, N - 1), (1, 1)), x, sizes=sizes), x[2:])
    same(run(lambda v: Broadcast(v, (N, 3, 2), (1, 2)), x, sizes=sizes), np.stack([x] * 3))
    same(run(lambda: Iota((N,), 0, dtypes.i32), sizes=sizes), np.arange(3, dtype=np.int32))
    assert Concat((value("n 2 f32"), value("4 2 f32")), 0).result.type == TensorType((N + 4, 2), dtypes.f32)
    assert Concat((value("n 2 f32"), value("4 2 f32")), 1).result.type == TensorType((4, 4), dtypes.f32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bind(value("i32"), "_k"), r"bind: value is tensor<i32>, expected tensor<i64>"),
        (lambda: Assume(3, 4), "assume: the sizes 3 and 4 differ"),
        (lambda: Iota((3,), 1, dtypes.f32), "iota: axis 1 is out of range for rank 1"),
        (lambda: Iota((3,), 0, dtypes.bool_), "iota: does not take element type bool"),
        (lambda: Reshape(value("2 3 f32"), (4,)), "reshape: tensor<2x3xf32> has 6 elements, the new shape 4"),
        (lambda: Transpose(value("2 3 f32"), (0, 0)), r"transpose: \(0, 0\) does not permute"),
        (lambda: Broadcast(value("2 f32"), (3, 2), ()), r"broadcast: axes \(\) do not fit"),
        (lambda: Broadcast(value("2 f32"), (3,), (0,)), "broadcast: axis 0 of size 2 does not broadcast to size 3"),
        (lambda: Broadcast(value("2 2 f32"), (2, 2), (1, 0)), r"broadcast: axes \(1, 0\) do not fit"),
        (lambda: Broadcast(value("2 f32"), (2,), (1,)), "broadcast: axis 1 is out of range for rank 1"),
        (lambda: Slice(value("4 f32"), (0,), (5,), (1,)), "slice: axis 0: elements 0 to 4 of 4"),
        (lambda: Slice(value("4 f32"), (3,), (3,), (-2,)), "slice: axis 0: elements 3 to -1 of 4"),
        (lambda: Slice(value("4 f32"), (0,), (1,), (0,)), "slice: step of axis 0 is zero"),
        (lambda: Slice(value("4 f32"), (), (), ()), "slice: 0 starts for"),
        (lambda: DynamicSlice(value("4 f32"), (value("i32"),), (2,)), "dynamic_slice: start 0 is tensor<i32>"),
        (lambda: DynamicSlice(value("4 f32"), (value("i64"),), (5,)), "dynamic_slice: axis 0: 5 elements of 4"),
        (lambda: DynamicSlice(value("4 f32"), (), (2,)), "dynamic_slice: 0 starts for"),
        (lambda: Pad(value("4 f32"), value("f64"), (0,), (0,)), "pad: value is tensor<f64>, expected a scalar f32"),
        (lambda: Pad(value("4 f32"), value("f32"), (-1,), (0,)), "pad: negative width"),
        (lambda: Pad(value("4 f32"), value("f32"), (), (0,)), "pad: 0 widths for"),
        (lambda: Concat((), 0), "concat: nothing to join"),
        (lambda: Concat((value("f32"),), 0), "concat: axis 0 is out of range for"),
        (lambda: Concat((value("2 3 f32"), value("2 4 f32")), 0), "concat: input 1 is tensor<2x4xf32>, input 0 is"),
        (lambda: Concat((value("2 f32"), value("2 f64")), 0), "concat: input 1 is tensor<2xf64>"),
    ],
)
def test_type_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


def test_moving_costs_bytes_and_no_arithmetic() -> None:
    cost = Transpose(value("4 8 f32"), (1, 0)).cost()
    assert (cost.flops, cost.read, cost.written) == (0, 128, 128)
    reshape = Reshape(value("4 8 f32"), (32,)).cost()
    assert (reshape.flops, reshape.read, reshape.written) == (0, 0, 0)
