"""Models with sequences, optionals, open ranks, or inputs whose values decide the program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser
from onnx.reference import ReferenceEvaluator

import ds_compiler as ds
from ds_compiler.specialized import SpecializedModel
from tests.cli.tiny import fails

Array = np.ndarray[Any, Any]


rng = np.random.default_rng(5)


def model(text: str) -> onnx.ModelProto:
    parsed = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    onnx.checker.check_model(parsed)
    return parsed


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    elif expected is None:
        assert found is None
    else:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


def compare(proto: onnx.ModelProto, feeds: dict[str, Any]) -> SpecializedModel:
    program = ds.compile(proto, cache=False)
    assert isinstance(program, SpecializedModel)
    expected = ReferenceEvaluator(proto).run(None, feeds)
    same(program.run(None, feeds), expected)
    return program


APPEND = """
agraph (seq(float) s, float[N, M] x, int64 at) => (seq(float) t, float[A, B] y, int64 n) {
    doubled = Add(x, x)
    t = SequenceInsert(s, doubled, at)
    y = ConcatFromSequence <axis = 0> (t)
    n = SequenceLength(t)
}
"""


def test_a_program_for_each_length_and_position() -> None:
    proto = model(APPEND)
    program = ds.compile(proto, cache=False)
    assert isinstance(program, SpecializedModel)
    for length, rows, at in [(2, 3, 0), (2, 5, 0), (3, 1, 0), (2, 3, -1), (1, 4, 0)]:
        feeds = {
            "s": [rng.normal(size=(i + 1, 4)).astype(np.float32) for i in range(length)],
            "x": rng.normal(size=(rows, 4)).astype(np.float32),
            "at": np.array(at),
        }
        same(program.run(None, feeds), ReferenceEvaluator(proto).run(None, feeds))
    assert len(program.programs) == 4  # sizes are open, so that 5 rows need no program of their own
    alone = program(s=[], x=np.ones((1, 4), np.float32), at=np.array(0))  # which the reference evaluator cannot do
    same(list(alone.values()), [[np.full((1, 4), 2, np.float32)], np.full((1, 4), 2, np.float32), np.array(1)])
    report = str(program.report())
    assert "5 programs" in report and "s: Items" in report and "at: Fixed" in report


def test_a_loop_that_collects_a_sequence() -> None:
    proto = model("""
agraph (float[N] x, int64 trips) => (seq(float) out, float[T, N] rows) {
    start = SequenceEmpty()
    yes = Constant <value_int = 1> ()
    go = Cast <to = 9> (yes)
    out, rows = Loop (trips, go, start) <
        body = step (int64 i, bool c, seq(float) s) => (bool d, seq(float) t, float[N] r) {
        d = Identity(c)
        f = Cast <to = 1> (i)
        r = Mul(x, f)
        t = SequenceInsert(s, r)
    }>
}
""")
    x = rng.normal(size=3).astype(np.float32)
    program = compare(proto, {"x": x, "trips": np.array(4)})
    found = program(x=x, trips=np.array(2))
    same(found["out"], [x * 0, x * 1])
    with pytest.raises(ds.CompileError, match="unknown size in no iteration"):
        program(x=x, trips=np.array(0))


def test_optionals() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
    maybe = helper.make_optional_type_proto(tensor)
    then = helper.make_graph(
        [helper.make_node("OptionalGetElement", ["o"], ["held"]), helper.make_node("Neg", ["held"], ["then_y"])],
        "then", [], [helper.make_tensor_value_info("then_y", TensorProto.FLOAT, ["N"])],
    )  # fmt: skip
    orelse = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["else_y"])],
        "else", [], [helper.make_tensor_value_info("else_y", TensorProto.FLOAT, ["N"])],
    )  # fmt: skip
    nodes = [
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
        helper.make_node("If", ["has"], ["y"], then_branch=then, else_branch=orelse),
        helper.make_node("Identity", ["o"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes,
        "optionals",
        [helper.make_value_info("o", maybe), helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"]), helper.make_value_info("p", maybe)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    x, held = rng.normal(size=5).astype(np.float32), rng.normal(size=7).astype(np.float32)
    program = ds.compile(proto, cache=False)
    same(list(program(o=held, x=x).values()), [-held, held])
    same(list(program(o=None, x=x).values()), [x, None])
    same(list(program(x=x).values()), [x, None])
    with pytest.raises(ds.CompileError, match="the optional holds nothing"):
        ds.compile(_reads_nothing(), cache=False)


def _reads_nothing() -> onnx.ModelProto:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    nodes = [helper.make_node("Optional", [], ["o"], type=kind), helper.make_node("OptionalGetElement", ["o"], ["y"])]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_open_ranks_and_axes_among_the_inputs() -> None:
    proto = model("agraph (float[A, B, C] x, int64[K] axes) => (float[P, Q, R] y) { y = ReduceSum(x, axes) }")
    program = compare(proto, {"x": rng.integers(-5, 5, (2, 3, 4)).astype(np.float32), "axes": np.array([1])})
    assert len(program.programs) == 1
    x = rng.integers(-5, 5, (3, 3, 2)).astype(np.float32)
    same(program(x=x, axes=np.array([0, 2]))["y"], x.sum((0, 2), keepdims=True))
    assert len(program.programs) == 2

    free = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "open rank",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    program = ds.compile(helper.make_model(free, opset_imports=[helper.make_opsetid("", 21)]), cache=False)
    for shape in [(), (3,), (2, 0, 4)]:
        same(program(x=np.ones(shape, np.float32))["y"], -np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("feeds", "what"),
    [
        ({"s": [], "x": np.ones((1, 4), np.float32)}, "input 'at' is missing"),
        ({"s": [], "x": np.ones((1, 4), np.float32), "at": np.array(0), "z": 1}, "unknown input 'z'"),
        ({"s": ["a"], "x": np.ones((1, 4), np.float32), "at": np.array(0)}, "SequenceInsert"),
        ({"s": [np.ones((1, 4), np.float32)], "x": np.ones((1, 4), np.float32), "at": np.array(2)}, "out of range"),
        ({"s": [np.ones((1, 4))], "x": np.ones((1, 4), np.float32), "at": np.array(0)}, "does not go into"),
    ],
)
def test_errors(feeds: dict[str, Any], what: str) -> None:
    program = ds.compile(model(APPEND), cache=False)
    with pytest.raises((ds.CompileError, ds.InputError), match=what):
        program(feeds)


def test_no_artifact_and_no_command(tmp_path: Path) -> None:
    onnx.save(model(APPEND), tmp_path / "append.onnx")
    assert "output 't' is declared as sequence" in fails("run", tmp_path / "append.onnx")
    program = ds.compile(model(APPEND), cache=False)
    assert isinstance(program, SpecializedModel)
    with pytest.raises(ds.CompileError, match="output 't' is declared as sequence"):
        program.save(tmp_path / "x.dsa")
    assert not (tmp_path / "x.dsa").exists()


def test_the_cache_keeps_programs_apart(tmp_path: Path) -> None:
    feeds = {"s": [np.ones((1, 4), np.float32)], "x": np.ones((1, 4), np.float32), "at": np.array(0)}
    first, second = (ds.compile(model(APPEND), cache=tmp_path / "cache") for _ in range(2))
    for position in (0, 1):
        for program in (first, second):
            inserted = program({**feeds, "at": np.array(position)})["t"][position]
            same(inserted, 2 * feeds["x"])
    assert [p.report().cached for p in first.programs] == [False, False]
    assert [p.report().cached for p in second.programs] == [True, True]
