"""Operators that move, make, select and order elements: ONNX's own cases."""

from __future__ import annotations

import pytest

from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases

OPERATORS = (
    "ArgMax", "ArgMin", "CenterCropPad", "Compress", "Concat", "Constant", "ConstantOfShape", "CumProd", "CumSum",
    "DepthToSpace", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND", "NonZero", "OneHot", "Pad",
    "Range", "Reshape", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze",
)  # fmt: skip


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)
