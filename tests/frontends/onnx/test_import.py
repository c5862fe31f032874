"""Small graphs against ONNX's reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import parser
from onnx.reference import ReferenceEvaluator

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import Module
from ds_compiler.reference import interpret

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def check(text: str, **inputs: Any) -> Module:
    """Import `text`, compare with ONNX's reference evaluator."""
    model = parser.parse_model(HEADER + text)
    module = import_model(model)
    expected = ReferenceEvaluator(model).run(None, inputs)
    for ours, theirs in zip(interpret(module, inputs), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return module


def names(module: Module) -> list[str]:
    return [op.mnemonic for op in module.walk()]


def test_matmul_add() -> None:
    rng = np.random.default_rng(0)
    module = check(
        """g (float[batch, 4] x) => (float[batch, 2] y)
        <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] b = {1, -1}>
        { t = MatMul(x, w)  y = Add(t, b) }""",
        x=rng.standard_normal((3, 4)).astype(np.float32),
    )
    assert names(module) == ["constant", "dot_general", "constant", "broadcast", "add", "return"]
    assert module.main.arguments[0].hint == "x"
    assert module.main.result_names == ["y"]
    assert str(module.main.result_types[0]) == "tensor<batch x 2 x f32>"


def test_input_size_below_zero_is_unknown() -> None:
    model = parser.parse_model(HEADER + "g (float[1, 3] x) => (float[1, 3] y) { y = Neg(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert str(import_model(model).main.result_types[0]) == "tensor<x_d0 x 3 x f32>"
