"""Small ONNX models built in the test, and running commands on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from ds_compiler.cli import dsc

OPSET = 17


def run(*arguments: object, code: int = 0) -> Result:
    """Run ``dsc`` in this process; the exit code must be `code`."""
    result = CliRunner().invoke(dsc, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"exit code {result.exit_code}\n{result.stdout}\n{result.stderr}"
    return result


def fails(*arguments: object, code: int = 2) -> str:
    """Run ``dsc``, which must fail with one line on stderr and no traceback; returns the text after ``error: ``."""
    result = run(*arguments, code=code)
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert result.stdout == ""
    return lines[0].removeprefix("error: ")


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A model of these parts."""
    constants = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def perceptron() -> onnx.ModelProto:
    """``tanh(x @ w)`` squared, minus ``x @ w``; x is [batch, 8]."""
    weights = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node("Tanh", ["m"], ["t"], name="act"),
        helper.make_node("Mul", ["t", "t"], ["s"], name="square"),
        helper.make_node("Sub", ["s", "m"], ["y"], name="difference"),
    ]
    return model(nodes, [floats("x", "batch", 8)], [floats("y", "batch", 4)], {"w": weights})


def perceptron_in_numpy(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What `perceptron` computes, in float64."""
    product = x.astype(np.float64) @ numpy_helper.to_array(perceptron().graph.initializer[0]).astype(np.float64)
    return np.asarray(np.tanh(product) ** 2 - product)


def save(proto: onnx.ModelProto, folder: Path, name: str = "tiny.onnx") -> Path:
    path = folder / name
    onnx.save(proto, path)
    return path
