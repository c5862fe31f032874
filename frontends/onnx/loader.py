"""Reads a model and checks everything that can be wrong with a file before anything is built from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from ds_compiler.frontends.onnx.registry import canonical_domain
from ds_compiler.frontends.onnx.weights import Cut, cut_file
from ds_compiler.ir import CompileError, DType, Location
from ds_compiler.ir.dtypes import from_numpy

Array = np.ndarray[Any, Any]

OLDEST_OPSET = 1
MAPPED = 1 << 20
"""Bytes from which on external data is mapped and not read."""
LARGEST = 1 << 40
"""Elements that a declared shape may have; more is taken for a damaged file."""


@dataclass
class LoadedModel:
    """A model that passed the checks.

    Attributes:
        opsets: version by domain.
        folder: where external data lies; None for a model given as bytes.
        functions: the model's own functions by (domain, name).
        weights: raw data of initializers of the main graph that was kept out of `proto`, by name.
    """

    proto: ModelProto
    opsets: dict[str, int]
    folder: Path | None
    functions: dict[tuple[str, str], FunctionProto] = field(default_factory=dict)
    weights: dict[str, memoryview] = field(default_factory=dict)


def load_model(source: str | os.PathLike[str] | bytes | ModelProto) -> LoadedModel:
    """Read and check a model.

    Raises:
        CompileError: the file is missing, empty, truncated or not a model; its opset is unknown; a declared shape is
            absurd; a name is defined twice or never; nodes form a cycle.
    """
    folder: Path | None = None
    weights: dict[str, memoryview] = {}
    if isinstance(source, ModelProto):
        model = source
    else:
        if isinstance(source, bytes | bytearray | memoryview):
            data, what = bytes(source), "the model"
        else:
            path = Path(source)
            cut = _read(path)
            data, weights, what, folder = cut.model, cut.weights, f"'{path}'", path.resolve().parent
        model = _parse(data, what)
    check_text(model)
    loaded = LoadedModel(model, opset_versions(model.opset_import), folder, weights=weights)
    for function in model.functions:
        key = (canonical_domain(function.domain), function.name)
        if key in loaded.functions:
            raise CompileError(f"function '{function.name}' of domain '{function.domain}' is defined twice")
        loaded.functions[key] = function
    check_graph(model.graph, set())
    for function in model.functions:
        sort_nodes(function.node, set(function.input), f"function '{function.name}'")
    return loaded


def _read(path: Path) -> Cut:
    try:
        return cut_file(path)
    except FileNotFoundError:
        raise CompileError(f"no such file: '{path}'") from None
    except OSError as error:
        raise CompileError(f"cannot read '{path}': {error.strerror}") from None


def _parse(data: bytes, what: str) -> ModelProto:
    if not data:
        raise CompileError(f"{what} is empty")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, EncodeError, ValueError, RuntimeError):
        raise CompileError(f"{what} is not an ONNX model, or is truncated", help="get the file again") from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output) or model.ir_version < 1:
        raise CompileError(f"{what} is not an ONNX model: it holds no graph", help="get the file again")
    return model


def check_text(model: ModelProto) -> None:
    """Reject names that are not UTF-8, which protobuf hands on as bytes.

    Raises:
        CompileError: naming one.
    """
    for text in _texts(model):
        if not isinstance(text, str):
            raise CompileError(f"the model is damaged: a name is not UTF-8: {text!r}", help="get the file again")


def _texts(model: ModelProto) -> Iterator[object]:
    yield model.producer_name
    for entry in model.opset_import:
        yield entry.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
        yield from (entry.domain for entry in function.opset_import)
        yield from _node_texts(function.node)
    yield from _graph_texts(model.graph)


def _graph_texts(graph: GraphProto) -> Iterator[object]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in (*graph.initializer, *(entry.values for entry in graph.sparse_initializer)):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield from (attribute.name, attribute.ref_attr_name)
        for graph in subgraphs(node):
            yield from _graph_texts(graph)


def opset_versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Version by domain.

    Raises:
        CompileError: a domain has two; the default domain has one that this importer does not know.
    """
    versions: dict[str, int] = {}
    for entry in imports:
        domain = canonical_domain(entry.domain)
        if versions.setdefault(domain, int(entry.version)) != entry.version:
            raise CompileError(f"domain '{domain}' is imported twice, at opsets {versions[domain]} and {entry.version}")
    newest = onnx.defs.onnx_opset_version()
    if "" in versions and not OLDEST_OPSET <= versions[""] <= newest:
        raise CompileError(
            f"opset {versions['']} is not supported",
            help=f"convert the model to opset {OLDEST_OPSET} to {newest} with onnx.version_converter",
        )
    return versions


def node_location(node: NodeProto, index: int, prefix: str = "") -> Location:
    """The node's name, or its operator and position."""
    return Location((prefix + (node.name or f"{node.op_type}_{index}"),), node.op_type)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Graphs in the node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured_names(graph: GraphProto) -> set[str]:
    """Names that a subgraph reads and does not define: values of the enclosing graphs."""
    defined = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    defined |= {t.values.name for t in graph.sparse_initializer}
    read: set[str] = set()
    for node in graph.node:
        read |= reads(node)
        defined.update(node.output)
    read |= {o.name for o in graph.output}
    return read - defined - {""}


def reads(node: NodeProto) -> set[str]:
    """Names that a node and its subgraphs read."""
    names = set(node.input) - {""}
    for graph in subgraphs(node):
        names |= captured_names(graph)
    return names


def check_graph(graph: GraphProto, outer: set[str]) -> None:
    """Check names, declared shapes and order, in subgraphs too.

    Raises:
        CompileError: see `load_model`.
    """
    constants: set[str] = set()
    for name in [*(t.name for t in graph.initializer), *(t.values.name for t in graph.sparse_initializer)]:
        if name in constants:
            raise CompileError(f"initializer '{name}' is defined twice")
        constants.add(name)
    for tensor in graph.initializer:
        check_shape(tuple(tensor.dims), f"initializer '{tensor.name}'")
    defined = set(constants)
    seen: set[str] = set()
    for value in graph.input:
        if value.name in seen:
            raise CompileError(f"input '{value.name}' is declared twice")
        seen.add(value.name)
        check_shape(_declared(value), f"input '{value.name}'")
    defined |= seen
    for value in graph.value_info:
        check_shape(_declared(value), f"value '{value.name}'")
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and name in defined:
                raise CompileError(f"value '{name}' is defined twice", location=node_location(node, index))
            defined.add(name)
    sort_nodes(graph.node, outer | constants | seen, "the graph")
    for value in graph.output:
        if value.name not in defined and value.name not in outer:
            raise CompileError(f"output '{value.name}' is computed by no node")
    for node in graph.node:
        for inner in subgraphs(node):
            check_graph(inner, outer | defined)


def _declared(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    shape = value.type.tensor_type.shape
    known = (int(d.dim_value) for d in shape.dim if d.HasField("dim_value"))
    return tuple(size for size in known if size >= 0)  # exporters write -1 for unknown


def check_shape(shape: tuple[int, ...], what: str) -> None:
    """Reject negative and absurdly large shapes."""
    if any(d < 0 for d in shape):
        raise CompileError(f"{what} has a negative size in its shape {list(shape)}")
    if math.prod(shape) > LARGEST:
        raise CompileError(f"{what} has {math.prod(shape)} elements declared by its shape {list(shape)}")


def sort_nodes(nodes: Iterable[NodeProto], available: set[str], where: str) -> list[tuple[int, NodeProto]]:
    """Nodes with their indices, each after those that it reads from; an order that is fine already is kept.

    Raises:
        CompileError: a node reads a name that nothing defines, or nodes read one another in a cycle.
    """
    ready = set(available)
    result: list[tuple[int, NodeProto]] = []
    waiting = [(index, node, reads(node)) for index, node in enumerate(nodes)]
    produced = {name for _, node, _ in waiting for name in node.output if name}
    while waiting:
        later = []
        for index, node, names in waiting:
            if names <= ready:
                result.append((index, node))
                ready.update(node.output)
            else:
                later.append((index, node, names))
        if len(later) == len(waiting):
            for index, node, names in later:
                for name in sorted(names - ready - produced):
                    raise CompileError(
                        f"{node.op_type}: reads '{name}', which nothing defines", location=node_location(node, index)
                    )
            index, node, names = later[0]
            raise CompileError(
                f"nodes of {where} read one another in a cycle: '{node.op_type}' waits for '{min(names - ready)}'",
                location=node_location(node, index),
            )
        waiting = later
    return result


def element_type(code: int, what: str) -> DType:
    """The element type that ONNX numbers `code`.

    Raises:
        CompileError: it has no counterpart (complex, undefined).
    """
    try:
        return from_numpy(helper.tensor_dtype_to_np_dtype(code))
    except (KeyError, ValueError, TypeError):
        name = TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)
        raise CompileError(f"{what} has element type {name}, which is not supported") from None


def read_tensor(tensor: TensorProto, folder: Path | None, what: str = "") -> Array:
    """The tensor's elements, from the model or its external data.

    Raises:
        CompileError: data is missing, too short, or outside the model's folder.
    """
    what = what or f"initializer '{tensor.name}'"
    check_shape(tuple(tensor.dims), what)
    dtype = element_type(tensor.data_type, what)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, folder, dtype, what)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise CompileError(f"{what} holds too little or damaged data: {error}") from None


def read_sparse(sparse: SparseTensorProto, folder: Path | None) -> Array:
    """A sparse tensor's elements, zeros included.

    Raises:
        CompileError: as for `read_tensor`; its indices do not fit its shape or values; it is too large.
    """
    what = f"sparse tensor '{sparse.values.name}'"
    shape = tuple(sparse.dims)
    check_shape(shape, what)
    values, indices = read_tensor(sparse.values, folder, what), read_tensor(sparse.indices, folder, what)
    bounds = math.prod(shape) if indices.ndim == 1 else np.array(shape)
    if values.ndim != 1 or indices.shape not in ((values.size,), (values.size, len(shape))):
        raise CompileError(f"{what} has values {list(values.shape)} and indices {list(indices.shape)}")
    if indices.dtype.kind not in "iu" or np.any((indices < 0) | (indices >= bounds)):
        raise CompileError(f"{what} has an index outside of its shape {list(shape)}")
    try:
        result = np.zeros(shape, values.dtype)
    except MemoryError:
        raise CompileError(f"{what} has {math.prod(shape)} elements, which do not fit into memory") from None
    if indices.ndim == 1:
        result.reshape(-1)[indices] = values
    else:
        result[tuple(indices.T)] = values
    return result


def read_initializer(tensor: TensorProto, model: LoadedModel) -> Array:
    """As `read_tensor`, for an initializer of `model`, whose data may have been kept out of the message.

    The result may be read-only, and start at any address.
    """
    if tensor.name not in model.weights or tensor.HasField("raw_data"):  # the latter: of a nested graph
        return read_tensor(tensor, model.folder)
    what, raw = f"initializer '{tensor.name}'", model.weights[tensor.name]
    check_shape(tuple(tensor.dims), what)
    dtype = element_type(tensor.data_type, what)
    if dtype.bits < 8:  # two elements a byte: let onnx unpack them
        return read_tensor(TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=bytes(raw)), None, what)
    expected = math.prod(tensor.dims) * dtype.numpy.itemsize
    if len(raw) != expected:
        raise CompileError(f"{what} holds too little or damaged data: {len(raw)} bytes, its shape needs {expected}")
    return np.frombuffer(raw, dtype.numpy).reshape(tuple(tensor.dims))


def _external(tensor: TensorProto, folder: Path | None, dtype: DType, what: str) -> Array:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise CompileError(f"{what} has its data in file '{location}'", help="give the model as a path")
    relative = Path(location)
    if "\0" in location:
        raise CompileError(f"{what} has its data in {location!r}, which is no file name")
    path = (folder / relative).resolve()
    if not location or relative.is_absolute() or ".." in relative.parts or not path.is_relative_to(folder):
        raise CompileError(f"{what} has its data in '{location}', outside the model's folder")
    if not path.is_file():
        raise CompileError(f"{what} has its data in '{location}', which is missing", help=f"expected at {path}")
    count = math.prod(tensor.dims)
    expected = (count * dtype.bits + 7) // 8 if dtype.kind != "b" else count
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or expected)
    except ValueError:
        raise CompileError(f"{what} has a damaged external data entry") from None
    size = path.stat().st_size
    if offset < 0 or length != expected or offset + length > size:
        raise CompileError(
            f"{what} needs {expected} bytes, its data in '{location}' has {min(length, max(0, size - offset))}"
        )
    if dtype.bits < 8:  # two elements a byte: let onnx unpack them
        inline = TensorProto(dims=tensor.dims, data_type=tensor.data_type)
        inline.raw_data = np.fromfile(path, np.uint8, length, offset=offset).tobytes()
        return np.asarray(numpy_helper.to_array(inline))
    if expected >= MAPPED:
        return np.asarray(np.memmap(path, dtype.numpy, "r", offset, (count,))).reshape(tuple(tensor.dims))
    return np.fromfile(path, dtype.numpy, count, offset=offset).reshape(tuple(tensor.dims))
