"""ONNX's own test cases of single operators, through the importer and the interpreter.

A family's test file takes its operators' cases and checks each::

    @pytest.mark.parametrize("case", node_cases("Reshape", "Flatten"))
    def test_node(case: NodeCase) -> None:
        check_case(case)
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, TypeProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir.dtypes import from_numpy
from ds_compiler.reference import interpret

SKIPPED: dict[str, str] = {
    "test_bernoulli": "random",
    "test_randomuniformlike": "random",
    "test_scan_sum": "Scan of opset 8, which had a batch axis",
    "test_training_dropout": "training mode, random",
}
"""Cases by how their names begin, with the reason. Cases of sequences, optionals, maps, strings and element types
that the compiler lacks are skipped by their types."""

KNOWN_INPUTS: dict[str, tuple[int, ...]] = {
    "CumProd": (1,),
    "CumSum": (1,),
    "Pad": (3,),
    "Slice": (3, 4),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that the compiler wants to know, by operator: axes and steps. The cases feed them at run time; here they
become initializers."""


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases' own arithmetic overflows on purpose
        loaded = load_model_tests(kind="node")
    found: dict[str, list[NodeCase]] = defaultdict(list)
    operator_of: dict[str, str] = {}
    for case in loaded:
        assert case.model is not None and case.data_sets is not None  # both may lie in files for other kinds of case
        node = case.model.graph.node[0]
        _lift_opset(case.model)
        operator = operator_of.get(case.name.partition("_expanded")[0], node.op_type)
        operator_of.setdefault(case.name, operator)
        if node.domain not in ("", "ai.onnx"):
            continue
        ((inputs, expected),) = case.data_sets
        found[operator].append(
            NodeCase(case.name, operator, case.model, tuple(inputs), tuple(expected), case.rtol, case.atol)
        )
    return dict(found)


def _lift_opset(model: ModelProto) -> None:
    """State opset 7 in models older than that: a case has its operator's newest definition, so it holds there too."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, 7)


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
    constants = {tensor.name for tensor in case.model.graph.initializer}
    names = [value.name for value in case.model.graph.input if value.name not in constants]
    feeds = {name: _array(x) for name, x in zip(names, case.inputs, strict=True)}
    model = ModelProto()
    model.CopyFrom(case.model)
    for name in known_inputs(model):
        model.graph.initializer.append(numpy_helper.from_array(feeds.pop(name), name))
    results = interpret(import_model(model), feeds)
    assert len(results) == len(case.expected)
    for result, expected in zip(results, map(_array, case.expected), strict=True):
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        if result.dtype.kind not in "fiub":  # ml_dtypes
            result, expected = result.astype(np.float32), expected.astype(np.float32)
        np.testing.assert_allclose(result, expected, case.rtol, case.atol)


def known_inputs(model: ModelProto) -> set[str]:
    """Graph inputs that nodes read as axes or steps."""
    names = {n.input[i] for n in model.graph.node for i in KNOWN_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    return names & {v.name for v in model.graph.input} - {t.name for t in model.graph.initializer}


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
