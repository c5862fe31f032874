"""Sums over many products are as exact as those over a few hundred: no accumulator adds up all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import ds_compiler as ds

LENGTH = 4608
MOST = 6e-7
"""Relative error, root mean square; one sum over `LENGTH` normal numbers has 1.1e-6, over positive ones 1.0e-6."""


def random(kind: str, *shape: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(shape)
    return (rng.standard_normal(shape) if kind == "normal" else rng.uniform(0, 1, shape)).astype(np.float32)


def error(
    operator: str, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any], dims: list[Any], expected: Any, **how: Any
) -> float:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], **how)],
        "product",
        [helper.make_tensor_value_info("x", 1, dims)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(w, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (got,) = ds.compile(proto, threads=1, cache=False).run(None, {"x": x})
    return float(np.sqrt(np.mean((got.astype(np.float64) - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (3, 40), (32, 48), (48, 7)])
def test_matrix_products(kind: str, rows: int, columns: int) -> None:
    x, w = random(kind, rows, LENGTH), random(kind, LENGTH, columns)
    dims = [rows if rows < 32 else "rows", LENGTH]
    assert error("MatMul", x, w, dims, x.astype(np.float64) @ w) < MOST


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("taps", [1, 3])
def test_convolutions(kind: str, taps: int) -> None:
    """Of stride 2, which Winograd's algorithm does not take."""
    channels, size = LENGTH // taps**2, 5
    x, w = random(kind, 1, channels, size, size), random(kind, 16, channels, taps, taps)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *[(taps // 2, taps // 2)] * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps), (2, 3))[:, :, ::2, ::2]
    expected = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.float64))
    assert error("Conv", x, w, [1, channels, size, size], expected, strides=[2, 2], pads=[taps // 2] * 4) < MOST
