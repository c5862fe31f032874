"""ONNX's own test cases of single operators, through the importer and the interpreter.

A family's test file takes its operators' cases and checks each::

    @pytest.mark.parametrize("case", node_cases("Reshape", "Flatten"))
    def test_node(case: NodeCase) -> None:
        check_case(case)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, TypeProto, numpy_helper

from ds_compiler.frontends.onnx import import_model
from ds_compiler.frontends.onnx.given import Fixed, Given, NotOneProgram
from ds_compiler.frontends.onnx.signature import model_inputs
from ds_compiler.ir.dtypes import from_numpy
from ds_compiler.reference import interpret
from tests.conformance.cases import array, cases

SKIPPED: dict[str, str] = {
    "test_bernoulli": "random",
    "test_randomuniformlike": "random",
    "test_training_dropout": "training mode, random",
}
"""Cases by how their names begin, with the reason. Cases of sequences, optionals, maps, strings and element types
that the compiler lacks are skipped by their types."""


@dataclass(frozen=True)
class NodeCase:
    """One case: a model of one operator, or of its definition in other operators (name ends in ``_expanded``)."""

    name: str
    operator: str
    model: ModelProto
    inputs: tuple[Any, ...]
    expected: tuple[Any, ...]
    rtol: float
    atol: float

    def __repr__(self) -> str:
        return self.name

    def skip_reason(self) -> str:
        """Why the compiler does not take this case, or nothing."""
        for beginning, reason in SKIPPED.items():
            if self.name.startswith(beginning):
                return reason
        for value in (*self.model.graph.input, *self.model.graph.output):
            if reason := _unsupported(value.type):
                return f"'{value.name}' is {reason}"
        return ""


def _unsupported(type_: TypeProto) -> str:
    kind = type_.WhichOneof("value")
    if kind != "tensor_type":
        return f"a {str(kind).removesuffix('_type')}"
    code = type_.tensor_type.elem_type
    if code == TensorProto.STRING:
        return "a tensor of strings"
    try:
        from_numpy(numpy_helper.to_array(TensorProto(data_type=code, dims=[0])).dtype)
    except (KeyError, TypeError, ValueError):
        return f"a tensor of {TensorProto.DataType.Name(code)}"
    return ""


@lru_cache(maxsize=1)
def all_cases() -> dict[str, list[NodeCase]]:
    """Every case of the default domain, by operator."""
    found: dict[str, list[NodeCase]] = defaultdict(list)
    operator_of: dict[str, str] = {}
    for case in cases("node"):
        assert case.held is not None  # models of other groups lie in files
        node = case.held.graph.node[0]
        operator = operator_of.get(case.name.partition("_expanded")[0], node.op_type)
        operator_of.setdefault(case.name, operator)
        if node.domain not in ("", "ai.onnx"):
            continue
        ((inputs, expected),) = case.data
        found[operator].append(NodeCase(case.name, operator, case.held, inputs, expected, case.rtol, case.atol))
    return dict(found)


def node_cases(*operators: str) -> list[Any]:
    """Parameters for pytest: the cases of `operators`, those that cannot run marked with the reason.

    Raises:
        KeyError: ONNX has no case of an operator of that name.
    """
    parameters = []
    for case in (case for operator in operators for case in all_cases()[operator]):
        reason = case.skip_reason()
        parameters.append(pytest.param(case, id=case.name, marks=[pytest.mark.skip(reason=reason)] if reason else []))
    return parameters


def check_case(case: NodeCase) -> None:
    """Import the model, interpret it, compare with what ONNX expects (element types and shapes too)."""
    feeds = {v.name: array(x) for v, x in zip(model_inputs(case.model.graph), case.inputs, strict=True)}
    given: dict[str, Given] = {}
    while True:
        try:
            module = import_model(case.model, given=given)
            break
        except NotOneProgram as error:  # axes and the like, which decide the program
            assert error.value_of is not None
            fixed = np.asarray(feeds.pop(error.value_of))
            given[error.value_of] = Fixed(from_numpy(fixed.dtype).name, fixed.shape, fixed.tobytes())
    results = interpret(module, feeds)
    assert len(results) == len(case.expected)
    for result, expected in zip(results, map(array, case.expected), strict=True):
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        if result.dtype.kind not in "fiub":  # ml_dtypes
            result, expected = result.astype(np.float32), expected.astype(np.float32)
        np.testing.assert_allclose(result, expected, case.rtol, case.atol)
