"""Mark exponentials of what can't be positive: ``exp(x - max x)`` never overflows, which makes it cheaper."""

from __future__ import annotations

from dataclasses import replace

from ds_compiler.backends.loops.ir import Graph, Kernel, Nest, Node, Reduction, Step, Store, step_nodes, walk
from ds_compiler.backends.loops.keep import largest_is_one, replaced


def bound_exponentials(kernel: Kernel) -> Kernel:
    """The same kernel with ``exp`` of a difference to the row's maximum as ``exp_nonpositive``."""
    nests = [_in_nest(nest, kernel.graph) for nest in kernel.nests]
    return Kernel(kernel.buffers, kernel.inputs, nests, kernel.graph)


def _in_nest(nest: Nest, graph: Graph) -> Nest:
    steps: list[Step] = []
    for position, step in enumerate(nest.steps):
        found = [n for n in walk(step_nodes(step)) if n.op == "exp" and largest_is_one(n, nest.steps[:position])]
        for node in found:
            step = _with(graph, step, node, graph.node("exp_nonpositive", node.operands, node.dtype))
        steps.append(step)
    return Nest(nest.outer, nest.inner, steps, nest.serial)


def _with(graph: Graph, step: Step, old: Node, new: Node) -> Step:
    value = replaced(graph, step.value, old, new)
    if isinstance(step, Reduction) and step.keep is not None:
        keep: Store = replace(step.keep, value=replaced(graph, step.keep.value, old, new))
        return replace(step, value=value, keep=keep)
    return replace(step, value=value)
