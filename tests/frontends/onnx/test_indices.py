"""Indices out of range are errors wherever onnxruntime has one, and what is in range (negative too) is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import ds_compiler as ds
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from ds_compiler.ops import Assume, Check
from ds_compiler.runtime import ExecutionError, InputError

Array = np.ndarray[Any, Any]
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}
X = np.arange(24, dtype=np.float32).reshape(4, 6)


def model(
    operator: str, inputs: dict[str, tuple[list[int | str], str]], constants: dict[str, Array], **attributes: Any
) -> ModelProto:
    """One node called ``look`` over `inputs` (shape, dtype) and `constants`, in the order x, i, u."""
    names = sorted([*inputs, *constants], key="xiu".index)
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], "look", **attributes)],
        "graph",
        [helper.make_tensor_value_info(n, TYPES[d], s) for n, (s, d) in inputs.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


CASES = {
    "Gather": ({"axis": 1}, [[0, -6], [5, 1]], 6, None),
    "GatherElements": ({"axis": 0}, [[0, -4, 3], [1, 2, -1]], 4, None),
    "GatherND": ({}, [[0, -6], [3, 5]], 6, None),
    "ScatterElements": ({"axis": 0}, [[0, -4, 3]], 4, [[7, 8, 9]]),
    "ScatterND": ({}, [[3], [-4]], 4, [[1] * 6, [2] * 6]),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("operator", CASES)
def test_indices_of_inputs(operator: str, dtype: str, threads: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    attributes, indices, size, updates = CASES[operator]
    if dtype == "int32" and operator.endswith("ND"):
        pytest.skip("positions of GatherND and ScatterND are int64")
    good = np.array(indices, dtype)
    inputs: dict[str, Array] = {"x": X, "i": good}
    if updates is not None:
        inputs["u"] = np.array(updates, np.float32)
    shapes = {n: (list(a.shape) if n != "x" else ["a", "b"], str(a.dtype)) for n, a in inputs.items()}
    proto = model(operator, shapes, {}, **attributes)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    program = ds.compile(proto, cache=False, threads=threads)
    np.testing.assert_array_equal(program(inputs)["y"], session.run(None, inputs)[0])
    for wrong in (size, -size - 1, 10**6):
        bad = good.copy()
        bad[0, -1] = wrong
        with pytest.raises(
            ExecutionError, match=rf"^look: {operator}: index of axis \d is out of range \[-., .(-1)?\]$"
        ):
            program({**inputs, "i": bad})
        with pytest.raises(Exception, match=r"node. Name:.look. Status Message: .*ind"):
            session.run(None, {**inputs, "i": bad})
    np.testing.assert_array_equal(program(inputs)["y"], session.run(None, inputs)[0])


@pytest.mark.parametrize("operator", CASES)
def test_known_indices_of_known_sizes(operator: str) -> None:
    attributes, indices, size, updates = CASES[operator]
    known = {"i": np.array(indices), **({} if updates is None else {"u": np.array(updates, np.float32)})}
    module = import_model(model(operator, {"x": ([4, 6], "float32")}, known, **attributes))
    assert not any(isinstance(op, Check | Assume) for op in module.main.walk())
    for wrong in (size, -size - 1):
        known["i"][0, -1] = wrong
        with pytest.raises(CompileError, match=rf"{operator}: index {wrong} of axis . is out of range .* at 'look'"):
            import_model(model(operator, {"x": ([4, 6], "float32")}, known, **attributes))


def test_known_indices_of_unknown_sizes() -> None:
    program = ds.compile(
        model("Gather", {"x": (["n", "m"], "float32")}, {"i": np.array([0, -4, 3])}, axis=0), cache=False
    )
    np.testing.assert_array_equal(program(x=X)["y"], X[[0, 0, 3]])
    with pytest.raises(InputError, match=r"look: Gather: index -4 of axis 0 is out of range \[-n, n-1\], got .*n = 3"):
        program(x=X[:3])


def test_known_indices_that_no_size_allows() -> None:
    graph = model("Gather", {"x": (["n", 4], "float32")}, {}, axis=0)
    graph.graph.node[0].input[:] = ["x", "size"]
    graph.graph.node.insert(0, helper.make_node("Shape", ["x"], ["shape"]))
    graph.graph.node.insert(1, helper.make_node("Slice", ["shape", "zero", "one"], ["size"]))
    graph.graph.initializer.extend([numpy_helper.from_array(np.array([v]), k) for k, v in (("zero", 0), ("one", 1))])
    with pytest.raises(CompileError, match=r"index n of axis 0 is out of range \[-n, n-1\]"):
        import_model(graph)


def produced(operator: str, *names: str, **attributes: Any) -> ModelProto:
    """``Gather(x [n, 6], i, axis=1)`` with ``i`` computed by `operator` from the inputs v [m, 6] f32 and k [m] i64."""
    proto = model("Gather", {"x": (["n", 6], "float32"), "i": ([1], "int64")}, {}, axis=1)
    del proto.graph.input[1]
    proto.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, ["m", 6]))
    proto.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, ["m"]))
    outputs = ["values", "i"] if operator == "TopK" else ["i"]
    proto.graph.node.insert(0, helper.make_node(operator, list(names), outputs, **attributes))
    values = {"zero": np.int64(0), "five": np.int64(5), "six": np.int64(6), "two": np.array([2]), "seven": np.int64(7)}
    proto.graph.initializer.extend([numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()])
    return proto


@pytest.mark.parametrize(
    ("operator", "names", "attributes", "checks"),
    [
        ("ArgMax", ["v"], {"axis": 1}, 0),
        ("ArgMax", ["v"], {"axis": 0}, 1),
        ("TopK", ["v", "two"], {"axis": 1}, 0),
        ("Mod", ["k", "six"], {}, 0),
        ("Mod", ["k", "seven"], {}, 1),
        ("Mod", ["k", "six"], {"fmod": 1}, 1),
        ("Clip", ["k", "zero", "five"], {}, 0),
        ("Clip", ["k", "zero", "six"], {}, 1),
        ("Clip", ["k", "zero"], {}, 1),
        ("Add", ["k", "zero"], {}, 1),
    ],
)
def test_indices_that_cannot_be_wrong_are_not_checked(
    operator: str, names: list[str], attributes: dict[str, Any], checks: int
) -> None:
    module = import_model(produced(operator, *names, **attributes))
    assert sum(isinstance(op, Check) for op in module.main.walk()) == checks


def test_gathers_with_equal_indices_share_a_check() -> None:
    proto = model("Gather", {"x": (["n", 6], "float32"), "i": (["m"], "int64")}, {}, axis=1)
    proto.graph.node.append(helper.make_node("Relu", ["x"], ["r"]))
    proto.graph.node.append(helper.make_node("Gather", ["r", "i"], ["z"], axis=1))
    proto.graph.output.append(helper.make_empty_tensor_value_info("z"))
    assert ds.compile(proto, cache=False).ir().count("  check ") == 1


@pytest.mark.parametrize("lengths", [[0, 4, 2], [1, 5, 1], [-1, 1, 1]])
def test_lengths_of_reversed_sequences(lengths: list[int]) -> None:
    proto = model(
        "ReverseSequence", {"x": (["t", "b"], "float32"), "i": (["b"], "int64")}, {}, time_axis=0, batch_axis=1
    )
    program = ds.compile(proto, cache=False)
    if min(lengths) >= 0 and max(lengths) <= 4:
        program(x=X[:, :3], i=np.array(lengths))
    else:
        with pytest.raises(ExecutionError, match=r"look: ReverseSequence: length of axis 0 is out of range \[0, t\]"):
            program(x=X[:, :3], i=np.array(lengths))
