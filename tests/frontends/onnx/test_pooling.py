"""Pooling: ONNX's own cases, and every kind of padding with symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from ds_compiler.frontends.onnx import import_model
from ds_compiler.reference import interpret
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import check_sizes, single_node, with_constants

OPERATORS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "MaxPool")
PLANES = tuple({"n": 1 + h % 2, "h": h, "w": w} for h, w in [(7, 8), (8, 9), (9, 10), (12, 7)])


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)


@pytest.mark.parametrize("operator", ["AveragePool", "LpPool", "MaxPool"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
def test_auto_pad(operator: str, auto_pad: str, strides: list[int]) -> None:
    model = single_node(
        operator, [["n", 3, "h", "w"]], opset=18, kernel_shape=[3, 2], auto_pad=auto_pad, strides=strides
    )
    check_sizes(model, *PLANES)


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [3, 2]])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "AveragePool with padding"])
def test_ceil_mode(operator: str, pads: list[int], strides: list[int], ceil_mode: int) -> None:
    operator, _, counted = operator.partition(" ")
    more = {"count_include_pad": 1} if counted else {}
    model = single_node(
        operator, [["n", 3, "h", "w"]], kernel_shape=[3, 2], ceil_mode=ceil_mode, strides=strides, pads=pads, **more
    )
    check_sizes(model, *PLANES)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("storage_order", [0, 1])
def test_positions(rank: int, storage_order: int) -> None:
    shape = ["n", 3, "h", "w", 5][: rank + 2]
    model = single_node(
        "MaxPool",
        [shape],
        outputs=2,
        kernel_shape=[3] * rank,
        strides=[2] * rank,
        pads=[1] * (2 * rank),
        storage_order=storage_order,
    )
    check_sizes(model, *PLANES)


def test_dilated() -> None:
    model = single_node(
        "MaxPool", [["n", 3, "h", "w"]], kernel_shape=[3, 2], dilations=[2, 3], ceil_mode=1, strides=[2, 1]
    )
    check_sizes(model, *PLANES)


def test_global() -> None:
    for operator in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        check_sizes(single_node(operator, [["n", 3, "h", "w"]]), *PLANES)


def test_ceil_mode_counts_stated_padding() -> None:
    """The last window holds one element of the tensor, one of the padding and one that is neither."""
    module = import_model(
        single_node(
            "AveragePool", [[1, 1, 4]], kernel_shape=[3], strides=[3], pads=[0, 1], ceil_mode=1, count_include_pad=1
        )
    )
    (result,) = interpret(module, [np.array([[[1, 2, 3, 4]]], np.float32)])
    np.testing.assert_array_equal(result, [[[2, 2]]])


@pytest.mark.parametrize("case", node_cases("MaxUnpool"))
def test_unpool(case: NodeCase) -> None:
    check_case(with_constants(case, "output_shape"))


def test_unpool_undoes_pooling() -> None:
    """The largest elements come back to where they were."""
    windows = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pool = import_model(single_node("MaxPool", [["n", 3, "h", "w"]], outputs=2, **windows))
    x = np.random.default_rng(0).uniform(1, 2, (2, 3, 6, 8)).astype(np.float32)
    largest, positions = interpret(pool, [x])
    model = single_node("MaxUnpool", [["n", 3, "h", "w"], ["n", 3, "h", "w"]], **windows)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    (back,) = interpret(import_model(model), [largest, positions])
    kept = back != 0
    assert kept.sum() == largest.size
    np.testing.assert_array_equal(back[kept], x[kept])
