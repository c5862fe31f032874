"""Gathers, scatters and sorting, against loops over positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ds_compiler.ir import CompileError, dtypes
from ds_compiler.ops import Gather, GatherElements, GatherND, ScatterElements, ScatterND, TopK
from tests.ir.random_modules import elements
from tests.ops.running import ALL, INTEGERS, NUMBERS, PROPERTY, Array, arrays, run, same, value

INDICES = st.sampled_from([dtypes.i64, dtypes.i32, dtypes.i8])


def drawn_indices(data: st.DataObject, extent: int, shape: list[int]) -> Array:
    assume(extent or not np.prod(shape))
    count = int(np.prod(shape))
    found = data.draw(st.lists(st.integers(-extent, max(extent - 1, 0)), min_size=count, max_size=count))
    return np.array(found, data.draw(INDICES).numpy).reshape(shape)


@PROPERTY
@given(data=st.data(), x=arrays(ALL, low=1))
def test_gather(data: st.DataObject, x: Array) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    indices = drawn_indices(data, x.shape[axis], data.draw(st.lists(st.integers(0, 3), max_size=2)))
    expected = np.empty([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]], x.dtype)
    for at in np.ndindex(*expected.shape):
        inner = at[axis : axis + indices.ndim]
        expected[at] = x[(*at[:axis], int(indices[inner]), *at[axis + indices.ndim :])]
    same(run(lambda v, i: Gather(v, i, axis), x, indices), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL, low=1))
def test_gather_elements(data: st.DataObject, x: Array) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    indices = drawn_indices(data, x.shape[axis], [data.draw(st.integers(0, e)) for e in x.shape])
    expected = np.empty(indices.shape, x.dtype)
    for at in np.ndindex(*indices.shape):
        expected[at] = x[(*at[:axis], int(indices[at]), *at[axis + 1 :])]
    same(run(lambda v, i: GatherElements(v, i, axis), x, indices), expected)


@PROPERTY
@given(data=st.data(), x=arrays(ALL, low=1))
def test_gather_nd(data: st.DataObject, x: Array) -> None:
    batch = data.draw(st.integers(0, x.ndim - 1))
    depth = data.draw(st.integers(1, x.ndim - batch))
    shape = [*x.shape[:batch], *data.draw(st.lists(st.integers(0, 3), min_size=not batch, max_size=2))]
    indices = drawn_indices(data, min(x.shape[batch : batch + depth]), [*shape, depth])
    expected = np.empty([*shape, *x.shape[batch + depth :]], x.dtype)
    for at in np.ndindex(*expected.shape):
        row = tuple(int(i) for i in indices[at[: len(shape)]])
        expected[at] = x[(*at[:batch], *row, *at[len(shape) :])]
    same(run(lambda v, i: GatherND(v, i, batch), x, indices), expected)


COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "set": lambda old, new: new, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


@pytest.mark.parametrize("mode", COMBINE)
@PROPERTY
@given(data=st.data())
def test_scatter_nd(mode: str, data: st.DataObject) -> None:
    x = data.draw(arrays(ALL if mode == "set" else INTEGERS, low=1))
    depth = data.draw(st.integers(1, x.ndim))
    indices = drawn_indices(data, min(x.shape[:depth]), [data.draw(st.integers(0, 3)), depth])
    rows = [tuple(int(i) % e for i, e in zip(row, x.shape, strict=False)) for row in indices]
    assume(mode != "set" or len(set(rows)) == len(rows))
    updates = data.draw(elements(dtypes.from_numpy(x.dtype), [len(rows), *x.shape[depth:]]))
    expected = x.copy()
    for number, row in enumerate(rows):
        for at in np.ndindex(*x.shape[depth:]):
            with np.errstate(all="ignore"):
                expected[row + at] = COMBINE[mode](expected[row + at], updates[(number, *at)])
    same(run(lambda v, i, u: ScatterND(v, i, u, mode), x, indices, updates), expected)


@pytest.mark.parametrize("mode", COMBINE)
@PROPERTY
@given(data=st.data())
def test_scatter_elements(mode: str, data: st.DataObject) -> None:
    x = data.draw(arrays(ALL if mode == "set" else INTEGERS, low=1))
    axis = data.draw(st.integers(0, x.ndim - 1))
    indices = drawn_indices(data, x.shape[axis], [data.draw(st.integers(0, e)) for e in x.shape])
    places = [(*at[:axis], int(indices[at]) % x.shape[axis], *at[axis + 1 :]) for at in np.ndindex(*indices.shape)]
    assume(mode != "set" or len(set(places)) == len(places))
    updates = data.draw(elements(dtypes.from_numpy(x.dtype), indices.shape))
    expected = x.copy()
    for at, place in zip(np.ndindex(*indices.shape), places, strict=True):
        with np.errstate(all="ignore"):
            expected[place] = COMBINE[mode](expected[place], updates[at])
    same(run(lambda v, i, u: ScatterElements(v, i, u, axis, mode), x, indices, updates), expected)


@PROPERTY
@given(data=st.data(), x=arrays([*NUMBERS, dtypes.bool_], low=1), largest=st.booleans())
def test_top_k(data: st.DataObject, x: Array, largest: bool) -> None:
    k = data.draw(st.integers(0, x.shape[-1]))
    got, positions = run(lambda v: TopK(v, k, largest), x)

    def order(item: tuple[int, Any]) -> tuple[bool, float | int, int]:
        index, element = item
        number = int(element) if dtypes.from_numpy(x.dtype).is_integer else float(element)
        unordered = number != number  # NaN is larger than every number
        key = 0 if unordered else number
        return (unordered != largest, -key if largest else key, index)

    for at in np.ndindex(*x.shape[:-1]):
        chosen = [index for index, _ in sorted(enumerate(x[at]), key=order)][:k]
        assert positions[at].tolist() == chosen
        same(got[at], x[at][chosen])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gather(value("4 f32"), value("2 f32"), 0), "gather: indices are tensor<2xf32>, expected integers"),
        (lambda: Gather(value("4 f32"), value("2 i64"), 1), "gather: axis 1 is out of range"),
        (lambda: GatherElements(value("4 f32"), value("2 2 i64"), 0), "gather_elements: indices tensor<2x2xi64>"),
        (lambda: GatherElements(value("4 f32"), value("2 i64"), 1), "gather_elements: indices .* along axis 1"),
        (lambda: GatherND(value("4 f32"), value("3 2 i64"), 0), "gather_nd: indices .* do not address"),
        (lambda: GatherND(value("4 f32"), value("3 n i64"), 0), "gather_nd: indices .* do not address"),
        (lambda: GatherND(value("4 4 f32"), value("4 1 i64"), 2), "gather_nd: indices .* do not address"),
        (lambda: GatherND(value("4 4 f32"), value("4 1 i64"), -1), "gather_nd: indices .* do not address"),
        (lambda: ScatterND(value("4 f32"), value("2 1 i64"), value("2 f32"), "sub"), "scatter_nd: unknown mode 'sub'"),
        (lambda: ScatterND(value("4 f32"), value("2 2 i64"), value("2 f32"), "set"), "scatter_nd: indices .* do not"),
        (lambda: ScatterND(value("4 f32"), value("2 1 i64"), value("2 f64"), "set"), "scatter_nd: updates .* do not"),
        (lambda: ScatterND(value("4 f32"), value("2 1 i64"), value("3 f32"), "set"), "scatter_nd: updates .* do not"),
        (lambda: ScatterND(value("4 str"), value("2 1 i64"), value("2 str"), "add"), "scatter_nd: 'add' does not take"),
        (
            lambda: ScatterElements(value("4 f32"), value("2 i64"), value("3 f32"), 0, "set"),
            "scatter_elements: upd",
        ),
        (
            lambda: ScatterElements(value("4 f32"), value("2 i64"), value("2 f32"), 1, "set"),
            "scatter_elements: ind",
        ),
        (lambda: ScatterElements(value("4 f32"), value("2 i64"), value("2 f32"), 0, ""), "scatter_elements: unknown"),
        (lambda: TopK(value("f32"), 1, True), "top_k: a scalar has no axis to sort"),
        (lambda: TopK(value("4 f32"), 5, True), "top_k: 5 elements of 4"),
        (lambda: TopK(value("4 str"), 1, True), "top_k: does not take element type str"),
    ],
)
def test_type_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


def test_a_gather_reads_the_rows_that_it_takes() -> None:
    cost = Gather(value("30000 768 f32"), value("2 i64"), 0).cost()
    assert (cost.flops, cost.read, cost.written) == (0, 2 * 768 * 4 + 16, 2 * 768 * 4)
