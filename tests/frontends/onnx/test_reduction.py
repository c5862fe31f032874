"""Reductions: ONNX's own cases, axes as attribute and input, symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from ds_compiler.reference import interpret
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import check_sizes, single_node, with_constants

OPERATORS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


@pytest.mark.parametrize("case", node_cases(*OPERATORS))
def test_node(case: NodeCase) -> None:
    check_case(with_constants(case, "axes"))


@pytest.mark.parametrize("operator", ["ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1, 0]])
def test_symbolic(operator: str, keepdims: int, axes: list[int]) -> None:
    sizes = {"a": 2, "c": 3}, {"a": 1, "c": 7}
    check_sizes(single_node(operator, [["a", 5, "c"]], {1: np.array(axes)}, opset=18, keepdims=keepdims), *sizes)
    if operator != "ReduceSum":
        check_sizes(single_node(operator, [["a", 5, "c"]], opset=11, axes=axes, keepdims=keepdims), *sizes)


def test_log_sum_exp_of_infinities() -> None:
    module = import_model(single_node("ReduceLogSumExp", [[4, 2]], {1: np.array([1])}, opset=18, keepdims=0))
    x = np.array([[-np.inf, -np.inf], [-np.inf, 1], [np.inf, 0], [1000, 1000]], np.float32)
    (result,) = interpret(module, [x])
    np.testing.assert_allclose(result, [-np.inf, 1, np.inf, 1000 + np.log(2)], rtol=1e-6)


def test_axes_must_be_known() -> None:
    case = next(p.values[0] for p in node_cases("ReduceSum") if "keepdims_example" in p.values[0].name)
    with pytest.raises(CompileError, match="axes must be known when the model is compiled"):
        import_model(case.model)


def test_axis_out_of_range() -> None:
    with pytest.raises(CompileError, match="axis 3 is out of range for rank 2"):
        import_model(single_node("ReduceMean", [["n", 2]], {1: np.array([3])}))
