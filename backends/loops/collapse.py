"""Merge adjacent axes that every access walks as one, and drop what loops don't need.

A contiguous elementwise kernel over [8, 128, 768] becomes one loop over 786432 elements, however many dimensions its
tensors have. Two adjacent axes a, b merge when in every index the coefficient of a is that of b times b's extent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ds_compiler.backends.loops.ir import (
    Axis,
    Graph,
    Index,
    Kernel,
    Nest,
    Node,
    Reduction,
    Step,
    Store,
    of_axis,
    step_nodes,
    walk,
)
from ds_compiler.ir.dims import product


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
        if isinstance(step, Reduction) and step.keep is not None:
            found[step.keep.index] = None
        for node in walk(step_nodes(step)):
            if node.index is not None:
                found[node.index] = None
            if node.op == "guard":
                found.update((i, None) for i, _ in node.payload)
    return list(found)


def contiguity(indices: list[Index], axis: Axis) -> int:
    """How well accesses at `indices` run along `axis`: one point for each that does, less one for each that strides."""
    score = 0
    for index in indices:
        step = index.coefficient(axis)
        score += 1 if step == 1 else -1 if step != 0 or axis in index.axes else 0
    return score


def _collapse_nest(nest: Nest, graph: Graph) -> Nest:
    (outer, inner), steps = collapse_axes(graph, [nest.outer, nest.inner], nest.steps)
    return Nest(outer, inner, steps, nest.serial)


def collapse_axes(graph: Graph, lists: list[list[Axis]], steps: list[Step]) -> tuple[list[list[Axis]], list[Step]]:
    """Merge what can be merged inside each of the `lists` of axes, never across lists; and the rewritten steps."""
    indices = indices_of(Nest([], [], steps))

    def merges(a: Axis, b: Axis) -> bool:
        return all(i.coefficient(a) == i.coefficient(b) * b.extent for i in indices)

    replaced: dict[Axis, Index] = {}
    result: list[list[Axis]] = []
    for axes in lists:
        groups: list[list[Axis]] = []
        for axis in axes:
            if groups and merges(groups[-1][-1], axis):
                groups[-1].append(axis)
            else:
                groups.append([axis])
        merged: list[Axis] = []
        for group in groups:
            if len(group) == 1:
                merged.append(group[0])
                continue
            new = Axis(group[-1].name, product(tuple(a.extent for a in group)))
            merged.append(new)
            replaced.update({a: Index() for a in group[:-1]})
            replaced[group[-1]] = of_axis(new)
        result.append(merged)
    return result, replace_axes(graph, steps, replaced) if replaced else steps


def replace_axes(graph: Graph, steps: list[Step], axes: dict[Axis, Index]) -> list[Step]:
    """The steps with each axis of `axes` replaced by an index."""
    rename = Renamer(graph, axes)
    return [rename.step(s) for s in steps]


class Renamer:
    """Rebuilds steps with axes replaced by indices, and nodes by those of `known`."""

    def __init__(self, graph: Graph, axes: dict[Axis, Index], known: Mapping[Node, Node] | None = None) -> None:
        self.graph, self.axes = graph, axes
        self._memo: dict[Node, Node] = dict(known or {})

    def index(self, index: Index) -> Index:
        total = Index((), index.offset)
        for atom, coefficient in index.terms:
            if isinstance(atom, Node):
                total = total + Index(((self.node(atom), coefficient),))
            else:
                total = total + self.axes.get(atom, of_axis(atom)).scaled(coefficient)
        return total

    def node(self, node: Node) -> Node:
        done = self._memo.get(node)
        if done is None:
            payload = node.payload
            extra: frozenset[Axis] = frozenset()
            if node.op == "guard":
                payload = tuple((self.index(i), e) for i, e in payload)
                extra = frozenset[Axis]().union(*(i.axes for i, _ in payload))
            elif node.op in ("reduced", "total"):
                extra = frozenset[Axis]().union(*(self.axes.get(a, of_axis(a)).axes for a in node.axes))
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
        if isinstance(step, Reduction):
            position = None if step.position is None else self.index(step.position)
            return replace(step, value=self.node(step.value), position=position)
        if isinstance(step, Store):
            return self.store(step)
        return replace(step, value=self.node(step.value), index=self.index(step.index))

    def store(self, step: Store) -> Store:
        return replace(step, value=self.node(step.value), index=self.index(step.index))
