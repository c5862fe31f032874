"""Activation functions: ONNX's own cases, and values far from zero."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.frontends.onnx import import_model
from ds_compiler.reference import interpret
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import check_sizes, single_node

OPERATORS = (
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Shrink",
    "Softplus", "Softsign", "Swish", "ThresholdedRelu",
)  # fmt: skip


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)


@pytest.mark.parametrize(
    "operator", ["Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Softplus", "Softsign"]
)
def test_symbolic(operator: str) -> None:
    check_sizes(single_node(operator, [["n", 3]]), {"n": 1}, {"n": 100})


@pytest.mark.parametrize("operator", ["Mish", "Softplus"])
def test_far_from_zero(operator: str) -> None:
    """Neither overflow nor a loss of small results."""
    module = import_model(single_node(operator, [[8]]))
    x = np.array([-80, -30, -1, 0, 1, 30, 80, 1e30], np.float32)
    wide = x.astype(np.float64)
    softplus = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    expected = softplus if operator == "Softplus" else wide * np.tanh(softplus)
    (result,) = interpret(module, [x])
    np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_slope_broadcasts() -> None:
    slope = np.linspace(-1, 1, 4, dtype=np.float32).reshape(4, 1, 1)
    check_sizes(
        single_node("PRelu", [["n", 4, "h", "w"]], {1: slope}), {"n": 2, "h": 3, "w": 5}, {"n": 1, "h": 1, "w": 1}
    )
