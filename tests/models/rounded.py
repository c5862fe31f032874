"""A float16 model as ONNX defines it: each node by itself, and its results rounded to float16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def run_rounded(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """Every node by onnxruntime in float32, its results rounded where it reads float16.

    Graphs may hold subgraphs, which are computed whole, and not rounded inside.
    """
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | dict(feeds)
    waiting = list(model.graph.node)
    while waiting:
        node = next(n for n in waiting if _reads(n) <= known.keys())
        waiting.remove(node)
        known |= _run_node(model, node, {name: known[name] for name in sorted(_reads(node))})
    return [known[value.name] for value in model.graph.output]


def _reads(node: NodeProto) -> set[str]:
    found = set(node.input) - {""}
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            graph = attribute.g
            inner = {t.name for t in graph.initializer} | {v.name for v in graph.input}
            inner |= {name for n in graph.node for name in n.output}
            found |= set().union({v.name for v in graph.output}, *map(_reads, graph.node)) - inner
    return found


def _run_node(model: ModelProto, node: NodeProto, values: Mapping[str, Array]) -> dict[str, Array]:
    import onnxruntime

    narrow = node.op_type != "Cast" and any(v.dtype == np.float16 for v in values.values())
    feeds = {k: v.astype(np.float32) if narrow and v.dtype == np.float16 else v for k, v in values.items()}
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, [helper.make_empty_tensor_value_info(name) for name in names])
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    results = dict(zip(names, session.run(None, feeds), strict=True))
    return {k: v.astype(np.float16) if narrow and v.dtype == np.float32 else v for k, v in results.items()}
