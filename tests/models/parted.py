"""A model taken apart: each node reads the reference's values, so that what it does wrong is its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

Array = np.ndarray[Any, Any]


def with_all_outputs(model: ModelProto) -> ModelProto:
    """The model, whose outputs are the results of all nodes."""
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    found.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return found


def parted(model: ModelProto, values: Mapping[str, Array]) -> tuple[ModelProto, dict[str, str]]:
    """One model in which every node reads inputs, named as the values are, and constants.

    Returns:
        the model, and for each of its outputs the value that it should be equal to.
    """
    graph = model.graph
    fixed = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in fixed for name in node.input):
            fixed |= set(node.output)
    nodes: list[NodeProto] = []
    owns: dict[str, str] = {}
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.output[0] not in fixed:
            for position, name in enumerate(node.output):
                if name:
                    copy.output[position] = f"{name}__own"
                    owns[copy.output[position]] = name
        nodes.append(copy)
    read = sorted({name for node in nodes for name in node.input if name and name not in fixed})
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape)
        for name in read
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in owns]
    made = helper.make_graph(nodes, "parted", inputs, outputs, graph.initializer)
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version), owns
