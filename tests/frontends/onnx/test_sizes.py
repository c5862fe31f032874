"""Shapes and bounds that symbols or data decide: imported once, against onnxruntime at several inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import parser

from ds_compiler.api import compile
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError, Module
from ds_compiler.ir.verifier import verify
from ds_compiler.reference import interpret

onnxruntime = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]
INT_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1


def model(graph: str, opset: int = 18) -> Any:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {graph}')


def check(graph: str, *feeds: dict[str, Any], opset: int = 18, native: bool = True) -> Module:
    """Import (and with `native` compile) once; each of `feeds` gives what onnxruntime gives."""
    proto = model(graph, opset)
    module = import_model(proto)
    verify(module)
    program = compile(proto, threads=1, cache=False) if native else None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feed in feeds:
        arrays = {name: np.asarray(value) for name, value in feed.items()}
        expected = session.run(None, arrays)
        for results in (interpret(module, arrays), *([program.run(None, arrays)] if program else [])):
            for ours, theirs in zip(results, expected, strict=True):
                assert ours.shape == theirs.shape, arrays
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-6, err_msg=str(arrays))
    return module


def numbers(*shape: int) -> Array:
    """Different numbers."""
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape) + 1


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


def mnemonics(module: Module) -> list[str]:
    return [op.mnemonic for op in module.walk()]


# -- Slice -----------------------------------------------------------------------------------------
STARTS = [0, 1, 3, 7, -1, -3, -7, INT_MAX, -INT_MAX, INT64_MAX, -INT64_MAX - 1]


def stops(step: int) -> list[int]:
    """onnxruntime reads an end of INT_MAX in a backward slice as "all"; ONNX clamps it, so that nothing is left."""
    return [s for s in STARTS if step > 0 or s < INT_MAX]


ONE_ELEMENT = [(0, 1), (-1, INT_MAX), (-1, INT64_MAX)]
"""Slices taken to hold one element whatever the axis's size; an empty axis is an error then."""


def test_backward_slice_that_ends_at_int_max_is_empty() -> None:
    module = import_model(
        model(
            """(float[4] x) => (float[n] y)
            <int64[1] s = {0}, int64[1] e = {2147483647}, int64[1] a = {0}, int64[1] d = {-1}>
            { y = Slice(x, s, e, a, d) }"""
        )
    )
    assert str(module.main.result_types[0]) == "tensor<0xf32>"


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_slice_known_bounds_of_a_symbolic_axis(step: int) -> None:
    for start in STARTS:
        for stop in stops(step):
            check(
                f"""(float[2, n] x) => (float[a, b] y)
                <int64[1] s = {{{start}}}, int64[1] e = {{{stop}}}, int64[1] a = {{1}}, int64[1] d = {{{step}}}>
                {{ y = Slice(x, s, e, a, d) }}""",
                *({"x": numbers(2, n)} for n in (1, 4, 9)),
                *([] if step == 1 and (start, stop) in ONE_ELEMENT else [{"x": numbers(2, 0)}]),
                native=start in (0, 3, -3),
            )


@pytest.mark.parametrize("step", [1, 3, -1, -2])
@pytest.mark.parametrize("extent", ["5", "n"])
def test_slice_bounds_computed_at_run_time(step: int, extent: str) -> None:
    check(
        f"""(float[2, {extent}] x, int64[1] s, int64[1] e) => (float[a, b] y)
        <int64[1] a = {{-1}}, int64[1] d = {{{step}}}> {{ y = Slice(x, s, e, a, d) }}""",
        *({"x": numbers(2, 5), "s": integers(s), "e": integers(e)} for s in STARTS for e in stops(step)),
    )


@pytest.mark.parametrize("opset", [9, 18])
def test_slice_bounds_in_symbols(opset: int) -> None:
    """x[:, n-3 : n-1], where the bounds may fall below 0."""
    attributes = "y = Slice<axes = [1], starts = [-3], ends = [-1]>(x)"
    inputs = """s = Shape<start = 1>(x)  three = Constant<value = int64[1] {3}>()
        one = Constant<value = int64[1] {1}>()
        b = Sub(s, three)  e = Sub(s, one)  y = Slice(x, b, e, one)"""
    module = check(
        f"(float[2, n] x) => (float[a, b] y) {{ {attributes if opset < 10 else inputs} }}",
        *({"x": numbers(2, n)} for n in (1, 2, 3, 4, 9)),
        opset=opset,
    )
    assert "bind" not in mnemonics(module)


def test_slices_that_leave_out_an_end_have_one_size() -> None:
    """x[1:] - x[:-1] needs no broadcasting."""
    module = check(
        """(float[n] x) => (float[a] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] back = {-1}, int64[1] end = {9223372036854775807}>
        { a = Slice(x, one, end, zero)  b = Slice(x, zero, back, zero)  y = Sub(a, b) }""",
        *({"x": numbers(n)} for n in (1, 2, 7)),
    )
    assert mnemonics(module) == ["slice", "slice", "sub", "return"]


def test_slice_of_the_last_element_has_size_one() -> None:
    module = import_model(
        model("(float[n, 4] x) => (float[a, b] y) { y = Slice<axes = [0], starts = [-1], ends = [2147483647]>(x) }", 9)
    )
    assert str(module.main.result_types[0]) == "tensor<1x4xf32>"
    with pytest.raises(CompileError):
        interpret(module, {"x": numbers(0, 4)})


def test_slice_with_a_run_time_step_is_an_error() -> None:
    with pytest.raises(CompileError, match="the list of steps must be known"):
        import_model(
            model(
                """(float[4] x, int64[1] d) => (float[a] y)
                <int64[1] s = {0}, int64[1] e = {4}, int64[1] a = {0}> { y = Slice(x, s, e, a, d) }"""
            )
        )


# -- Reshape, Expand, Tile, Squeeze ----------------------------------------------------------------
def test_reshape_folds_shape_arithmetic() -> None:
    module = check(
        """(float[batch, seq, 12] x) => (float[a, b, c, d] y)
        <int64[1] heads = {3}, int64[1] rest = {-1}>
        { b = Shape<end = 1>(x)  s = Shape<start = 1, end = 2>(x)
          t = Concat<axis = 0>(b, s, heads, rest)  y = Reshape(x, t) }""",
        {"x": numbers(1, 1, 12)},
        {"x": numbers(2, 5, 12)},
    )
    assert mnemonics(module) == ["reshape", "return"]
    assert str(module.main.result_types[0]) == "tensor<batch x seq x 3 x 4 x f32>"


def test_reshape_to_a_run_time_shape() -> None:
    targets = [(2, 3, 4), (-1, 3, 4), (0, -1, 2), (4, 0, 2), (24, 1, -1), (2, 2, 6)]
    check(
        "(float[2, 3, 4] x, int64[3] s) => (float[a, b, c] y) { y = Reshape(x, s) }",
        *({"x": numbers(2, 3, 4), "s": integers(*t)} for t in targets),
    )
    check(
        "(float[n, 3, m] x, int64[3] s) => (float[a, b, c] y) { y = Reshape(x, s) }",
        *({"x": numbers(2, 3, 4), "s": integers(*t)} for t in targets),
    )


def test_reshape_to_a_shape_of_known_and_run_time_parts() -> None:
    check(
        """(float[n, 4] x, int64[1] rows) => (float[a, b, c] y) <int64[1] rest = {-1}, int64[1] two = {2}>
        { t = Concat<axis = 0>(rows, rest, two)  y = Reshape(x, t) }""",
        *({"x": numbers(6, 4), "rows": integers(r)} for r in (1, 3, 12, 0)),
    )


def test_reshape_keeps_an_axis_of_size_zero() -> None:
    check(
        """(float[n, 4] x) => (float[a, b] y) <int64[2] t = {0, 4}> { y = Reshape<allowzero = 1>(x, t) }""",
        {"x": numbers(0, 4)},
    )


def test_a_shape_of_unknown_length_is_an_error() -> None:
    for operator in ("Reshape", "Expand", "Tile"):
        with pytest.raises(CompileError, match=r"how many numbers it holds, and so the result's rank, is not known"):
            import_model(model(f"(float[4] x, int64[r] s) => (float y) {{ y = {operator}(x, s) }}"))


def test_two_readers_of_a_run_time_shape_agree_on_its_sizes() -> None:
    module = check(
        """(float[1, 3] x, float[2, 1] y, int64[2] s) => (float[a, b] z)
        { p = Expand(x, s)  q = Expand(y, s)  z = Add(p, q) }""",
        {"x": numbers(1, 3), "y": numbers(2, 1), "s": integers(2, 3)},
    )
    assert mnemonics(module).count("assume") == 0


def test_expand_to_a_run_time_shape() -> None:
    targets = [(2, 3), (1, 1), (1, 3), (2, 1)]
    for declared in ("1, 3", "n, 3", "1, m", "n, m"):
        check(
            f"(float[{declared}] x, int64[2] s) => (float[a, b] y) {{ y = Expand(x, s) }}",
            *({"x": numbers(1, 3), "s": integers(*t)} for t in targets),
        )
    check(
        "(float[n] x, int64[3] s) => (float[a, b, c] y) { y = Expand(x, s) }",
        *({"x": numbers(k), "s": integers(2, 4, 3)} for k in (1, 3)),
    )


def test_expand_to_a_symbolic_shape() -> None:
    check(
        """(float[n, 1] x, float[m, k] like) => (float[a, b] y) { s = Shape(like)  y = Expand(x, s) }""",
        {"x": numbers(1, 1), "like": numbers(2, 3)},
        {"x": numbers(2, 1), "like": numbers(2, 3)},
        {"x": numbers(2, 1), "like": numbers(1, 3)},
    )


def test_tile_by_run_time_repeats() -> None:
    check(
        "(float[n, 3] x, int64[2] r) => (float[a, b] y) { y = Tile(x, r) }",
        *({"x": numbers(2, 3), "r": integers(*r)} for r in ((1, 1), (2, 3), (3, 1), (0, 2))),
    )


def test_squeeze_without_axes_needs_known_sizes() -> None:
    check("(float[1, 3, 1] x) => (float[a] y) { y = Squeeze(x) }", {"x": numbers(1, 3, 1)})
    with pytest.raises(CompileError, match="the rank depends on whether size 'n' of axis 1 is 1"):
        import_model(model("(float[1, n] x) => (float[n] y) { y = Squeeze(x) }"))


# -- Concat, Split ---------------------------------------------------------------------------------
@pytest.mark.parametrize("opset", [11, 18])
def test_split_of_a_symbolic_axis(opset: int) -> None:
    count = ", num_outputs = 3" if opset == 18 else ""
    sizes = (5, 6, 9) if opset == 18 else (6, 9)
    check(
        f"(float[2, n] x) => (float[a, b] p, float[a, c] q, float[a, d] r) {{ p, q, r = Split<axis = 1{count}>(x) }}",
        *({"x": numbers(2, n)} for n in sizes),
        opset=opset,
    )


def test_split_by_run_time_sizes() -> None:
    check(
        "(float[n] x, int64[2] s) => (float[a] p, float[b] q) { p, q = Split(x, s) }",
        *({"x": numbers(6), "s": integers(s, 6 - s)} for s in (1, 4, 6)),
    )


def test_concat_takes_sizes_that_symbols_say_twice_for_one() -> None:
    check(
        """(float[n, 2] x, float[m, 3] y) => (float[a, b] z) { z = Concat<axis = 1>(x, y) }""",
        *({"x": numbers(n, 2), "y": numbers(n, 3)} for n in (1, 4)),
    )


# -- Pad -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("declared", ["4, 5", "n, m"])
def test_pad(mode: str, declared: str) -> None:
    for pads in ((1, 2, 0, 3), (0, -1, 2, 1), (-2, 0, 1, -3)):
        known = ", ".join(map(str, pads))
        check(
            f"""(float[{declared}] x) => (float[a, b] y) <int64[4] p = {{{known}}}>
            {{ y = Pad<mode = "{mode}">(x, p) }}""",
            {"x": numbers(4, 5)},
            opset=19,
        )
    check(
        f'(float[{declared}] x, int64[4] p) => (float[a, b] y) {{ y = Pad<mode = "{mode}">(x, p) }}',
        *({"x": numbers(4, 5), "p": integers(*p)} for p in ((1, 2, 0, 3), (0, 0, 0, 0), (3, 0, 0, 4))),
        opset=19,
    )


def test_pad_with_attributes_and_value() -> None:
    check(
        "(float[n, 2] x) => (float[a, b] y) { y = Pad<pads = [1, 0, 0, -1], value = 2.5>(x) }",
        {"x": numbers(3, 2)},
        opset=10,
    )


def test_pad_of_some_axes() -> None:
    check(
        """(float[n, 2, m] x) => (float[a, b, c] y) <int64[4] p = {1, 0, 2, 3}, int64[2] axes = {-1, 0}>
        { y = Pad(x, p, , axes) }""",
        {"x": numbers(3, 2, 1)},
    )


# -- Range, ConstantOfShape, OneHot, Trilu, EyeLike ------------------------------------------------
@pytest.mark.parametrize("dtype", ["int64", "int32", "float", "double"])
def test_range_of_run_time_numbers(dtype: str) -> None:
    numpy = {"int64": np.int64, "int32": np.int32, "float": np.float32, "double": np.float64}[dtype]
    limits = [(0, 5, 1), (0, 5, 2), (5, 0, -2), (5, 5, 1), (3, -4, -3), (3, 9, -1), (-3, 9, 4)]
    check(
        f"({dtype} a, {dtype} b, {dtype} c) => ({dtype}[n] y) {{ y = Range(a, b, c) }}",
        *({k: np.array(v, numpy) for k, v in zip("abc", numbers_, strict=True)} for numbers_ in limits),
    )


def test_range_to_a_symbolic_size() -> None:
    module = check(
        """(float[n, m] x) => (int64[a] y) <int64 zero = {0}, int64 one = {1}>
        { s = Shape(x)  i = Constant<value_int = 1>()  m = Gather<axis = 0>(s, i)  y = Range(zero, m, one) }""",
        *({"x": numbers(2, m)} for m in (1, 5)),
    )
    assert mnemonics(module) == ["iota", "return"]


def test_constant_of_a_run_time_shape() -> None:
    check(
        "(int64[2] s) => (float[a, b] y) { y = ConstantOfShape<value = float[1] {2.5}>(s) }",
        *({"s": integers(*s)} for s in ((2, 3), (0, 1), (1, 1))),
    )


def test_one_hot_of_run_time_depth() -> None:
    check(
        "(int64[n] i, int64 d, float[2] v) => (float[a, b] y) { y = OneHot(i, d, v) }",
        *({"i": integers(0, 2, -1, 3), "d": np.int64(d), "v": np.array([-1, 1], np.float32)} for d in (4, 3, 6)),
    )


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu_of_symbolic_matrices(upper: int) -> None:
    check(
        f"(float[2, n, m] x, int64 k) => (float[a, b, c] y) {{ y = Trilu<upper = {upper}>(x, k) }}",
        *({"x": numbers(2, 3, 4), "k": np.int64(k)} for k in (-4, -1, 0, 2, 5)),
    )


def test_eye_like_a_symbolic_matrix() -> None:
    check("(float[n, m] x) => (int64[a, b] y) { y = EyeLike<dtype = 7, k = 1>(x) }", {"x": numbers(3, 4)})


# -- sizes that data decides -----------------------------------------------------------------------
def masks() -> Iterator[Array]:
    rng = np.random.default_rng(0)
    for density in (0.0, 0.4, 1.0):
        yield rng.random((3, 4)) < density


def test_non_zero() -> None:
    check("(bool[n, 4] x) => (int64[r, c] y) { y = NonZero(x) }", *({"x": m} for m in masks()))
    check(
        "(float[n] x) => (int64[r, c] y) { y = NonZero(x) }",
        {"x": np.array([0, -0.0, np.nan, 2, np.inf], np.float32)},
    )


def test_compress() -> None:
    check(
        "(float[n, 4] x, bool[k] c) => (float[a, b] y) { y = Compress<axis = 1>(x, c) }",
        *({"x": numbers(3, 4), "c": np.array(c)} for c in ([True, False, True], [False] * 4, [True] * 4)),
    )
    check(
        "(float[n, 4] x, bool[k] c) => (float[a] y) { y = Compress(x, c) }",
        {"x": numbers(3, 4), "c": np.arange(12) % 3 == 0},
    )


def test_top_k_of_a_run_time_count() -> None:
    x = np.array([[3, 1, 3, 2], [0, -1, 5, 5]], np.float32)
    check(
        "(float[n, 4] x, int64[1] k) => (float[a, b] v, int64[a, b] i) { v, i = TopK<axis = 1>(x, k) }",
        *({"x": x, "k": integers(k)} for k in (1, 3, 4)),
    )
    check(
        "(float[n, 4] x, int64[1] k) => (float[a, b] v, int64[a, b] i) { v, i = TopK<axis = 0, largest = 0>(x, k) }",
        {"x": x, "k": integers(1)},
    )


# -- indices ---------------------------------------------------------------------------------------
def test_gathers_with_negative_indices() -> None:
    check(
        "(float[n, 3] x, int64[2, 2] i) => (float[a, b, c] y) { y = Gather<axis = 0>(x, i) }",
        {"x": numbers(4, 3), "i": integers(0, -1, 3, -4).reshape(2, 2)},
    )
    check(
        "(float[n, 3] x, int64[2, 3] i) => (float[a, b] y) { y = GatherElements<axis = 0>(x, i) }",
        {"x": numbers(4, 3), "i": integers(0, -1, 3, -4, 1, 2).reshape(2, 3)},
    )
    check(
        "(float[n, 3, 2] x, int64[2, 1] i) => (float[a, b] y) { y = GatherND<batch_dims = 1>(x, i) }",
        {"x": numbers(2, 3, 2), "i": integers(-1, 1).reshape(2, 1)},
    )


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatters(reduction: str) -> None:
    check(
        f"""(float[n, 3] x, int64[1, 3] i, float[1, 3] u) => (float[a, b] y)
        {{ y = ScatterElements<axis = 0, reduction = "{reduction}">(x, i, u) }}""",
        {"x": numbers(4, 3), "i": integers(1, -1, 0).reshape(1, 3), "u": numbers(1, 3) * 3},
    )
    check(
        f"""(float[n, 3] x, int64[k, 1] i, float[k, 3] u) => (float[a, b] y)
        {{ y = ScatterND<reduction = "{reduction}">(x, i, u) }}""",
        {"x": numbers(4, 3), "i": integers(2, 0).reshape(2, 1), "u": numbers(2, 3) * 3},
    )


# -- forms of older opsets ---------------------------------------------------------------------------
def test_axes_and_counts_as_attributes() -> None:
    check(
        "(float[n, 1, 3] x) => (float[a, b, c] y) { s = Squeeze<axes = [-2]>(x)  y = Unsqueeze<axes = [0]>(s) }",
        *({"x": numbers(k, 1, 3)} for k in (1, 4)),
        opset=11,
    )
    check(
        "(float[n, 3] x) => (float[a, b] v, int64[a, b] i) { v, i = TopK<axis = 0, k = 2>(x) }",
        {"x": numbers(4, 3)},
        opset=9,
    )


def test_constants_in_every_spelling() -> None:
    module = import_model(
        model(
            """() => (float a, float[2] b, int64 c, int64[2] d)
            { a = Constant<value_float = 1.5>()  b = Constant<value_floats = [1.5, 2.5]>()
              c = Constant<value_int = 3>()  d = Constant<value_ints = [3, 4]>() }"""
        )
    )
    a, b, c, d = interpret(module, {})
    assert (a.dtype, a.shape, float(a)) == (np.float32, (), 1.5)
    assert (b.dtype, b.tolist()) == (np.float32, [1.5, 2.5])
    assert (c.dtype, c.shape, int(c)) == (np.int64, (), 3)
    assert (d.dtype, d.tolist()) == (np.int64, [3, 4])
    with pytest.raises(CompileError, match="'y' is a tensor of strings"):
        import_model(model('() => (string y) { y = Constant<value_string = "x">() }'))


@pytest.mark.parametrize("operator", ["Relu", "Neg"])
def test_no_elements_in_an_open_number_of_rows(operator: str) -> None:
    feeds = [{"x": np.zeros((rows, 0), np.float32)} for rows in (0, 1, 4)]
    check(f"(float[n, 0] x) => (float[n, 0] y) {{ y = {operator}(x) }}", *feeds)


def test_products_of_no_elements() -> None:
    """Their sums are zero."""
    x = [{"x": np.zeros((rows, 0), np.float32)} for rows in (0, 1, 4)]
    check("(float[n, 0] x) => (float[n, 5] y) <float[0, 5] w = {}> { y = MatMul(x, w) }", *x)
    check("(float[n, 0] x) => (float[n] y) <float[0] w = {}> { y = MatMul(x, w) }", *x)


def test_no_elements_of_an_open_shape() -> None:
    """Nothing is known of a reshaped empty tensor but that it is empty: its shape is open."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[n] x) => (float[a, b] y) <int64[1] zero = {0}> {
  n = Shape(x)
  none = ConstantOfShape(zero)
  shape = Concat<axis = 0>(n, zero)
  y = Reshape<allowzero = 1>(none, shape)
}""")
    for count in (3, 0):
        (y,) = interpret(import_model(model), {"x": np.zeros(count, np.float32)})
        assert y.shape == (count, 0)
