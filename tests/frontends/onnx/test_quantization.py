"""Quantised operators: ONNX's own cases, and random tensors against exact integer arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from ds_compiler import onnx_backend
from ds_compiler.ir import CompileError
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases

Array = np.ndarray[Any, Any]
OPERATORS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv",
             "MatMulInteger", "ConvInteger")  # fmt: skip


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)


def _run(operator: str, *inputs: Array, **attributes: Any) -> Array:
    names = [f"x{i}" for i in range(len(inputs))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    result: Array = onnx_backend.run_node(node, list(inputs), cache=False, opset_version=21)[0]
    return result


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_integer_products_are_exact(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max + 1
    a = rng.integers(low, high, (3, 17, 70)).astype(dtype)
    b = rng.integers(low, high, (70, 33)).astype(dtype)
    rows, columns = (rng.integers(low, high, n).astype(dtype) for n in (17, 33))
    wide = a.astype(np.int64) - rows[:, None].astype(np.int64), b.astype(np.int64) - columns.astype(np.int64)
    np.testing.assert_array_equal(_run("MatMulInteger", a, b, rows, columns), wide[0] @ wide[1])


def test_integer_convolution_is_exact_and_pads_with_the_zero_point() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (2, 5, 9, 8), np.uint8)
    w = rng.integers(-128, 128, (6, 5, 3, 3)).astype(np.int8)
    zero, filters = np.uint8(131), rng.integers(-128, 128, 6).astype(np.int8)
    padded = np.pad(x.astype(np.int64) - int(zero), ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel = w.astype(np.int64) - filters.reshape(6, 1, 1, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, kernel)
    result = _run("ConvInteger", x, w, np.asarray(zero), filters, pads=[1, 1, 1, 1])
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_quantising_rounds_to_even_and_saturates(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    zero = dtype(limits.max // 2)
    x = np.array([-1e9, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.49, 1e9, np.inf, -np.inf], np.float32)
    expected = np.clip(np.round(np.clip(x, -1e6, 1e6)).astype(np.int64) + int(zero), limits.min, limits.max)
    np.testing.assert_array_equal(_run("QuantizeLinear", x, np.float32(1), np.asarray(zero)), expected)


def test_blocks_the_last_of_which_is_shorter() -> None:
    x = np.arange(21, dtype=np.int8).reshape(3, 7)
    scale = np.arange(1, 10, dtype=np.float32).reshape(3, 3)
    result = _run("DequantizeLinear", x, scale, axis=1, block_size=3)
    np.testing.assert_array_equal(result, x * np.repeat(scale, 3, 1)[:, :7])


def test_a_zero_point_of_another_type_is_an_error() -> None:
    with pytest.raises(CompileError, match="zero point is"):
        _run("DequantizeLinear", np.zeros(3, np.int8), np.float32(1), np.asarray(np.uint8(0)))
