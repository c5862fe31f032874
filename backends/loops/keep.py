"""Keep costly values that a reduction computes in the result's own buffer, instead of computing them again.

Softmax stores ``exp(x - max) / sum``: the exponentials are needed for the sum first. They go to the result as the sum
runs over them, and the last step rescales them in place: one exponential an element, not two.
"""

from __future__ import annotations

from dataclasses import replace

from ds_compiler.backends.loops.ir import Graph, Kernel, Nest, Node, Reduction, Step, Store, walk
from ds_compiler.ops.elementwise import BINARY, UNARY

_COSTLY_FLOPS = 8  # what a store and a load from the first-level cache are worth


def keep_costly(kernel: Kernel) -> Kernel:
    """The same kernel; a reduction followed by a store of what it sums, computed further, fills the buffer first."""
    nests = [_keep_in_nest(nest, kernel.graph) for nest in kernel.nests]
    return Kernel(kernel.buffers, kernel.inputs, nests, kernel.graph)


def _keep_in_nest(nest: Nest, graph: Graph) -> Nest:
    inner = frozenset(nest.inner)
    for position, step in enumerate(nest.steps):
        if not isinstance(step, Store) or not step.inner or step.mode != "set":
            continue
        for earlier, reduction in enumerate(nest.steps[:position]):
            if not isinstance(reduction, Reduction) or reduction.argument or reduction.keep is not None:
                continue
            value = _costliest_common(reduction.value, step.value, inner)
            # Kept values are read again exactly: only types that the buffer holds unrounded.
            if value is None or value.dtype.name not in ("f32", "f64") or value.dtype != step.value.dtype:
                continue
            loaded = graph.load(step.buffer, step.index, value.dtype)
            rest = replaced(graph, step.value, value, loaded)
            if reduction.how == "sum" and largest_is_one(value, nest.steps[:earlier]):
                rest = _scaled(graph, rest, loaded, reduction.number)
            final = replace(step, value=rest)
            steps: list[Step] = list(nest.steps)
            steps[earlier] = replace(reduction, keep=Store(step.buffer, step.index, value, inner=True))
            steps[position] = final
            return Nest(nest.outer, nest.inner, steps, nest.serial)
    return nest


def _costliest_common(a: Node, b: Node, inner: frozenset[object]) -> Node | None:
    """The most costly node below both that varies along the inner axes."""
    shared = set(walk([a])) & set(walk([b]))
    found = [(cost, n) for n in shared if n.axes & inner and n.index is None and (cost := _flops(n)) >= _COSTLY_FLOPS]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def largest_is_one(value: Node, steps: list[Step]) -> bool:
    """``exp(x - max x)``: no value is above 1, and the sum is at least 1 (or they are NaN)."""
    if value.op != "exp" or value.operands[0].op != "sub":
        return False
    x, top = value.operands[0].operands
    tops = (s for s in steps if isinstance(s, Reduction) and not s.argument and s.how == "max")
    return top.op == "reduced" and any(s.number == top.payload and s.value is x for s in tops)


def _scaled(graph: Graph, root: Node, kept: Node, number: int) -> Node:
    """``kept / sum`` as ``kept * (1 / sum)``: one division a row, and one rounding more. The sum must not be tiny."""
    for node in walk([root]):
        if node.op == "div" and node.operands[0] is kept:
            total = node.operands[1]
            if total.op == "reduced" and total.payload == number:
                factor = graph.node("reciprocal", (total,), total.dtype)
                return replaced(graph, root, node, graph.node("mul", (kept, factor), node.dtype))
    return root


def _flops(root: Node) -> int:
    rules = UNARY | BINARY
    return sum(rules[n.op].flops for n in walk([root]) if n.op in rules and n.dtype.is_float)


def replaced(graph: Graph, node: Node, old: Node, new: Node) -> Node:
    """`node` with `old` replaced by `new` below it (indices and conditions hold no floats: they stay)."""
    if node is old:
        return new
    if not node.operands:
        return node
    operands = tuple(replaced(graph, o, old, new) for o in node.operands)
    if operands == node.operands:
        return node
    return graph.node(
        node.op, operands, node.dtype, index=node.index, payload=node.payload, extra_axes=node.axes - new.axes
    )
