"""Matrix products: ONNX's own cases."""

from __future__ import annotations

import pytest

from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases


@pytest.mark.parametrize("case", node_cases("Gemm", "MatMul"))
def test_node(case: NodeCase) -> None:
    check_case(case)
