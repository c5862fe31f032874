"""Merge adjacent axes that every access walks as one, and drop what loops don't need.

A contiguous elementwise kernel over [8, 128, 768] becomes one loop over 786432 elements, however many dimensions its
tensors have. Two adjacent axes a, b merge when in every index the coefficient of a is that of b times b's extent.
"""

from __future__ import annotations

from ds_compiler.backends.loops.ir import Axis, Graph, Index, Kernel, Nest, Node, Reduction, Step, step_nodes, walk


def collapse(kernel: Kernel) -> Kernel:
    """The same kernel with merged axes."""
    return Kernel(kernel.buffers, kernel.inputs, [_collapse_nest(n, kernel.graph) for n in kernel.nests], kernel.graph)


def indices_of(nest: Nest) -> list[Index]:
    """Every index that the nest evaluates."""
    found: dict[Index, None] = {}
    for step in nest.steps:
        own = step.position if isinstance(step, Reduction) else step.index
        if own is not None:
            found[own] = None
        for node in walk(step_nodes(step)):
            if node.index is not None:
                found[node.index] = None
            if node.op == "guard":
                found.update((i, None) for i, _ in node.payload)
    return list(found)


def _collapse_nest(nest: Nest, graph: Graph) -> Nest:
    indices = indices_of(nest)

    def groups(axes: list[Axis]) -> list[list[Axis]]:
        out: list[list[Axis]] = []
        for axis in axes:
            if out and all(i.coefficient(out[-1][-1]) == i.coefficient(axis) * axis.extent for i in indices):
                out[-1].append(axis)
            else:
                out.append([axis])
        return out

    outer, inner = groups(nest.outer), groups(nest.inner)
    if all(len(g) == 1 for g in (*outer, *inner)):
        return nest
    replaced: dict[Axis, Axis | None] = {}

    def merged(parts: list[list[Axis]]) -> list[Axis]:
        out: list[Axis] = []
        for group in parts:
            if len(group) == 1:
                out.append(group[0])
                continue
            extent = group[0].extent
            for axis in group[1:]:
                extent = extent * axis.extent
            new = Axis(group[-1].name, extent)
            out.append(new)
            replaced.update(dict.fromkeys(group[:-1]))
            replaced[group[-1]] = new
        return out

    rename = _Renamer(graph, replaced)
    new_outer, new_inner = merged(outer), merged(inner)
    return Nest(new_outer, new_inner, [rename.step(s) for s in nest.steps], nest.serial)


class _Renamer:
    """Rebuilds steps with axes replaced; an axis mapped to None is part of its group's last axis."""

    def __init__(self, graph: Graph, axes: dict[Axis, Axis | None]) -> None:
        self.graph, self.axes = graph, axes
        self._memo: dict[Node, Node] = {}

    def index(self, index: Index) -> Index:
        total = Index((), index.offset)
        for atom, coefficient in index.terms:
            new: Axis | Node | None = self.node(atom) if isinstance(atom, Node) else self.axes.get(atom, atom)
            if new is not None:
                total = total + Index(((new, coefficient),))
        return total

    def node(self, node: Node) -> Node:
        done = self._memo.get(node)
        if done is None:
            payload = node.payload
            extra: frozenset[Axis] = frozenset()
            if node.op == "guard":
                payload = tuple((self.index(i), e) for i, e in payload)
                extra = frozenset[Axis]().union(*(i.axes for i, _ in payload))
            elif node.op == "reduced":
                extra = frozenset(new for a in node.axes if (new := self.axes.get(a, a)) is not None)
            elif node.op == "const":
                self._memo[node] = node
                return node
            done = self._memo[node] = self.graph.node(
                node.op,
                tuple(self.node(o) for o in node.operands),
                node.dtype,
                index=None if node.index is None else self.index(node.index),
                payload=payload,
                extra_axes=extra,
            )
        return done

    def step(self, step: Step) -> Step:
        from dataclasses import replace

        if isinstance(step, Reduction):
            position = None if step.position is None else self.index(step.position)
            return replace(step, value=self.node(step.value), position=position)
        return replace(step, value=self.node(step.value), index=self.index(step.index))
