"""Rules of the array API standard on random cases: promotion, broadcasting, indexing, updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ds_compiler as ds
from ds_compiler.frontends.trace.dtypes import DTYPES
from tests.frontends.trace.running import interpreted

xp = ds.numpy
NAMES = [name for name in DTYPES if name != "bfloat16"]
bounds = st.one_of(st.none(), st.integers(-7, 7))


@given(st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_promotion_of_arrays(a: str, b: str) -> None:
    """As NumPy, where the standard defines the mix; otherwise an error."""
    kinds = {np.dtype(n).kind for n in (a, b)}
    defined = len(kinds) == 1 or (kinds == {"i", "u"} and "uint64" not in (a, b))
    if not defined:
        with pytest.raises(ds.TraceError, match="do not mix"):
            interpreted(lambda x, y: xp.where(x == x, x, y), np.ones(2, a), np.ones(2, b))
        return
    wanted = np.result_type(a, b)
    assert xp.result_type(np.dtype(a), np.dtype(b)) == wanted
    result = interpreted(lambda x, y: xp.where(x == x, x, y), np.ones(2, a), np.ones(2, b))
    assert result.dtype == wanted


@given(st.sampled_from(NAMES), st.sampled_from([True, 3, 2.5]))
def test_promotion_with_python_numbers(dtype: str, number: Any) -> None:
    """A number takes the array's type; it must be of the same kind or a lower one."""
    allowed = {bool: "b", int: "iuf", float: "f"}[type(number)]
    call = lambda x: xp.where(x == x, x, number)  # noqa: E731
    if np.dtype(dtype).kind in allowed:
        assert interpreted(call, np.ones(2, dtype)).dtype == dtype
    else:
        with pytest.raises(ds.TraceError, match="does not mix"):
            interpreted(call, np.ones(2, dtype))


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, min_side=0, max_side=3))
def test_broadcasting(shapes: Any) -> None:
    arrays = [np.arange(np.prod(s, dtype=int), dtype=np.float64).reshape(s) + 1 for s in shapes.input_shapes]
    result = interpreted(lambda a, b, c: a * b + c, *arrays)
    np.testing.assert_array_equal(result, arrays[0] * arrays[1] + arrays[2])
    assert result.shape == shapes.result_shape


@given(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4), hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
def test_shapes_that_do_not_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ds.TraceError, match=r"do not broadcast.*test_rules\.py"):
            interpreted(lambda x, y: x + y, np.ones(a), np.ones(b))


@st.composite
def indexed(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    """A shape and a key: integers, slices, None, an ellipsis, integer arrays, a mask."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4))
    entries: list[Any] = []
    array_shape = draw(st.sampled_from([(), (2,), (1,), (2, 3), (0,)]))
    count = draw(st.integers(0, len(shape)))
    for extent in shape[:count]:
        kinds = ["slice"] + (["int", "array"] if extent else [])
        kind = draw(st.sampled_from(kinds))
        if kind == "slice":
            bound = st.one_of(st.none(), st.integers(-6, 6))
            step = draw(st.one_of(st.none(), st.sampled_from([-3, -2, -1, 1, 2, 3])))
            entries.append(slice(draw(bound), draw(bound), step))
        elif kind == "int":
            entries.append(draw(st.integers(-extent, extent - 1)))
        else:
            entries.append(draw(hnp.arrays(np.int64, array_shape, elements=st.integers(-extent, extent - 1))))
    for _ in range(draw(st.integers(0, 2))):
        entries.insert(draw(st.integers(0, len(entries))), None)
    if count < len(shape) and draw(st.booleans()):
        entries.append(Ellipsis)
    return shape, tuple(entries)


@settings(max_examples=300, deadline=None)
@given(indexed())
def test_indexing(case: tuple[tuple[int, ...], Any]) -> None:
    shape, key = case
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    expected = np.asarray(x[key])
    result = interpreted(lambda x: x[key], x)
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


@settings(max_examples=100, deadline=None)
@given(indexed())
def test_updates(case: tuple[tuple[int, ...], Any]) -> None:
    shape, key = case
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float64).reshape(shape)
    expected = x.copy()
    np.add.at(expected, key, 2.0)
    np.testing.assert_array_equal(interpreted(lambda x: x.at[key].add(2.0), x), expected)
    changed = x.copy()
    changed[key] = -1.0
    np.testing.assert_array_equal(interpreted(lambda x: x.at[key].set(-1.0), x), changed)


def test_indexing_natively() -> None:
    """Each form once, with positions that are inputs; a mask is known."""
    x = np.arange(60.0).reshape(3, 4, 5)
    mask = x[:, :, 0] > 10

    def f(x: Any, i: Any, j: Any) -> Any:
        return [
            x[1], x[-1, ::2], x[..., 1:-1], x[:, None, 2], x[i], x[:, j], x[i, j], x[i, :, j], x[:, i[0]], x[mask],
            x[0, i, 1:3], x.at[i].set(0.0), x.at[i, 0, j].add(1.0), x.at[1:, :, 2].multiply(3.0), x.at[0].max(30.0),
        ]  # fmt: skip

    i, j = np.asarray([2, 0]), np.asarray([1, -1])
    added, scaled, zeroed, larger = x.copy(), x.copy(), x.copy(), x.copy()
    np.add.at(added, (i, 0, j), 1.0)
    scaled[1:, :, 2] *= 3
    zeroed[i] = 0
    larger[0] = np.maximum(larger[0], 30)
    expected = [
        x[1], x[-1, ::2], x[..., 1:-1], x[:, None, 2], x[i], x[:, j], x[i, j], x[i, :, j], x[:, i[0]], x[mask],
        x[0, i, 1:3], zeroed, added, scaled, larger,
    ]  # fmt: skip
    for actual, wanted in zip(ds.compile(f, cache=False, threads=1)(x, i, j), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5),
    st.one_of(st.none(), st.integers(-7, 7)),
    st.one_of(st.none(), st.integers(-7, 7)),
    st.sampled_from([-2, -1, 1, 2]),
)
def test_slices_of_open_sizes(n: int, start: Any, stop: Any, step: int) -> None:
    """Bounds move into range as in Python, whatever the size turns out to be."""
    from ds_compiler.frontends.trace import tree
    from ds_compiler.frontends.trace.function import trace_program
    from ds_compiler.ir import TensorType, symbol
    from ds_compiler.ir.dtypes import f64
    from ds_compiler.reference import interpret

    x = np.arange(float(n))
    leaves, structure = tree.flatten(((x,), {}))
    program = trace_program(lambda x: x[start:stop:step], structure, leaves, [TensorType((symbol("n"),), f64)], {})
    np.testing.assert_array_equal(interpret(program.module, [x])[0], x[start:stop:step])
