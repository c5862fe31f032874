"""Sizes beyond any memory: an error that names the node when the model is compiled or run, never a crash."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import ds_compiler as ds
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from ds_compiler.runtime import ExecutionError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ONE = np.ones(1, np.float32)


def model(operator: str, names: list[str], inputs: dict[str, tuple[int, list[Any]]], **constants: Any) -> ModelProto:
    """One node called ``huge``; an empty name is an input that is left out."""
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], "huge")],
        "graph",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("operator", "names", "shape", "constants"),
    [
        ("ConstantOfShape", ["s"], None, {"s": [2**21, 2**20]}),
        ("Expand", ["x", "s"], [1], {"s": [2**21, 2**20]}),
        ("Tile", ["x", "s"], [1, 1], {"s": [2**21, 2**20]}),
        ("Range", ["a", "b", "c"], None, {"a": 0, "b": 2**41, "c": 1}),
        ("Pad", ["x", "p"], [1], {"p": [0, 2**41]}),
        ("Resize", ["x", "", "s"], [1, 1, 4, 4], {"s": np.array([1, 1, 1e6, 1e6], np.float32)}),
    ],
)
def test_known_sizes(operator: str, names: list[str], shape: list[int] | None, constants: dict[str, Any]) -> None:
    inputs = {} if shape is None else {"x": (FLOAT, shape)}
    with pytest.raises(CompileError, match=rf"elements: too large for any memory; at 'huge' \({operator}\)"):
        import_model(model(operator, names, inputs, **constants))


@pytest.mark.parametrize("shape", [[2**40, -1], [2**62, 4, -1]])
def test_reshape_says_what_does_not_divide(shape: list[int]) -> None:
    with pytest.raises(CompileError, match=r"the 12 elements of \[3, 4\] have no shape .* does not divide them"):
        import_model(model("Reshape", ["x", "s"], {"x": (FLOAT, [3, 4])}, s=shape))


@pytest.mark.parametrize("sizes", [[2**21, 2**20], [2**40, 2**40], [2**31, 2**31], [2**32, 2**32], [2**62, 2]])
@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand"])
def test_sizes_from_data(operator: str, sizes: list[int]) -> None:
    names = ["s"] if operator == "ConstantOfShape" else ["x", "s"]
    inputs = {n: (INT64, [2]) if n == "s" else (FLOAT, [1]) for n in names}
    program = ds.compile(model(operator, names, inputs), cache=False)
    arrays = {"s": np.array([2, 3]), "x": ONE}
    assert program({n: arrays[n] for n in names})["y"].shape == (2, 3)
    with pytest.raises(ExecutionError, match=r"^huge: out of memory for 4\*\S+\*\S+ bytes$"):
        program({n: arrays[n] for n in names} | {"s": np.array(sizes)})
    assert program({n: arrays[n] for n in names})["y"].shape == (2, 3)


def test_outputs_and_intermediate_values() -> None:
    count = 2**19
    arrays = {"x": np.ones((count, 1), np.float32), "z": np.ones((1, count), np.float32)}
    proto = model("MatMul", ["x", "z"], {"x": (FLOAT, ["n", 1]), "z": (FLOAT, [1, "m"])})
    bytes_ = 4 * count * count
    with pytest.raises(ExecutionError, match=rf"output 'y': out of memory for f32\[{count},{count}\], {bytes_} bytes"):
        ds.compile(proto, cache=False)(arrays)
    proto.graph.node.append(helper.make_node("CumSum", ["y", "zero"], ["c"]))
    proto.graph.node.append(helper.make_node("ReduceSum", ["c"], ["total"]))
    proto.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("total"))
    proto.graph.initializer.append(numpy_helper.from_array(np.int64(0), "zero"))
    with pytest.raises(ExecutionError, match=r"out of memory for intermediate values: cannot allocate \d{13,} bytes"):
        ds.compile(proto, cache=False)(arrays)
