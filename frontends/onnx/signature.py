"""A model's inputs and outputs, and those of its program: sequences and optionals exist on the model's side only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto, TypeProto, ValueInfoProto

from ds_compiler.frontends.onnx import loader
from ds_compiler.frontends.onnx.emitter import Emitter, sanitised
from ds_compiler.frontends.onnx.given import Absent, Fixed, Given, Items, NotOneProgram, Ranked
from ds_compiler.frontends.onnx.listed import Entry, Listed
from ds_compiler.ir import Block, CompileError, Dim, TensorType, Value, symbol
from ds_compiler.ir.dtypes import dtype

_CALL = "call the model from Python (ds.compile), which makes a program for each structure"


def model_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """The inputs that a call feeds: those without an initializer."""
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in constants]


def is_structured(type_: TypeProto) -> bool:
    """Whether something must be given about an input of this type: it is no tensor, or one of open rank."""
    return not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape")


def open_inputs(
    graph: GraphProto, given: Mapping[str, Given] | None, dims: Mapping[str, int]
) -> tuple[Block, list[Entry]]:
    """The block of the program's function, and what each of the model's inputs is in it.

    A sequence has an argument for each element (``x[0]``); what is absent or fixed has none.

    Raises:
        NotOneProgram: an input's structure is not given; or an output has one, and nothing is given at all.
        CompileError: an element type is not supported; a dimension of `dims` does not exist.
    """
    if given is None:
        _check_outputs(graph)
        given = {}
    used: set[str] = set()
    values = model_inputs(graph)
    arguments = [_arguments(value, given.get(value.name), dims, used) for value in values]
    if unknown := sorted(dims.keys() - used):
        raise CompileError(f"no dimension called '{unknown[0]}'", help=f"dimensions: {', '.join(sorted(used))}")
    flat = [argument for group in arguments for argument in group]
    block = Block([type_ for _, type_ in flat], [name for name, _ in flat])
    remaining = iter(block.arguments)
    held = [[next(remaining) for _ in group] for group in arguments]
    emitter = Emitter(block)
    return block, [_entry(emitter, given.get(v.name), group) for v, group in zip(values, held, strict=True)]


def _check_outputs(graph: GraphProto) -> None:
    for value in graph.output:
        if value.type.HasField("sequence_type") or value.type.HasField("optional_type"):
            what = "sequence" if value.type.HasField("sequence_type") else "optional"
            raise NotOneProgram(
                f"output '{value.name}' is declared as {what}, and only a call tells its structure", help=_CALL
            )


def _arguments(
    value: ValueInfoProto, about: Given | None, dims: Mapping[str, int], used: set[str]
) -> list[tuple[str, TensorType]]:
    match about:
        case None:
            return [(value.name, _tensor(value, dims, used))]
        case Fixed() | Absent():
            return []
        case Ranked():
            return [(value.name, _ranked(value.name, about))]
        case Items():
            return [(f"{value.name}[{i}]", _ranked(f"{value.name}_{i}", e)) for i, e in enumerate(about.elements)]


def _ranked(name: str, about: Ranked) -> TensorType:
    return TensorType(tuple(symbol(_symbol_name(f"{name}_d{a}")) for a in range(about.rank)), dtype(about.dtype))


def _tensor(value: ValueInfoProto, dims: Mapping[str, int], used: set[str]) -> TensorType:
    what = f"input '{value.name}'"
    if is_structured(value.type):
        kind = str(value.type.WhichOneof("value")).removesuffix("_type")
        found = "has no declared rank" if kind == "tensor" else f"is declared as {kind}"
        raise NotOneProgram(f"{what} {found}, and only a call tells its structure", help=_CALL)
    tensor = value.type.tensor_type
    shape: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:  # exporters write -1 for unknown
            shape.append(int(dim.dim_value))
            continue
        name = dim.dim_param if dim.dim_param.strip("? ") else f"{value.name}_d{axis}"
        identifier = _symbol_name(name)
        used.update((name, identifier))
        size = dims.get(name, dims.get(identifier))
        if size is not None and size < 0:
            raise CompileError(f"{what}: size {size} given for dimension '{name}'")
        shape.append(symbol(identifier) if size is None else int(size))
    return TensorType(tuple(shape), loader.element_type(tensor.elem_type, what))


def _symbol_name(name: str) -> str:
    """`name` as the name of a symbolic dimension (a leading underscore means a size that data decides)."""
    text = sanitised(name)
    if text.startswith("_"):
        text = f"d{text}"
    try:
        symbol(text)
    except ValueError:
        text = f"{text}_"
    return text


def _entry(emitter: Emitter, about: Given | None, held: Sequence[Value]) -> Entry:
    match about:
        case Absent():
            return Listed((), optional=True)
        case Items():
            return Listed(tuple(held))
        case Fixed():
            return emitter.constant(about.array)
        case _:
            (value,) = held
            return value


def flat_outputs(names: Sequence[str], entries: Sequence[Entry]) -> list[tuple[str, Value]]:
    """The program's outputs: a sequence's elements one by one (``y[0]``); an empty optional has none."""
    found: list[tuple[str, Value]] = []
    for name, entry in zip(names, entries, strict=True):
        if isinstance(entry, Listed):
            found += [(f"{name}[{i}]", value) for i, value in enumerate(entry.elements)]
        else:
            found.append((name, entry))
    return found
