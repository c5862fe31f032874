"""Softmax, its logarithm and Hardmax, with the meaning before opset 13 too."""

from __future__ import annotations

import pytest

from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import check_sizes, single_node

OPERATORS = ("Hardmax", "LogSoftmax", "Softmax")


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_symbolic(operator: str, opset: int, axis: int) -> None:
    model = single_node(operator, [["a", "b", 4]], opset=opset, axis=axis)
    check_sizes(model, {"a": 1, "b": 1}, {"a": 3, "b": 5})


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("opset", [11, 13])
def test_default_axis(operator: str, opset: int) -> None:
    check_sizes(single_node(operator, [["a", "b", 4]], opset=opset), {"a": 3, "b": 5})
