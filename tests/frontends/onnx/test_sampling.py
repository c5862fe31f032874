"""GridSample: ONNX's own cases, and random grids that reach far outside against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from ds_compiler import onnx_backend
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases


@pytest.mark.parametrize("case", node_cases("GridSample"))
def test_node(case: NodeCase) -> None:
    check_case(case)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_as_onnxruntime(mode: str, padding: str, aligned: int) -> None:
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 7, 5)).astype(np.float32)
    grid = rng.uniform(-2.5, 2.5, (2, 4, 6, 2)).astype(np.float32)
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding, align_corners=aligned)
    values = [helper.make_tensor_value_info(name, 1, a.shape) for name, a in (("x", x), ("grid", grid))]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", 1, (2, 3, 4, 6))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x, "grid": grid})
    (result,) = onnx_backend.run_model(model, [x, grid], cache=False)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5)
