"""Cut the inner axes of a nest into parts that run side by side: few outer points alone do not fill a processor.

    for o:                             for p, o:                               for o:
        r0 = sum over i of x[o, i]  →      r0 = sum over i of part p       →       r0 = sum over p of s[p, o]
        y[o] = f(r0)                       s[p, o] = r0                            y[o] = f(r0)

The partial results go to buffers of their own and are combined in a fixed order, so that a run gives the same bits as
any other. A product's parts are products again (split-K), and what follows it runs where they are combined. Reductions
that need results of earlier ones follow them; stores at inner points come last, in a nest without inner axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ds_compiler.backends.loops.collapse import Renamer
from ds_compiler.backends.loops.ir import (
    Axis,
    Graph,
    Index,
    Nest,
    Node,
    Reduction,
    Step,
    Store,
    of_axis,
    step_nodes,
    walk,
)
from ds_compiler.backends.loops.points import linear
from ds_compiler.ir.dims import Dim, ceildiv
from ds_compiler.ir.dtypes import DType, f32
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.reduction import identity

_ALIGNED = 16  # elements: parts begin where vectors do


@dataclass(frozen=True)
class SplitNest:
    """The nests that compute what one did, in order, and the buffers between them."""

    nests: list[Nest]
    scratch: list[TensorType]


def can_split(nest: Nest) -> bool:
    """Whether `split_nest` takes a nest: reductions of values, and stores that do not combine."""
    reductions = [s for s in nest.steps if isinstance(s, Reduction)]
    stores = [s for s in nest.steps if isinstance(s, Store)]
    return (
        bool(nest.inner and reductions)
        and not nest.serial
        and len(reductions) + len(stores) == len(nest.steps)
        and not any(r.argument or r.keep is not None for r in reductions)
        and all(s.mode == "set" for s in stores)
    )


def count_nests(nest: Nest) -> int:
    """How many nests `split_nest` would make."""
    levels = _levels([s for s in nest.steps if isinstance(s, Reduction)])
    return 2 * len(levels) + any(isinstance(s, Store) and s.inner for s in nest.steps)


def split_nest(nest: Nest, graph: Graph, parts: int, buffers: int, nominal: Callable[[Dim], int]) -> SplitNest:
    """`nest`, which `can_split` takes, with its inner axes in about `parts` parts.

    Args:
        buffers: the number of the first buffer that does not exist yet.
        nominal: what an open size is taken as.
    """
    return _Split(nest, graph, parts, buffers, nominal).run()


class _Split:
    def __init__(self, nest: Nest, graph: Graph, parts: int, buffers: int, nominal: Callable[[Dim], int]) -> None:
        self.nest, self.graph, self.buffers = nest, graph, buffers
        self.scratch: list[TensorType] = []
        self.nests: list[Nest] = []
        self.parts, self.inner, self.conditions, self.axes = _cut(nest.inner, parts, nominal)
        self.final: dict[int, Node] = {}  # of a reduction's number: its result in scratch

    def run(self) -> SplitNest:
        nest = self.nest
        reductions = [s for s in nest.steps if isinstance(s, Reduction)]
        at_points = [s for s in nest.steps if isinstance(s, Store) and s.inner]
        once = [s for s in nest.steps if isinstance(s, Store) and not s.inner]
        levels = _levels(reductions)
        for number, level in enumerate(levels):
            later: list[Step] = [*(r for rest in levels[number + 1 :] for r in rest), *at_points]
            self._level(level, once if number == len(levels) - 1 else [], _numbers(later))
        if at_points:
            known = self._renamer({}, self.final)
            self.nests.append(
                Nest([*nest.outer, *nest.inner], [], [replace(known.store(s), inner=False) for s in at_points])
            )
        return SplitNest(self.nests, self.scratch)

    def _level(self, level: Sequence[Reduction], stores: Sequence[Store], wanted: frozenset[int]) -> None:
        """Reductions that do not need one another: their parts, then the results, `stores`, and those that are `wanted`
        later."""
        outer = self.nest.outer
        cut = self._renamer(self.axes, self.final)
        split_outer = [*self.parts, *outer]
        partial: list[Step] = []
        combined: list[Step] = []
        for step in level:
            value = self._guarded(cut.node(step.value), step.how)
            partial.append(replace(step, value=value))
            buffer, index, dtype = self._buffer(split_outer, step.value.dtype)
            partial.append(Store(buffer, index, self._reduced(step, split_outer), inner=False))
            combined.append(replace(step, value=self.graph.load(buffer, index, dtype)))
        earlier = self._renamer({}, self.final)
        combined += [earlier.store(s) for s in stores]
        for step in level:
            if step.number in wanted:
                buffer, index, dtype = self._buffer(outer, step.value.dtype)
                combined.append(Store(buffer, index, self._reduced(step, outer), inner=False))
                self.final[step.number] = self.graph.load(buffer, index, dtype)
        self.nests.append(Nest(split_outer, self.inner, partial))
        self.nests.append(Nest(list(outer), self.parts, combined))

    def _buffer(self, axes: Sequence[Axis], dtype: DType) -> tuple[int, Index, DType]:
        """A new buffer with an element for each point of `axes`: its number, index and element type."""
        held = f32 if dtype.is_float and dtype.bits < 32 else dtype
        type_ = TensorType(tuple(a.extent for a in axes), held)
        self.scratch.append(type_)
        return self.buffers + len(self.scratch) - 1, linear(tuple(of_axis(a) for a in axes), type_), held

    def _reduced(self, step: Reduction, axes: Sequence[Axis]) -> Node:
        return self.graph.node("reduced", (), step.value.dtype, payload=step.number, extra_axes=axes)

    def _guarded(self, value: Node, how: str) -> Node:
        """`value` where the part has elements, else what does not matter; inside of a product, in its factors."""
        if not self.conditions:
            return value
        if how == "sum" and value.op == "mul":
            factors = (self.graph.guard(self.conditions, o, self.graph.constant(0, o.dtype)) for o in value.operands)
            return self.graph.node("mul", tuple(factors), value.dtype)
        dtype = np.dtype(np.float32) if value.dtype.is_float and value.dtype.bits < 32 else value.dtype.numpy
        neutral = np.asarray(identity(how, dtype)).item()
        return self.graph.guard(self.conditions, value, self.graph.constant(neutral, value.dtype))

    def _renamer(self, axes: dict[Axis, Index], results: dict[int, Node]) -> Renamer:
        known = {
            n: results[n.payload]
            for step in self.nest.steps
            for n in walk(step_nodes(step))
            if n.op == "reduced" and n.payload in results
        }
        return Renamer(self.graph, axes, known)


def _levels(reductions: Sequence[Reduction]) -> list[list[Reduction]]:
    """Reductions by how many others must come before them."""
    level_of: dict[int, int] = {}
    levels: list[list[Reduction]] = []
    for step in reductions:
        level = 1 + max((level_of[n] for n in _numbers([step])), default=-1)
        level_of[step.number] = level
        levels += [[] for _ in range(level + 1 - len(levels))]
        levels[level].append(step)
    return levels


def _numbers(steps: Sequence[Step]) -> frozenset[int]:
    """The reductions whose results steps read."""
    return frozenset(n.payload for s in steps for n in walk(step_nodes(s)) if n.op == "reduced")


def _cut(
    inner: Sequence[Axis], parts: int, nominal: Callable[[Dim], int]
) -> tuple[list[Axis], list[Axis], tuple[tuple[Index, Dim], ...], dict[Axis, Index]]:
    """Axes that number the parts; those of a part; when a point of it exists; what the cut axis is now.

    Leading axes number parts as they are; one that is too long for that is cut.
    """
    lead: list[Axis] = []
    for position, axis in enumerate(inner):
        extent = nominal(axis.extent)
        if extent <= parts and position < len(inner) - 1:
            lead.append(axis)
            parts //= max(extent, 1)
            continue
        if parts < 2:
            return lead, list(inner[position:]), (), {}
        length, count = _lengths(axis.extent, parts)
        part, rest = Axis("part", count), Axis(axis.name, length)
        index = of_axis(part).scaled(length) + of_axis(rest)
        exact = isinstance(axis.extent, int) and length * count == axis.extent
        conditions = () if exact else ((index, axis.extent),)
        return [*lead, part], [rest, *inner[position + 1 :]], conditions, {axis: index}
    raise AssertionError("the last axis ends the loop")


def _lengths(extent: Dim, parts: int) -> tuple[Dim, Dim]:
    """The length of parts and their number; equal parts if there is such a number near `parts`."""
    if not isinstance(extent, int):
        return ceildiv(extent, parts), parts
    for count in range(parts, parts // 2, -1):
        if extent % count == 0 and extent // count % _ALIGNED == 0:
            return extent // count, count
    length = -(-extent // parts)
    if length > _ALIGNED:
        length = -(-length // _ALIGNED) * _ALIGNED
    return length, -(-extent // length)
