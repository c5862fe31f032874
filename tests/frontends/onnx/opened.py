"""One operator on arrays, with sizes known and with sizes left open, against another implementation of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ds_compiler import onnx_backend

Array = np.ndarray[Any, Any]


def node_model(
    operator: str,
    inputs: Sequence[Array | None],
    *,
    constants: Mapping[int, Array] | None = None,
    open_sizes: bool = False,
    outputs: int = 1,
    opset: int = 22,
    domain: str = "",
    **attributes: Any,
) -> ModelProto:
    """A model of one node that reads `inputs` (None: left out) and, by position, `constants`."""
    constants = constants or {}
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    names += [""] * (max(constants, default=-1) + 1 - len(names))
    for position in constants:
        names[position] = f"c{position}"
    node = helper.make_node(operator, names, [f"y{i}" for i in range(outputs)], "node", domain=domain, **attributes)
    values = []
    for i, x in enumerate(inputs):
        if x is not None:
            shape = [f"n{i}_{a}" for a in range(x.ndim)] if open_sizes else x.shape
            values.append(helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(x.dtype), shape))
    initializers = [numpy_helper.from_array(a, f"c{i}") for i, a in constants.items()]
    results = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)]
    graph = helper.make_graph([node], "graph", values, results, initializers)
    opsets = [helper.make_opsetid("", opset if not domain else 22)]
    if domain:
        opsets.append(helper.make_opsetid(domain, opset))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def results(model: ModelProto, inputs: Sequence[Array | None]) -> list[Array]:
    """What compiled code gives."""
    given = [x for x in inputs if x is not None]
    return list(onnx_backend.run_model(model, given, cache=False, threads=1))


def reference(model: ModelProto, inputs: Sequence[Array | None]) -> list[Array]:
    """What ONNX's reference evaluator gives."""
    return list(ReferenceEvaluator(model).run(None, _feeds(inputs)))  # type: ignore[arg-type]


def onnxruntime(model: ModelProto, inputs: Sequence[Array | None]) -> list[Array]:
    """What onnxruntime gives."""
    ort: Any = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, _feeds(inputs)))


def _feeds(inputs: Sequence[Array | None]) -> dict[str, Array]:
    return {f"x{i}": x for i, x in enumerate(inputs) if x is not None}


def check(found: Sequence[Array], expected: Sequence[Array], rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Equal types, shapes and, within the tolerance, values.

    Raises:
        AssertionError: they differ.
    """
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol, atol)
