"""Splits a graph where it holds operators that are not compiled: those stay in PyTorch."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import create_op_support

from ds_compiler.frontends.torch import supported

PREFIX = "ds_"


def operators(graph: GraphModule) -> list[Node]:
    """The operators of a graph, without what takes results apart and sizes."""
    return [n for n in graph.graph.nodes if n.op == "call_function" and not _is_bookkeeping(n)]


def unsupported(graph: GraphModule) -> Counter[str]:
    """Operators that PyTorch must run, by name."""
    return Counter(str(n.target) for n in operators(graph) if not supported(n))


def partitioned(graph: GraphModule) -> GraphModule:
    """The graph with what can be compiled in submodules called ``ds_0``, ``ds_1``…"""
    known: dict[Node, bool] = {}

    def is_supported(_: Any, node: Node) -> bool:
        if node not in known:
            known[node] = node.op == "call_function" and supported(node)
        return known[node]

    partitioner = CapabilityBasedPartitioner(graph, create_op_support(is_supported), allows_single_node_partition=True)
    partitions = partitioner.propose_partitions()
    # A partition that computes nothing but sizes or parts of results costs more than it saves.
    useful = [p for p in partitions if not all(_is_bookkeeping(n) for n in p.nodes)]
    split: GraphModule = partitioner.fuse_partitions(useful, prefix=PREFIX)
    return split


def _is_bookkeeping(node: Node) -> bool:
    return node.target is operator.getitem or not hasattr(node.target, "_schema") or "sym_" in str(node.target)
