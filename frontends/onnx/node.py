"""One ONNX node as handlers see it: inputs as values, attributes as Python, errors with the node's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
from onnx import AttributeProto, NodeProto, helper, numpy_helper

from ds_compiler.frontends.onnx.given import NotOneProgram
from ds_compiler.frontends.onnx.listed import Entry, Listed
from ds_compiler.ir import CompileError, Location, TensorType, Value

if TYPE_CHECKING:
    from ds_compiler.frontends.onnx.emitter import Emitter
    from ds_compiler.frontends.onnx.importer import GraphImporter

Array = np.ndarray[Any, Any]
Integer: TypeAlias = int  # inside `Node`, `int` is the method that reads an integer attribute


class Node:
    """A node being imported.

    Attributes:
        entries: what the node reads; None where the model leaves an optional input out.
        inputs: the same, where handlers take tensors only.
        opset: version of the node's domain.
        importer: for operators that hold subgraphs.
    """

    def __init__(
        self,
        proto: NodeProto,
        entries: Sequence[Entry | None],
        opset: int,
        location: Location,
        importer: GraphImporter,
    ) -> None:
        self.proto, self.entries, self.opset, self.location, self.importer = proto, entries, opset, location, importer
        self.inputs = [entry if isinstance(entry, Value) else None for entry in entries]
        self._attributes = {a.name: a for a in proto.attribute}

    @property
    def op_type(self) -> str:
        return str(self.proto.op_type)

    @property
    def output_count(self) -> int:
        """Outputs up to the last one that has a name."""
        names = list(self.proto.output)
        while names and not names[-1]:
            names.pop()
        return len(names)

    def wants(self, index: int) -> bool:
        """Whether the model names output `index`."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def input(self, index: int) -> Value:
        """Input `index`, which must be there."""
        value = self.optional(index)
        if value is None:
            self.fail(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Input `index`, or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def sequence(self, index: Integer) -> Listed:
        """Input `index`, which must be a sequence (or an empty optional)."""
        entry = self.entries[index] if index < len(self.entries) else None
        if isinstance(entry, Listed):
            return entry
        self.fail(f"input {index} is {'missing' if entry is None else entry.type}, expected a sequence")

    def reject_lists(self) -> None:
        """Fail if an input is no tensor."""
        for index, entry in enumerate(self.entries):
            if isinstance(entry, Listed):
                self.fail(f"input {index} is {entry}, expected a tensor")

    def needed(
        self, emitter: Emitter, value: Value, what: str, help: str = "make it an initializer or a Constant"
    ) -> NoReturn:
        """Fail because `value` must be known at import; if a vector among the model's inputs decides it, that may be
        given.

        Raises:
            NotOneProgram: there is such an input.
            CompileError: there is none.
        """
        sources = _read_by(value)
        message = f"{what} must be known when the model is compiled"
        source = sources[0]
        if len(sources) == 1 and source in emitter.root.arguments and _is_vector(source.type):
            what = f"{self.op_type}: {message}"
            raise NotOneProgram(what, source.hint, location=self.location, help=help)
        self.fail(message, help)

    def present(self) -> list[Value]:
        """All inputs, each of which must be there."""
        return [self.input(i) for i in range(len(self.inputs))]

    def has(self, name: str) -> bool:
        return name in self._attributes

    def attribute(self, name: str, default: Any = None) -> Any:
        """Attribute `name` as int, float, str, list of these, NumPy array (tensor) or GraphProto."""
        proto = self._attributes.get(name)
        return default if proto is None else attribute_value(proto)

    def int(self, name: str, default: Integer) -> Integer:
        return int(self.attribute(name, default))

    def float(self, name: str, default: float) -> float:
        return float(self.attribute(name, default))

    def ints(self, name: str, default: Sequence[Integer] = ()) -> tuple[Integer, ...]:
        return tuple(int(x) for x in self.attribute(name, default))

    def string(self, name: str, default: str) -> str:
        return str(self.attribute(name, default))

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """A string attribute that must be one of `allowed`."""
        found = self.string(name, default)
        if found not in allowed:
            self.fail(f"attribute {name}='{found}' is not supported", help=f"supported: {', '.join(allowed)}")
        return found

    def required(self, name: str) -> Any:
        """Attribute `name`, which must be there."""
        if name not in self._attributes:
            self.fail(f"attribute '{name}' is missing")
        return self.attribute(name)

    def axis(self, value: Integer, rank: Integer) -> Integer:
        """`value` counted from the front.

        Raises:
            CompileError: it is out of range.
        """
        if not -rank <= value < rank:
            self.fail(f"axis {value} is out of range for rank {rank}")
        return value % rank

    def axes(self, values: Sequence[Integer], rank: Integer) -> tuple[Integer, ...]:
        """Several axes, counted from the front, sorted.

        Raises:
            CompileError: one is out of range or named twice.
        """
        found = sorted(self.axis(int(v), rank) for v in values)
        if len(set(found)) != len(found):
            self.fail(f"axes {tuple(values)} name an axis twice")
        return tuple(found)

    def fail(self, what: str, help: str = "") -> NoReturn:
        """Raise an error at this node."""
        raise CompileError(f"{self.op_type}: {what}", location=self.location, help=help)


def _read_by(value: Value) -> list[Value]:
    """Values that no operation defines from which `value` is computed."""
    found: dict[Value, None] = {}
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one in seen or hasattr(one, "contents"):
            continue
        seen.add(one)
        operation = one.defining_op
        if operation is None:
            found[one] = None
        else:
            waiting += operation.operands
    return list(found) or [value]


def _is_vector(type_: TensorType) -> bool:
    """A scalar or a vector, as axes, shapes and scales are."""
    return type_.rank <= 1


def attribute_value(proto: AttributeProto) -> Any:
    """An attribute as Python or NumPy."""
    match proto.type:
        case AttributeProto.STRING:
            return proto.s.decode("utf-8", "replace")
        case AttributeProto.STRINGS:
            return [s.decode("utf-8", "replace") for s in proto.strings]
        case AttributeProto.TENSOR:
            return numpy_helper.to_array(proto.t)
        case AttributeProto.GRAPH:
            return proto.g
        case _:
            return helper.get_attribute_value(proto)
