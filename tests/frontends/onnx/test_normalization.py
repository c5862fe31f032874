"""Normalization: ONNX's own cases, symbolic sizes, and the shape of what is emitted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds_compiler.frontends.onnx import import_model
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import check_sizes, single_node

OPERATORS = (
    "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization",
)  # fmt: skip
PLANES = ({"n": 1, "h": 3, "w": 5}, {"n": 2, "h": 6, "w": 1})


def vector(size: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 1.5, size).astype(np.float32)


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)


@pytest.mark.parametrize("case", node_cases("BatchNormalization"))
def test_batch_normalization(case: NodeCase) -> None:
    check_case(case)


def test_batch_normalization_is_one_product_and_one_sum() -> None:
    constants = {i: vector(4, i) for i in range(1, 5)}
    module = check_sizes(single_node("BatchNormalization", [["n", 4, "h", "w"]], constants), *PLANES)
    names = [op.mnemonic for op in module.walk() if op.mnemonic not in ("constant", "broadcast")]
    assert names == ["mul", "add", "return"]


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_layer_normalization(axis: int) -> None:
    scale = vector(15).reshape(3, 5)
    constants = {1: scale if axis == 1 else scale[0], 2: scale if axis == 1 else scale[1]}
    model = single_node("LayerNormalization", [["n", 3, 5]], constants, outputs=3, axis=axis)
    check_sizes(model, {"n": 1}, {"n": 7})


@pytest.mark.parametrize("axes", [[0, 2, 3], [1]])
def test_mean_variance(axes: list[int]) -> None:
    check_sizes(single_node("MeanVarianceNormalization", [["n", 4, "h", "w"]], axes=axes), {"n": 2, "h": 3, "w": 4})


def test_instance_normalization() -> None:
    check_sizes(single_node("InstanceNormalization", [["n", 4, "h", "w"]], {1: vector(4), 2: vector(4, 1)}), *PLANES)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(opset: int) -> None:
    count = 2 if opset == 18 else 4
    constants = {1: vector(count), 2: vector(count, 1)}
    check_sizes(single_node("GroupNormalization", [["n", 4, "h", "w"]], constants, opset=opset, num_groups=2), *PLANES)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("beta", [0.5, 0.75, 0.9])
def test_local_response(size: int, beta: float) -> None:
    model = single_node("LRN", [["n", 6, "h", "w"]], size=size, beta=beta, alpha=0.5)
    if size % 2:  # onnxruntime takes odd sizes only
        check_sizes(model, *PLANES)
    else:
        import_model(model)


@pytest.mark.parametrize("p", [1, 2])
def test_lp(p: int) -> None:
    check_sizes(single_node("LpNormalization", [["n", "h", 4]], p=p, axis=1), *PLANES)
