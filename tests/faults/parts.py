"""What malformed models are made of, and the list that they register in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

F, I64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Fault:
    """`make` gives the model's bytes, and may put files into the folder that the model will lie in."""

    name: str
    expected: str
    make: Callable[[Path], bytes]


FAULTS: list[Fault] = []


def fault(expected: str) -> Callable[[Callable[[], ModelProto | bytes]], None]:
    """Register a model without files beside it."""

    def register(make: Callable[[], ModelProto | bytes]) -> None:
        FAULTS.append(Fault(make.__name__, expected, lambda folder: _bytes(make())))

    return register


def fault_with_files(expected: str) -> Callable[[Callable[[Path], ModelProto]], None]:
    """Register a model with files beside it."""

    def register(make: Callable[[Path], ModelProto]) -> None:
        FAULTS.append(Fault(make.__name__, expected, lambda folder: _bytes(make(folder))))

    return register


def _bytes(model: ModelProto | bytes) -> bytes:
    return model if isinstance(model, bytes) else model.SerializeToString()


def info(name: str, shape: Sequence[Any] | None = (2, 3), kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Any] = (info("x"),),
    outputs: Sequence[Any] = (info("y", None),),
    **weights: Any,
) -> GraphProto:
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    return helper.make_graph(list(nodes), "g", list(inputs), list(outputs), constants)


def model(g: GraphProto, *opsets: tuple[str, int], **others: Any) -> ModelProto:
    imports = [helper.make_opsetid(*o) for o in (opsets or [("", 21)])]
    return helper.make_model(g, opset_imports=imports, **others)


def node(operator: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> NodeProto:
    """A node called `n`; names are separated by blanks, ``_`` is an input left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), name="n", **attributes)


def single(
    operator: str, inputs: str = "x", shape: Sequence[Any] = (2, 3), attributes: Any = None, **weights: Any
) -> ModelProto:
    """A model of one node, whose other inputs are constants."""
    return model(graph([node(operator, inputs, **(attributes or {}))], [info("x", shape)], **weights))


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


RELU = node("Relu")
