"""One operator with symbolic sizes, imported once, against onnxruntime at each of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import Module
from ds_compiler.reference import interpret
from tests.frontends.onnx.node_cases import NodeCase

Array = np.ndarray[Any, Any]


def single_node(
    operator: str,
    shapes: Sequence[Sequence[int | str]],
    constants: Mapping[int, Any] | None = None,
    *,
    outputs: int = 1,
    opset: int = 20,
    dtype: int = TensorProto.FLOAT,
    **attributes: Any,
) -> ModelProto:
    """A model of one node.

    Args:
        shapes: of the leading inputs ``x0``, ``x1`` …; strings are symbols.
        constants: further inputs by their position; positions in between are left out.
    """
    constants = constants or {}
    count = max(len(shapes), *(i + 1 for i in constants)) if constants else len(shapes)
    names = [f"x{i}" if i < len(shapes) or i in constants else "" for i in range(count)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, results, "node", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i, shape in enumerate(shapes)],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [numpy_helper.from_array(np.asarray(value), f"x{i}") for i, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def check_sizes(model: ModelProto, *sizes: Mapping[str, int], rtol: float = 1e-5, atol: float = 1e-5) -> Module:
    """Import once; at each of `sizes`, results on random numbers are onnxruntime's, shapes and types too."""
    onnxruntime = pytest.importorskip("onnxruntime")
    module = import_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    constants = {tensor.name for tensor in model.graph.initializer}
    for values in sizes:
        feed = {}
        for value in model.graph.input:
            if value.name not in constants:
                dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                shape = [values[d.dim_param] if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
                feed[value.name] = np.asarray(rng.standard_normal(shape)).astype(dtype)
        for ours, theirs in zip(interpret(module, feed), session.run(None, feed), strict=True):
            assert ours.shape == np.shape(theirs), values
            assert ours.dtype == np.asarray(theirs).dtype
            np.testing.assert_allclose(ours, theirs, rtol, atol, err_msg=str(values))
    return module


def with_constants(case: NodeCase, *names: str) -> NodeCase:
    """The case with the inputs `names` made constants, as exporters write them."""
    model = ModelProto()
    model.CopyFrom(case.model)
    kept = []
    for value, array in zip(case.model.graph.input, case.inputs, strict=True):
        if value.name in names:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
        else:
            kept.append(array)
    return replace(case, model=model, inputs=tuple(kept))
