"""Products and convolutions, against sums over indices written out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_compiler.ir import CompileError, DType, TensorType, dtypes, symbol
from ds_compiler.ops import Conv, ConvTranspose, ConvWeightGradient, DotGeneral, DotInteger
from tests.ir.random_modules import elements
from tests.ops.running import FLOATS, NUMBERS, PROPERTY, Array, run, same, value
from tests.ops.test_elementwise import numbers, wrapped


def small(data: st.DataObject, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Any integers; floats whose products and sums are exact in every type."""
    if dtype.is_integer:
        return data.draw(elements(dtype, shape))
    count = int(np.prod(shape, dtype=int))
    picked = data.draw(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0]), min_size=1, max_size=max(1, min(count, 30))))
    return np.resize(np.array(picked), shape).astype(dtype.numpy)


def rounded(expected: Array, dtype: DType) -> Array:
    """Exact totals as the type holds them."""
    if dtype.is_integer:
        flat = [wrapped(int(x), dtype) for x in expected.reshape(-1)]
        return np.array(flat, object).reshape(expected.shape).astype(dtype.numpy)
    return expected.astype(np.float64).astype(dtype.numpy)


def at(x: Array, place: tuple[int, ...]) -> Any:
    return numbers(x[place])[0]


@PROPERTY
@given(data=st.data())
def test_dot_integer(data: st.DataObject) -> None:
    rows = tuple(data.draw(st.integers(0, 3)) for _ in range(data.draw(st.integers(0, 2))))
    depth, columns = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    a = data.draw(elements(dtypes.i16, (*rows, depth))) >> 1  # so that the sums fit into 32 bits
    b = data.draw(elements(dtypes.i16, (depth, columns))) >> 1
    result = run(lambda x, y: DotInteger(x, y), a, b)
    expected = np.einsum("...k,kn->...n", a.astype(np.int64), b.astype(np.int64))
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, expected)


@PROPERTY
@given(data=st.data(), dtype=st.sampled_from(NUMBERS))
def test_dot_general(data: st.DataObject, dtype: DType) -> None:
    extents = {
        role: [data.draw(st.integers(0, 3)) for _ in range(data.draw(st.integers(0, 2)))]
        for role in ("batch", "contract", "rows", "columns")
    }
    left = [("batch", i) for i in range(len(extents["batch"]))] + [
        ("contract", i) for i in range(len(extents["contract"]))
    ]
    lhs = data.draw(st.permutations(left + [("rows", i) for i in range(len(extents["rows"]))]))
    rhs = data.draw(st.permutations(left + [("columns", i) for i in range(len(extents["columns"]))]))
    a = small(data, dtype, tuple(extents[r][i] for r, i in lhs))
    b = small(data, dtype, tuple(extents[r][i] for r, i in rhs))
    rows = [p for p in lhs if p[0] == "rows"]
    columns = [p for p in rhs if p[0] == "columns"]
    batch = [("batch", i) for i in range(len(extents["batch"]))]
    contract = [("contract", i) for i in range(len(extents["contract"]))]
    order = [*batch, *rows, *columns]
    expected = np.empty([extents[r][i] for r, i in order], object)
    for index in np.ndindex(*expected.shape):
        known = dict(zip(order, index, strict=True))
        total = 0
        for inner in itertools.product(*(range(extents[r][i]) for r, i in contract)):
            here = known | dict(zip(contract, inner, strict=True))
            total += at(a, tuple(here[p] for p in lhs)) * at(b, tuple(here[p] for p in rhs))
        expected[index] = total

    def axes(side: list[Any], wanted: list[Any]) -> tuple[int, ...]:
        return tuple(side.index(p) for p in wanted)

    got = run(
        lambda x, y: DotGeneral(x, y, axes(lhs, batch), axes(rhs, batch), axes(lhs, contract), axes(rhs, contract)),
        a,
        b,
    )
    same(got, rounded(expected, dtype))


Case = tuple[Array, Array, list[int], list[int], list[int], list[int], int, str]


@st.composite
def windows(draw: st.DrawFn) -> Any:
    """(batch, spatial, kernel, strides, low, high, dilations, groups, layout)."""
    rank = draw(st.integers(1, 2))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, dilations, low, spatial = each(1, 3), each(1, 2), each(0, 2), each(0, 4)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    high = tuple(max(0, s - n - p) + draw(st.integers(0, 1)) for s, n, p in zip(spans, spatial, low, strict=True))
    layout = draw(st.sampled_from(["nchw", "nhwc"]))
    return (
        draw(st.integers(0, 2)), spatial, kernel, each(1, 2), low, high, dilations, draw(st.integers(1, 2)), layout,
    )  # fmt: skip


def shaped(layout: str, batch: int, channels: int, spatial: tuple[int, ...]) -> tuple[int, ...]:
    return (batch, channels, *spatial) if layout == "nchw" else (batch, *spatial, channels)


@PROPERTY
@given(data=st.data(), dtype=st.sampled_from(FLOATS), case=windows())
def test_conv(data: st.DataObject, dtype: DType, case: Any) -> None:
    batch, spatial, kernel, strides, low, high, dilations, groups, layout = case
    inner, outer = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    x = small(data, dtype, shaped(layout, batch, inner * groups, spatial))
    w = small(data, dtype, (outer * groups, inner, *kernel))
    places = list(zip(spatial, kernel, strides, low, high, dilations, strict=True))
    out = tuple((n + a + b - (k - 1) * d - 1) // s + 1 for n, k, s, a, b, d in places)
    expected = np.zeros(shaped(layout, batch, outer * groups, out), object)
    for n, o in itertools.product(range(batch), range(outer * groups)):
        for position in np.ndindex(*out):
            total = 0.0
            for c, tap in itertools.product(range(inner), np.ndindex(*kernel)):
                place = tuple(
                    p * s + t * d - a for p, t, s, a, d in zip(position, tap, strides, low, dilations, strict=True)
                )
                if all(0 <= i < e for i, e in zip(place, spatial, strict=True)):
                    channel = (o // outer) * inner + c
                    total += at(x, shaped(layout, n, channel, place)) * at(w, (o, c, *tap))
            expected[shaped(layout, n, o, position)] = total
    got = run(lambda v, u: Conv(v, u, strides, low, high, dilations, groups, layout), x, w)
    same(got, rounded(expected, dtype))


@PROPERTY
@given(data=st.data(), dtype=st.sampled_from(FLOATS), case=windows())
def test_conv_transpose(data: st.DataObject, dtype: DType, case: Any) -> None:
    batch, spatial, kernel, strides, _, _, dilations, groups, layout = case
    spatial = tuple(max(1, n) for n in spatial)
    inner, outer = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    x = small(data, dtype, shaped(layout, batch, inner * groups, spatial))
    w = small(data, dtype, (inner * groups, outer, *kernel))
    full = tuple((n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True))
    low = tuple(data.draw(st.integers(0, f // 2)) for f in full)
    high = tuple(data.draw(st.integers(0, f - f // 2)) for f in full)
    out = tuple(f - a - b for f, a, b in zip(full, low, high, strict=True))
    expected = np.zeros(shaped(layout, batch, outer * groups, out), object)
    for n, c, o in itertools.product(range(batch), range(inner * groups), range(outer)):
        for position, tap in itertools.product(np.ndindex(*spatial), np.ndindex(*kernel)):
            place = tuple(
                p * s + t * d - a for p, t, s, a, d in zip(position, tap, strides, low, dilations, strict=True)
            )
            if all(0 <= i < e for i, e in zip(place, out, strict=True)):
                channel = (c // inner) * outer + o
                term = at(x, shaped(layout, n, c, position)) * at(w, (c, o, *tap))
                expected[shaped(layout, n, channel, place)] += term
    got = run(lambda v, u: ConvTranspose(v, u, strides, low, high, dilations, groups, layout), x, w)
    same(got, rounded(expected, dtype))


@PROPERTY
@given(data=st.data(), dtype=st.sampled_from(FLOATS), case=windows())
def test_conv_weight_gradient(data: st.DataObject, dtype: DType, case: Any) -> None:
    batch, spatial, kernel, strides, low, high, dilations, groups, layout = case
    inner, outer = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    x = small(data, dtype, shaped(layout, batch, inner * groups, spatial))
    places = list(zip(spatial, kernel, strides, low, high, dilations, strict=True))
    out = tuple((n + a + b - (k - 1) * d - 1) // s + 1 for n, k, s, a, b, d in places)
    g = small(data, dtype, shaped(layout, batch, outer * groups, out))
    expected = np.zeros((outer * groups, inner, *kernel), object)
    for o, c, tap in itertools.product(range(outer * groups), range(inner), np.ndindex(*kernel)):
        for n, position in itertools.product(range(batch), np.ndindex(*out)):
            place = tuple(
                p * s + t * d - a for p, t, s, a, d in zip(position, tap, strides, low, dilations, strict=True)
            )
            if all(0 <= i < e for i, e in zip(place, spatial, strict=True)):
                channel = (o // outer) * inner + c
                term = at(x, shaped(layout, n, channel, place)) * at(g, shaped(layout, n, o, position))
                expected[(o, c, *tap)] += term
    got = run(lambda v, u: ConvWeightGradient(v, u, kernel, strides, low, high, dilations, groups, layout), x, g)
    same(got, rounded(expected, dtype))


ONE = ((1,), (0,), (0,), (1,))


def gradient(x: str, g: str, kernel: tuple[int, ...] = (3,), groups: int = 1, layout: str = "nchw") -> Any:
    return ConvWeightGradient(value(x), value(g), kernel, *ONE, groups, layout)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DotGeneral(value("4 f32"), value("4 f64"), (), (), (0,), (0,)),
            "dot_general: .* element types",
        ),
        (
            lambda: DotGeneral(value("4 bool"), value("4 bool"), (), (), (0,), (0,)),
            "dot_general: does not take",
        ),
        (
            lambda: DotGeneral(value("4 f32"), value("4 f32"), (), (), (1,), (0,)),
            r"dot_general: axes \(1,\) do not fit",
        ),
        (lambda: DotGeneral(value("4 f32"), value("4 f32"), (0,), (0,), (0,), (0,)), r"dot_general: axes \(0, 0\)"),
        (
            lambda: DotGeneral(value("4 f32"), value("4 f32"), (), (), (0,), ()),
            "dot_general: lhs and rhs name",
        ),
        (
            lambda: DotGeneral(value("4 f32"), value("5 f32"), (), (), (0,), (0,)),
            "dot_general: axis 0 of lhs .* differ",
        ),
        (lambda: Conv(value("1 3 9 f32"), value("4 3 3 f64"), *ONE, 1), "conv: input is .*, weight is"),
        (lambda: Conv(value("1 3 9 i32"), value("4 3 3 i32"), *ONE, 1), "conv: input is .*, weight is"),
        (lambda: Conv(value("1 3 9 f32"), value("4 3 f32"), *ONE, 1), "conv: input is .*, weight is"),
        (lambda: Conv(value("1 3 9 f32"), value("4 2 3 f32"), *ONE, 1), "conv: weight has 2 input channels .*NCHW"),
        (lambda: Conv(value("1 4 9 f32"), value("3 2 3 f32"), *ONE, 2), "conv: 3 output channels do not divide into 2"),
        (lambda: Conv(value("1 3 9 f32"), value("4 3 3 f32"), *ONE, 0), "conv: strides, dilations and groups must be"),
        (
            lambda: Conv(value("1 3 9 f32"), value("4 3 3 f32"), (), (), (), (), 1),
            "conv: strides, padding and dilations",
        ),
        (
            lambda: Conv(value("1 3 2 f32"), value("4 3 5 f32"), *ONE, 1),
            "conv: the kernel .* is larger than",
        ),
        (lambda: ConvTranspose(value("1 3 9 f32"), value("4 3 3 f32"), *ONE, 1), "conv_transpose: weight has 4 input"),
        (lambda: gradient("1 3 9 f32", "1 4 7 f64"), "conv_weight_gradient: input is .*, gradient is .*, kernel is"),
        (lambda: gradient("1 3 9 f32", "1 4 7 f32", (3, 3)), "conv_weight_gradient: input is"),
        (lambda: gradient("1 3 9 i32", "1 4 7 i32"), "conv_weight_gradient: input is"),
        (lambda: gradient("1 3 9 f32", "1 4 8 f32"), r"conv_weight_gradient: gradient is .* has windows \(7,\)"),
        (lambda: gradient("2 3 9 f32", "1 4 7 f32"), "conv_weight_gradient: gradient is .* has windows"),
        (lambda: gradient("1 3 9 f32", "1 4 7 f32", groups=2), "the 3 channels of input do not divide into 2"),
        (lambda: gradient("1 4 9 f32", "1 3 7 f32", groups=2), "the 3 channels of gradient do not divide into 2"),
        (lambda: gradient("1 3 9 f32", "1 4 7 f32", (0,)), "kernel, strides, dilations and groups must be positive"),
        (lambda: gradient("1 3 9 f32", "1 4 7 f32", layout="nwc"), "conv_weight_gradient: unknown layout 'nwc'"),
        (
            lambda: ConvWeightGradient(value("1 3 9 f32"), value("1 4 7 f32"), (3,), (), (), (), (), 1),
            "conv_weight_gradient: strides, padding and dilations",
        ),
        (lambda: Conv(value("1 3 9 f32"), value("4 3 3 f32"), *ONE, 1, "nwc"), "conv: unknown layout 'nwc'"),
    ],
)
def test_type_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


def test_symbolic_shapes_and_costs() -> None:
    n, m = symbol("n"), symbol("m")
    dot = DotGeneral(value("n 8 f32"), value("8 m f32"), (), (), (1,), (0,))
    assert dot.result.type == TensorType((n, m), dtypes.f32)
    assert dot.cost().flops == 2 * n * m * 8
    assert dot.cost().read == 32 * n + 32 * m
    conv = Conv(value("1 3 n f32"), value("4 3 3 f32"), (2,), (1,), (1,), (1,), 1)
    assert conv.result.type == TensorType((1, 4, (n - 1) // 2 + 1), dtypes.f32)
    assert Conv(value("1 3 9 f32"), value("4 3 3 f32"), *ONE, 1).cost().flops == 2 * 4 * 7 * 9
    assert gradient("1 3 n f32", "1 4 7 f32").result.type == TensorType((4, 3, 3), dtypes.f32)
    assert gradient("1 3 9 f32", "1 4 7 f32").cost().flops == 2 * 4 * 7 * 9
