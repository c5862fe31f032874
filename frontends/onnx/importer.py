"""Walks an ONNX graph and builds the module; what single operators mean is in `operators`."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

from ds_compiler.frontends.onnx import functions, host, loader, operators
from ds_compiler.frontends.onnx.emitter import Emitter, Known, sanitised
from ds_compiler.frontends.onnx.given import Given
from ds_compiler.frontends.onnx.listed import Entry, Listed
from ds_compiler.frontends.onnx.node import Array, Node
from ds_compiler.frontends.onnx.registry import Handler, canonical_domain, find_handler, takes_lists
from ds_compiler.frontends.onnx.signature import flat_outputs, model_inputs, open_inputs
from ds_compiler.frontends.onnx.strict import is_narrow
from ds_compiler.ir import (
    CompileError,
    Function,
    Location,
    Module,
    Operation,
    Region,
    Value,
)
from ds_compiler.ops import Return

_ = operators  # importing the package registers the handlers


def import_model(
    model: str | os.PathLike[str] | bytes | ModelProto,
    *,
    dims: Mapping[str, int] | None = None,
    given: Mapping[str, Given] | None = None,
    strict: bool = False,
) -> Module:
    """The module that computes what an ONNX model does, in primitives.

    Args:
        model: path, serialised model, or message.
        dims: sizes to fix: by the model's dimension name (``dim_param``), or by the symbol that an unnamed one gets
            (``x_d0`` for axis 0 of input ``x``).
        given: by input, what the module holds for; its inputs and outputs are tensors then: see `signature`. None:
            it must hold for all calls.
        strict: round at each step of ONNX's definitions, as its reference implementation does; see `strict`.

    Raises:
        NotOneProgram: something about the inputs must be given.
        CompileError: the model cannot be read, is malformed, or uses operators that are not supported; one line that
            names the node.
    """
    loaded = loader.load_model(model)
    host.check_native(loaded.proto.graph)
    functions.check_supported(loaded)
    graph = loaded.proto.graph
    block, entries = open_inputs(graph, given, dims or {})
    importer = GraphImporter(Emitter(block, strict), loaded)
    results = importer.run(graph, dict(zip((v.name for v in model_inputs(graph)), entries, strict=True)))
    outputs = flat_outputs([o.name for o in graph.output], results)
    importer.emitter.insert(Return(tuple(value for _, value in outputs)))
    region = Region(block)
    _sweep(region)
    metadata = {"producer": loaded.proto.producer_name, "opset": str(loaded.opsets.get("", ""))}
    return Module([Function("main", region, [name for name, _ in outputs])], metadata)


class GraphImporter:
    """Imports one graph; nested graphs and functions get one of their own that shares the emitter.

    Attributes:
        values: ONNX value name -> value or sequence, enclosing graphs included.
    """

    def __init__(
        self,
        emitter: Emitter,
        model: loader.LoadedModel,
        values: MutableMapping[str, Entry] | None = None,
        opsets: Mapping[str, int] | None = None,
        prefix: str = "",
    ) -> None:
        self.emitter, self.model = emitter, model
        self.values: ChainMap[str, Entry] = ChainMap({}, *([values] if values is not None else []))
        self.opsets = model.opsets if opsets is None else opsets
        self.prefix = prefix

    def run(self, graph: GraphProto, arguments: Mapping[str, Entry]) -> list[Entry]:
        """The graph's outputs, given its inputs."""
        for tensor in graph.initializer:
            array = loader.read_initializer(tensor, self.model)
            self.values[tensor.name] = self._constant(array, tensor.name)
        for sparse in graph.sparse_initializer:
            self.values[sparse.values.name] = self._constant(self.dense(sparse), sparse.values.name)
        self.values.update(arguments)
        self.run_nodes(graph.node)
        return [self.values[o.name] for o in graph.output]

    def subgraph(self, graph: GraphProto, arguments: Sequence[Entry] = ()) -> list[Entry]:
        """Outputs of a nested graph, which reads this one's values, inserted where the emitter stands."""
        inner = GraphImporter(self.emitter, self.model, self.values, self.opsets, self.prefix)
        return inner.run(graph, dict(zip((i.name for i in graph.input), arguments, strict=True)))

    def _constant(self, array: Array, name: str) -> Value:
        with self.emitter.at(Location((name,), "Constant")):
            return self.emitter.constant(array, hint=sanitised(name))

    def dense(self, sparse: SparseTensorProto) -> Array:
        """A sparse tensor's elements, zeros included."""
        return loader.read_sparse(sparse, self.model.folder)

    def tensor(self, proto: TensorProto, what: str) -> Array:
        """A tensor attribute, external data included."""
        return loader.read_tensor(proto, self.model.folder, what)

    def run_nodes(self, nodes: Sequence[NodeProto]) -> None:
        """Import nodes in an order in which each follows what it reads."""
        for index, proto in loader.sort_nodes(nodes, set(self.values), "the graph"):
            location = loader.node_location(proto, index, self.prefix)
            with self.emitter.at(location):
                self._import(proto, location)

    def _import(self, proto: NodeProto, location: Location) -> None:
        domain = canonical_domain(proto.domain)
        inputs = [self.values[name] if name else None for name in proto.input]
        opset = self.opsets.get(domain, 1)
        node = Node(proto, inputs, opset, location, self)
        function = self.model.functions.get((domain, proto.op_type))
        if function is None and not takes_lists(domain, proto.op_type):
            node.reject_lists()
        handler = find_handler(domain, proto.op_type, opset) if function is None else None
        stepwise = self.emitter.strict and any(v is not None and is_narrow(v.type) for v in node.inputs)
        if function is None and (handler is None or stepwise):
            types = [None if v is None else v.type for v in node.inputs]
            function = functions.standard_function(proto, opset, domain, types)
            if function is None and handler is None:
                node.fail(f"not supported at opset {opset}")
        results = self._call(function, node) if function is not None else _apply(handler, self.emitter, node)
        if len(results) < node.output_count:
            node.fail(f"{node.output_count} outputs are wanted, {len(results)} are supported")
        for name, value in zip(proto.output, results, strict=False):
            if not name:
                continue
            if value is None:
                node.fail(f"output '{name}' is not supported")
            if isinstance(value, Value) and not value.hint:
                value.hint = sanitised(name)
            self.values[name] = value

    def _call(self, function: FunctionProto, node: Node) -> list[Entry | None]:
        """Inline a function at the node that calls it."""
        attributes: dict[str, AttributeProto] = {a.name: a for a in function.attribute_proto}
        attributes.update((a.name, a) for a in node.proto.attribute)
        opsets = {**self.opsets, **loader.opset_versions(function.opset_import)}
        inner = GraphImporter(self.emitter, self.model, None, opsets, f"{node.location}/")
        for name, value in zip(function.input, node.entries, strict=False):
            if value is not None:
                inner.values[name] = value
        inner.run_nodes(functions.bound_nodes(function, attributes, set(inner.values)))
        return [inner.values.get(name) for name in function.output]


def _apply(handler: Handler | None, emitter: Emitter, node: Node) -> list[Entry | None]:
    assert handler is not None
    try:
        results = handler(emitter, node)
    except CompileError as error:
        if error.location:
            raise
        error.location = node.location
        raise
    except (IndexError, ValueError, TypeError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise CompileError(f"{node.op_type}: malformed node: {error}", location=node.location) from error
    return [results] if isinstance(results, Value | Listed) else list(results)


def _sweep(region: Region) -> None:
    """Drop operations that nothing reads, last first."""
    for block in region.blocks:
        for operation in reversed(block):
            for nested in operation.regions:
                _sweep(nested)
            if not operation.is_terminator and not _needed(operation):
                operation.drop()


def _needed(operation: Operation) -> bool:
    return operation.has_side_effects or any(r.uses for r in operation.results)


__all__ = ["GraphImporter", "Known", "import_model"]
