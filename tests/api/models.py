"""Small ONNX models for tests of the public API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.cli.tiny import floats, model, perceptron, perceptron_in_numpy, save

__all__ = [
    "external",
    "floats",
    "model",
    "odd_names",
    "perceptron",
    "perceptron_in_numpy",
    "save",
    "two_outputs",
    "x_of",
]


def x_of(batch: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """An input of `perceptron`."""
    return np.random.default_rng(seed).standard_normal((batch, 8)).astype(np.float32)


def odd_names() -> onnx.ModelProto:
    """``data/0:in`` negated is ``out.put 1``: names that are no identifiers."""
    return model(
        [helper.make_node("Neg", ["data/0:in"], ["out.put 1"])], [floats("data/0:in", "n")], [floats("out.put 1", "n")]
    )


def two_outputs() -> onnx.ModelProto:
    """``sum`` and ``product`` of a [n, 3] and b [3], and a graph name."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])]
    return model(nodes, [floats("a", "n", 3), floats("b", 3)], [floats("sum", "n", 3), floats("product", "n", 3)])


def external(folder: Path) -> Path:
    """`perceptron` with its weight in a file beside it."""
    path = folder / "outside.onnx"
    onnx.save(perceptron(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path
