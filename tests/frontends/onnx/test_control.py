"""If, Loop and Scan (opset 9 on) against onnxruntime; the sizes that branches and iterations change; assumed sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError, Module
from ds_compiler.ir.verifier import verify
from ds_compiler.reference import interpret
from ds_compiler.runtime import InputError
from tests.frontends.onnx.native import executables
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


@pytest.mark.parametrize("case", node_cases("If", "Scan", "Loop"))
def test_node(case: NodeCase) -> None:
    check_case(case)


def check(text: str, *inputs: dict[str, Any]) -> Module:
    """Import `text`; interpreted and compiled, it must agree with onnxruntime for all `inputs`."""
    model = parser.parse_model(HEADER + text)
    module = import_model(model)
    verify(module)
    programs = executables(module, 1, 2)
    for arrays in inputs:
        expected = reference(model, arrays)
        for results in (interpret(module, arrays), *(p.run(None, arrays) for p in programs)):
            for ours, theirs in zip(results, expected, strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return module


def reference(model: ModelProto, arrays: dict[str, Any]) -> list[Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, arrays))


def names(module: Module) -> list[str]:
    return [op.mnemonic for op in module.walk()]


def vector(count: int) -> Any:
    return np.arange(1, count + 1, dtype=np.float32)


YES, NO = np.array(True), np.array(False)


# -- If ---------------------------------------------------------------------------------------
def test_if_takes_a_branch_at_run_time() -> None:
    module = check(
        """g (bool c, float[n] x) => (float[n] y) {
          y = If(c) <then_branch = a () => (float[n] p) { p = Exp(x) },
                     else_branch = b () => (float[n] q) { q = Neg(x) }>
        }""",
        {"c": YES, "x": vector(3)},
        {"c": NO, "x": vector(1)},
    )
    assert names(module).count("if") == 1


def test_if_with_a_known_condition_is_the_branch() -> None:
    module = check(
        """g (float[n] x) => (float[n] y) <bool c = {1}> {
          y = If(c) <then_branch = a () => (float[n] p) { p = Exp(x) },
                     else_branch = b () => (float[n] q) { q = Neg(x) }>
        }""",
        {"x": vector(3)},
    )
    assert names(module) == ["exp", "return"]


def test_if_with_branches_of_different_sizes() -> None:
    module = check(
        """g (bool c, float[n] x, float[m] z) => (float[k] y, float[k] t) {
          y, s = If(c) <then_branch = a () => (float[i] p, float[i] p2) { p = Exp(x) p2 = Neg(x) },
                        else_branch = b () => (float[j] q, float[j] q2) { q = Neg(z) q2 = Exp(z) }>
          t = Add(y, s)
        }""",
        {"c": YES, "x": vector(3), "z": vector(2)},
        {"c": NO, "x": vector(3), "z": vector(2)},
    )
    assert names(module).count("bind") == 2  # one symbol, bound by both branches


def test_branches_must_yield_one_element_type() -> None:
    text = """g (bool c, float[n] x) => (float[n] y) {
      y = If(c) <then_branch = a () => (float[n] p) { p = Exp(x) },
                 else_branch = b () => (bool[n] q) { q = IsNaN(x) }>
    }"""
    with pytest.raises(CompileError, match=r"If: the branches yield tensor<n x f32> and tensor<n x bool>"):
        import_model(parser.parse_model(HEADER + text))


def test_if_inside_of_if_reads_outer_values() -> None:
    text = """g (bool c, bool d, float[n] x) => (float[n] y) {
      e = Exp(x)
      y = If(c) <then_branch = a () => (float[n] p) {
            f = Neg(e)
            p = If(d) <then_branch = a2 () => (float[n] p2) { p2 = Add(f, x) },
                       else_branch = b2 () => (float[n] q2) { q2 = Identity(e) }>
          },
          else_branch = b () => (float[n] q) { q = Identity(x) }>
    }"""
    check(text, *({"c": c, "d": d, "x": vector(2)} for c in (YES, NO) for d in (YES, NO)))


# -- Loop -------------------------------------------------------------------------------------
def test_loop_with_a_known_trip_count_is_a_scan() -> None:
    module = check(
        """g (float[n] x) => (float[n] y, float[t, n] s) <int64 m = {4}, bool c = {1}> {
          y, s = Loop(m, c, x) <body = b (int64 i, bool ci, float[n] a) => (bool co, float[n] r, float[n] o) {
            co = Identity(ci)
            k = CastLike(i, a)
            r = Add(a, k)
            o = Mul(r, a)
          }>
        }""",
        {"x": vector(3)},
        {"x": vector(1)},
    )
    assert "scan" in names(module) and "while" not in names(module)


def test_loop_with_a_trip_count_from_data() -> None:
    text = """g (int64 m, float[n] x) => (float[n] y, float[t, n] s) {
      y, s = Loop(m, , x) <body = b (int64 i, bool ci, float[n] a) => (bool co, float[n] r, float[n] o) {
        co = Identity(ci)
        r = Add(a, x)
        o = Neg(r)
      }>
    }"""
    module = check(text, {"m": np.array(3), "x": vector(2)})
    last, stacked = interpret(module, {"m": np.array(0), "x": vector(3)})
    np.testing.assert_array_equal(last, vector(3))
    assert stacked.shape == (0, 3)


COUNTING = """
  BODY = Loop(M, COND, x) <body = b (int64 i, bool ci, float a) => (bool co, float r STACKED) {
    r = Add(a, a)
    STACK
    co = Less(r, limit)
  }>
"""


@pytest.mark.parametrize("limit", ["m", ""])
def test_loop_that_ends_by_its_condition(limit: str) -> None:
    body = COUNTING.replace("BODY", "y").replace(" STACKED", "").replace("STACK", "").replace("M,", f"{limit},")
    text = "g (int64 m, bool c, float x) => (float y) <float limit = {50}> {" + body.replace("COND", "c") + "}"
    module = check(
        text,
        *({"m": np.array(m), "c": c, "x": np.array(1, np.float32)} for m in (3, 20, 0) for c in (YES, NO)),
    )
    assert "while" in names(module)


def test_loop_that_ends_by_its_condition_and_stacks() -> None:
    body = COUNTING.replace("BODY", "y, s").replace(" STACKED", ", float o").replace("STACK", "o = Neg(r)")
    text = (
        "g (int64 m, float x) => (float y, float[t] s) <float limit = {50}> {"
        + body.replace("M,", "m,").replace("COND", "")
        + "}"
    )
    check(text, *({"m": np.array(m), "x": np.array(1, np.float32)} for m in (3, 20, 0)))


def test_loop_that_runs_no_iteration() -> None:
    text = """g (float[n] x) => (float[n] y) <int64 m = {4}, bool c = {0}> {
      y = Loop(m, c, x) <body = b (int64 i, bool ci, float[n] a) => (bool co, float[n] r) {
        co = Identity(ci)
        r = Add(a, a)
      }>
    }"""
    check(text, {"x": vector(3)})


def test_endless_loop_is_an_error() -> None:
    text = """g (float[n] x) => (float[n] y) <bool c = {1}> {
      y = Loop(, c, x) <body = b (int64 i, bool ci, float[n] a) => (bool co, float[n] r) {
        co = Identity(ci)
        r = Add(a, a)
      }>
    }"""
    with pytest.raises(CompileError, match="Loop: has no trip count, and its condition is always true"):
        import_model(parser.parse_model(HEADER + text))


GROWING = """g (COUNT float[n] x) => (float[k] y) <int64 one = {1}, int64[1] two = {2} INIT> {
  y = Loop(m, , x) <body = b (int64 i, bool ci, float[p] a) => (bool co, float[q] r) {
    co = Identity(ci)
    d = Neg(a)
    r = Concat <axis = 0> (x, d)
  }>
}"""


def test_loop_whose_value_grows_a_known_number_of_times_is_unrolled() -> None:
    text = GROWING.replace("COUNT", "").replace("INIT", ", int64 m = {3}")
    module = check(text, {"x": vector(2)}, {"x": vector(1)})
    assert not {"scan", "while"} & set(names(module))
    assert str(module.main.result_types[0]) == "tensor<4*n x f32>"


def test_loop_whose_value_grows() -> None:
    text = GROWING.replace("COUNT", "int64 m,").replace("INIT", "")
    check(text, *({"m": np.array(m), "x": vector(n)} for m, n in ((3, 2), (1, 1), (0, 4))))


def test_loop_whose_value_shrinks_until_it_is_short() -> None:
    text = """g (float[n] x) => (float[k] y) <int64[1] start = {1}, int64[1] last = {9}, int64 four = {4}> {
      y = Loop(, , x) <body = b (int64 i, bool ci, float[p] a) => (bool co, float[q] r) {
        r = Slice(a, start, last)
        s = Size(r)
        co = Greater(s, four)
      }>
    }"""
    check(text, {"x": vector(9)}, {"x": vector(7)}, {"x": vector(2)}, {"x": vector(1)})


def test_loop_whose_values_grow_and_change_places() -> None:
    text = """g (int64 m, float[n] x) => (float[k] y, float[l] z) {
      e = Exp(x)
      y, z = Loop(m, , x, e) <body = t (int64 i, bool ci, float[p] a, float[q] b) => (bool co, float[r] c, float[s] d) {
        co = Identity(ci)
        c = Concat <axis = 0> (b, x)
        d = Identity(a)
      }>
    }"""
    check(text, *({"m": np.array(m), "x": vector(n)} for m, n in ((5, 2), *[(2, 3)] * 20, (1, 1), (0, 4))))


def test_loop_whose_value_grows_inside_of_a_loop() -> None:
    text = """g (int64 m, float[n] x) => (float total) <int64 three = {3}, float zero = {0}> {
      total = Loop(three, , zero) <body = o (int64 i, bool ci, float sum) => (bool co, float next) {
        co = Identity(ci)
        y = Loop(m, , x) <body = t (int64 j, bool cj, float[p] a) => (bool ck, float[r] c) {
          ck = Identity(cj)
          c = Concat <axis = 0> (a, x)
        }>
        s = ReduceSum <keepdims = 0> (y)
        next = Add(sum, s)
      }>
    }"""
    check(text, *({"m": np.array(m), "x": vector(n)} for m, n in ((4, 2), (1, 5), (0, 3))))


# -- Scan -------------------------------------------------------------------------------------
SCAN = """g (float[n] init, float[t, n] xs, float[n, t] zs) => (float[n] y, float[a, b] s, float[c, d] r) {
  y, s, r = Scan(init, xs, zs) <num_scan_inputs = 2, scan_input_axes = [0, 1], scan_output_axes = [1, 0],
    scan_input_directions = INTO, scan_output_directions = OUT,
    body = b (float[n] h, float[n] x, float[n] z) => (float[n] h2, float[n] o, float[n] p) {
      u = Mul(x, z)
      h2 = Add(h, u)
      o = Neg(h2)
      p = Exp(x)
    }>
}"""


@pytest.mark.parametrize("into", ["[0, 0]", "[1, 1]", "[0, 1]"])
@pytest.mark.parametrize("out", ["[0, 0]", "[1, 1]", "[1, 0]"])
def test_scan(into: str, out: str) -> None:
    rng = np.random.default_rng(0)
    sizes = ((4, 3), (1, 2), (2, 1))
    check(
        SCAN.replace("INTO", into).replace("OUT", out),
        *(
            {
                "init": vector(n),
                "xs": rng.standard_normal((t, n)).astype(np.float32),
                "zs": rng.standard_normal((n, t)).astype(np.float32),
            }
            for t, n in sizes
        ),
    )


# -- sizes that meet --------------------------------------------------------------------------
MEETING = """g (float[n] x) => (float[k] y) <int64[1] two = {2}> {
  n = Shape(x)
  half = Div(n, two)
  even = Mul(half, two)
  zeros = ConstantOfShape(SIZE)
  y = Add(x, zeros)
}"""


def test_sizes_of_one_symbol_that_meet_are_assumed_equal() -> None:
    text = MEETING.replace("SIZE", "even")
    module = check(text, {"x": vector(4)}, {"x": vector(2)})
    assert names(module).count("assume") == 1
    with pytest.raises(CompileError, match=r"n and 2\*floordiv\(n, 2\) must be equal, they are 5 and 4"):
        interpret(module, {"x": vector(5)})
    with pytest.raises(InputError, match=r"n and 2\*floordiv\(n, 2\) must be equal, got n = 5"):
        executables(module)[0](x=vector(5))


def test_equal_sizes_are_not_assumed() -> None:
    module = check(MEETING.replace("SIZE", "n"), {"x": vector(4)}, {"x": vector(5)})
    assert "assume" not in names(module)


def test_if_on_sizes_is_decided_at_run_time() -> None:
    text = """g (float[n] x) => (float[k] y) <int64 three = {3}, int64[1] one = {1}> {
      n = Size(x)
      c = Greater(n, three)
      y = If(c) <then_branch = a () => (float[i] p) { p = Concat <axis = 0> (x, x) },
                 else_branch = b () => (float[j] q) { q = Neg(x) }>
    }"""
    check(text, {"x": vector(3)}, {"x": vector(4)})


def test_branches_of_different_ranks_need_a_comparison_of_sizes() -> None:
    text = """g (bool c, float[n, 1] x) => (float[k] y) <int64[1] one = {1}> {
      y = If(c) <then_branch = a () => (float[i] p) { p = Squeeze(x, one) },
                 else_branch = b () => (float[i, 1] q) { q = Neg(x) }>
    }"""
    with pytest.raises(CompileError, match=r"If: the branches' results differ in rank.*at 'If_0'.*fix the sizes"):
        import_model(parser.parse_model(HEADER + text))


@pytest.mark.parametrize("condition", ["c = Equal(m, one)", "e = Equal(one, m) f = Not(e) c = Not(f)"])
def test_branch_that_drops_an_axis_assumes_its_size(condition: str) -> None:
    text = f"""g (float[n, m] x) => (float[n] y) <int64[1] one = {{1}}, int64[1] axis = {{1}}, int64 place = {{1}}> {{
      s = Shape(x)
      m = Gather(s, axis)
      {condition}
      y = If(c) <then_branch = a () => (float[i] p) {{ p = Squeeze(x, axis) }},
                 else_branch = b () => (float[i, j] q) {{ q = Neg(x) }}>
    }}"""
    module = check(text, {"x": np.ones((3, 1), np.float32)})
    assert names(module) == ["assume", "reshape", "return"]
    with pytest.raises(InputError, match=r"must be equal, got m = 2 \(axis 1 of 'x'\)"):
        executables(module)[0](x=np.ones((3, 2), np.float32))
