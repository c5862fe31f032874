"""Operators defined as functions (the model's own, or ONNX's), and the check that all operators are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, helper

from ds_compiler.frontends.onnx import loader
from ds_compiler.frontends.onnx.registry import canonical_domain, find_handler
from ds_compiler.ir import CompileError, TensorType

_SHOWN = 3
"""Nodes that an error names for each missing operator."""

_MOST_NODES = 100_000
_DEEPEST = 100


def check_supported(model: loader.LoadedModel) -> None:
    """Raise one error that names every operator of the model that cannot be imported.

    Raises:
        CompileError: operators are missing, a node's domain is not imported, a function calls itself, or functions
            expand to an absurd number of nodes.
    """
    survey = _Survey(model)
    survey.nodes(model.proto.graph.node, model.opsets, ())
    if not survey.missing:
        return
    parts = []
    for (domain, name), nodes in sorted(survey.missing.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(f"'{n}'" for n in nodes[:_SHOWN]) + (", …" if len(nodes) > _SHOWN else "")
        origin = f" of domain '{domain}'" if domain else ""
        parts.append(f"{name}{origin} ({len(nodes)} node{'s' if len(nodes) > 1 else ''}: {shown})")
    version = model.opsets.get("", "")
    raise CompileError(f"operators are not supported at opset {version}: {'; '.join(parts)}")


class _Survey:
    """Walks all nodes, the model's functions once each.

    Attributes:
        missing: nodes by the operator that nothing imports.
    """

    def __init__(self, model: loader.LoadedModel) -> None:
        self.model = model
        self.missing: dict[tuple[str, str], list[str]] = {}
        self._expanded: dict[tuple[str, str], int] = {}

    def nodes(self, nodes: Iterable[NodeProto], opsets: Mapping[str, int], callers: tuple[tuple[str, str], ...]) -> int:
        """How many nodes they are with functions and subgraphs expanded."""
        count = 0
        for index, node in enumerate(nodes):
            count += 1 + sum(self.nodes(graph.node, opsets, callers) for graph in loader.subgraphs(node))
            key = (canonical_domain(node.domain), node.op_type)
            if key in self.model.functions:
                count += self._function(key, node, index, opsets, callers)
            else:
                self._operator(key, node, index, opsets)
            if count > _MOST_NODES:
                what = f"functions expand to more than {_MOST_NODES} nodes"
                raise CompileError(what, location=loader.node_location(node, index))
        return count

    def _function(
        self,
        key: tuple[str, str],
        node: NodeProto,
        index: int,
        opsets: Mapping[str, int],
        callers: tuple[tuple[str, str], ...],
    ) -> int:
        if key in callers:
            raise CompileError(f"function '{key[1]}' calls itself", location=loader.node_location(node, index))
        if len(callers) > _DEEPEST:
            raise CompileError(f"functions call one another more than {_DEEPEST} levels deep")
        if key not in self._expanded:
            function = self.model.functions[key]
            inner = {**opsets, **loader.opset_versions(function.opset_import)}
            self._expanded[key] = self.nodes(function.node, inner, (*callers, key))
        return self._expanded[key]

    def _operator(self, key: tuple[str, str], node: NodeProto, index: int, opsets: Mapping[str, int]) -> None:
        location = loader.node_location(node, index)
        if key[0] not in opsets:
            raise CompileError(f"{node.op_type}: the model does not import domain '{key[0]}'", location=location)
        if find_handler(*key, opsets[key[0]]) is None and not _has_function(node, opsets[key[0]], key[0]):
            self.missing.setdefault(key, []).append(str(location))


def _schema(name: str, opset: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        return None


def _has_function(node: NodeProto, opset: int, domain: str) -> bool:
    schema = _schema(node.op_type, opset, domain)
    return schema is not None and not schema.deprecated and (_has_body(schema) or _is_contextual(schema))


def _is_contextual(schema: onnx.defs.OpSchema) -> bool:
    return bool(schema.has_context_dependent_function)  # type: ignore[attr-defined]


def _has_body(schema: onnx.defs.OpSchema) -> bool:
    return bool(schema.has_function)  # type: ignore[attr-defined]


def standard_function(
    node: NodeProto, opset: int, domain: str, types: Sequence[TensorType | None]
) -> FunctionProto | None:
    """The definition that ONNX gives for the operator as a function of others, if there is one."""
    schema = _schema(node.op_type, opset, domain)
    if schema is None:
        return None
    if _has_body(schema):
        body = FunctionProto()
        body.CopyFrom(schema.function_body)
        defaults = (attribute.default_value for attribute in schema.attributes.values())
        body.attribute_proto.extend(default for default in defaults if default.type)
        return body
    if not _is_contextual(schema):
        return None
    protos = [_type_proto(t).SerializeToString() for t in types]
    body = schema.get_context_dependent_function(node.SerializeToString(), protos)  # type: ignore[attr-defined]
    function = FunctionProto()
    function.ParseFromString(body)
    return function


def _type_proto(type_: TensorType | None) -> onnx.TypeProto:
    if type_ is None:
        return onnx.TypeProto()
    shape = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(type_.dtype.numpy), shape)


def bound_nodes(function: FunctionProto, attributes: Mapping[str, AttributeProto], given: set[str]) -> list[NodeProto]:
    """The function's nodes with references to its attributes replaced, and inputs that the caller left out cleared."""
    absent = set(function.input) - given
    return [_bound(node, attributes, absent) for node in function.node]


def _bound(node: NodeProto, attributes: Mapping[str, AttributeProto], absent: set[str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.input[:] = ["" if name in absent else name for name in node.input]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            source = attributes.get(attribute.ref_attr_name)
            if source is None:
                continue
            bound = copy.attribute.add()
            bound.CopyFrom(source)
            bound.name = attribute.name
            continue
        bound = copy.attribute.add()
        bound.CopyFrom(attribute)
        if bound.HasField("g"):
            _bind_graph(bound.g, attributes, absent)
        for graph in bound.graphs:
            _bind_graph(graph, attributes, absent)
    return copy


def _bind_graph(graph: GraphProto, attributes: Mapping[str, AttributeProto], absent: set[str]) -> None:
    nodes = [_bound(node, attributes, absent) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
