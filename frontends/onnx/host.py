"""The part of a model that no program computes: tensors of strings and encoded images. It runs on the host, in Python.

A graph is split into nodes in front of the program, the program, and nodes behind it. Host nodes are run by ONNX's
reference evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper
from onnx.reference.op_run import OpRun

from ds_compiler.frontends.onnx import loader
from ds_compiler.frontends.onnx.given import NotOneProgram
from ds_compiler.ir import CompileError

ALWAYS: Final = frozenset({"ImageDecoder", "ZipMap"})
"""Operators that no program computes, whatever they read."""

ON_STRINGS: Final = frozenset({
    "ArrayFeatureExtractor", "Cast", "Concat", "Constant", "Equal", "Expand", "Flatten", "Gather", "Identity",
    "LabelEncoder", "OneHotEncoder", "RegexFullMatch", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze",
    "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators that may read or yield strings."""

_CLASSIFIERS: Final = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
"""Operators whose labels may be strings; the program then yields their numbers."""


@dataclass(frozen=True)
class Split:
    """A model in three parts, each of which may be missing; their inputs and outputs have the model's value names.

    Attributes:
        nodes: the host's, by name and operator.
    """

    before: ModelProto | None
    core: ModelProto | None
    after: ModelProto | None
    nodes: tuple[str, ...]


def needs_host(graph: GraphProto) -> str | None:
    """Why no program computes all of the graph; None if one may."""
    for value in (*graph.input, *graph.output):
        if _is_string(value.type):
            return f"'{value.name}' is a tensor of strings"
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.STRING:
            return f"initializer '{tensor.name}' is a tensor of strings"
    for node in graph.node:
        if node.op_type in ALWAYS:
            return f"{node.op_type} runs on the host"
        if any(a.type == onnx.AttributeProto.TENSOR and a.t.data_type == TensorProto.STRING for a in node.attribute):
            return f"a constant of {node.op_type} is a tensor of strings"
    return None


def check_native(graph: GraphProto) -> None:
    """Raise if no program computes all of the graph.

    Raises:
        NotOneProgram: its strings and images are the host's.
    """
    if reason := needs_host(graph):
        help = "call the model from Python (ds.compile), which runs the rest as a program"
        raise NotOneProgram(reason, help=help, host=True)


def split(model: ModelProto) -> Split:
    """Take the host's nodes out of a model.

    Raises:
        CompileError: an operator on strings is not supported; or strings that a program's results decide feed another
            program.
    """
    model = _numbered(model)
    graph = model.graph
    types = _types(model)
    strings = {name for name, type_ in types.items() if _is_string(type_)}
    free = {name for node in graph.node if not loader.reads(node) for name in node.output}
    ready = {v.name for v in graph.input} | {t.name for t in graph.initializer} | free
    before: list[NodeProto] = []
    core: list[NodeProto] = []
    after: list[NodeProto] = []
    behind: set[str] = set()
    for index, node in loader.sort_nodes(graph.node, {v.name for v in graph.input} | _initial(graph), "the graph"):
        reads = loader.reads(node)
        touches = strings & (reads | set(node.output))
        if not touches and node.op_type not in ALWAYS:
            if late := sorted(reads & behind):
                what = f"{node.op_type}: reads '{late[0]}', which depends on strings that a program's results decide"
                raise CompileError(f"{what}; that is not supported", location=loader.node_location(node, index))
            core.append(node)
        elif node.op_type not in ON_STRINGS | ALWAYS:
            what = f"{node.op_type}: '{min(touches)}' is a tensor of strings, which is not supported"
            raise CompileError(what, location=loader.node_location(node, index))
        elif reads <= ready:
            before.append(node)
            ready |= set(node.output)
        else:
            after.append(node)
            behind |= set(node.output)
    parts = [before, core, after]
    wanted = [v.name for v in graph.output]

    def part(position: int) -> ModelProto | None:
        read_later = set(wanted).union(*(loader.reads(node) for later in parts[position + 1 :] for node in later))
        return _part(model, parts[position], read_later, types)

    named = [f"{node.op_type} '{loader.node_location(node, 0)}'" for node in (*before, *after) if loader.reads(node)]
    return Split(part(0), part(1), part(2), tuple(named))


def _initial(graph: GraphProto) -> set[str]:
    return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}


def _part(
    model: ModelProto, nodes: list[NodeProto], read_later: set[str], types: Mapping[str, TypeProto]
) -> ModelProto | None:
    """The nodes as a model: its inputs are what they read, its outputs what is read after them."""
    graph = model.graph
    constant = [node for node in graph.node if not loader.reads(node)]
    work = [node for node in nodes if loader.reads(node)]
    needed = set().union(*map(loader.reads, work)) if work else set()
    free = [node for node in constant if set(node.output) & (needed | (read_later if nodes else set()))]
    if not work and not any(node in nodes for node in free):
        return None
    made = {name for node in (*free, *work) for name in node.output}
    initializers = [t for t in graph.initializer if t.name in needed]
    inputs = sorted(needed - made - {t.name for t in initializers})
    own = [node for node in (*free, *work) if node in nodes]
    outputs = sorted({name for node in own for name in node.output if name in read_later})
    part = helper.make_graph(
        [*free, *work],
        graph.name or "part",
        [_described(name, types) for name in inputs],
        [_described(name, types) for name in outputs],
        initializers,
    )
    made_model = helper.make_model(part, opset_imports=model.opset_import, functions=model.functions)
    made_model.ir_version = model.ir_version
    return made_model


def _described(name: str, types: Mapping[str, TypeProto]) -> ValueInfoProto:
    if name in types:
        return helper.make_value_info(name, types[name])
    return helper.make_empty_tensor_value_info(name)


def _types(model: ModelProto) -> dict[str, TypeProto]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {v.name: v.type for v in (*inferred.value_info, *inferred.output, *inferred.input)}
    for tensor in inferred.initializer:
        found[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return found


def _is_string(type_: TypeProto) -> bool:
    if type_.HasField("optional_type"):
        type_ = type_.optional_type.elem_type
    if type_.HasField("sequence_type"):
        type_ = type_.sequence_type.elem_type
    if type_.HasField("map_type"):
        return True
    return bool(type_.HasField("tensor_type") and type_.tensor_type.elem_type == TensorProto.STRING)


def _numbered(model: ModelProto) -> ModelProto:
    """A copy in which classifiers yield the numbers of labels that are strings, and the host looks the labels up."""
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        copy.graph.node.append(node)
        labels = [a for a in node.attribute if a.name == "classlabels_strings" and a.strings]
        if node.op_type not in _CLASSIFIERS or not labels or not node.output[0]:
            continue
        changed = copy.graph.node[-1]
        kept = [a for a in node.attribute if not a.name.startswith("classlabels_")]
        del changed.attribute[:]
        changed.attribute.extend(kept)
        names, numbers = list(labels[0].strings), list(range(len(labels[0].strings)))
        field = "classlabels_ints" if node.op_type == "LinearClassifier" else "classlabels_int64s"
        if node.op_type == "SVMClassifier":
            field = "classlabels_ints"
        changed.attribute.append(helper.make_attribute(field, numbers))
        label, number = node.output[0], f"{node.output[0]}__number"
        changed.output[0] = number
        lookup = helper.make_node(
            "LabelEncoder", [number], [label], f"{node.name or label}_labels", domain="ai.onnx.ml",
            keys_int64s=numbers, values_strings=names,
        )  # fmt: skip
        copy.graph.node.append(lookup)
    return copy


class ZipMap(OpRun):
    """ai.onnx.ml's ZipMap: for each row a dict from label to value."""

    op_domain = "ai.onnx.ml"

    def _run(self, x: Any, classlabels_int64s: Any = None, classlabels_strings: Any = None) -> tuple[Any]:
        labels = list(classlabels_strings) if classlabels_strings else [int(c) for c in classlabels_int64s]
        return ([dict(zip(labels, row, strict=True)) for row in np.atleast_2d(x)],)


def evaluator(model: ModelProto) -> Any:
    """What runs a host part: ``run(names, feeds)`` as onnxruntime does."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model, new_ops=[ZipMap])
