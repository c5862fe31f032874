"""Elementwise operators and casts: ONNX's own cases."""

from __future__ import annotations

import pytest

from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases

OPERATORS = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Cosh", "Div", "Dropout", "Equal", "Erf",
    "Exp", "Floor", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max",
    "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Round", "Sigmoid", "Sign", "Sin", "Sinh",
    "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where", "Xor",
)  # fmt: skip


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(case)
