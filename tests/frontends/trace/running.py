"""Runs a function natively and under the interpreter, both to be compared with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import tree
from ds_compiler.frontends.trace.function import Output, trace_program
from ds_compiler.ir import TensorType
from ds_compiler.ir.dtypes import from_numpy
from ds_compiler.ir.verifier import verify
from ds_compiler.reference import interpret

Array = np.ndarray[Any, Any]


def interpreted(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed operation by operation."""
    leaves, structure = tree.flatten((arguments, {}))
    types = [TensorType(x.shape, from_numpy(x.dtype)) if isinstance(x, np.ndarray) else None for x in leaves]
    program = trace_program(function, structure, leaves, types, {})
    verify(program.module)
    results = interpret(program.module, [x for x in leaves if isinstance(x, np.ndarray)])
    return tree.unflatten(program.structure, [results[x.index] if isinstance(x, Output) else x for x in program.leaves])


def assert_same(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Equal dtype, shape and elements (NaN equals NaN), within a relative and absolute tolerance."""
    expected = np.asarray(expected)
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
