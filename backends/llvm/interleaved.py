"""Kernels that store a few values side by side for each element read (nearest upscaling, pixel shuffle).

The innermost axis is then only those few long, and the one before it is read contiguously. Vectors run along that
one: the kernel is computed once for each of the few, and the results are interleaved by shuffles before they are
stored.
"""

from __future__ import annotations

from contextlib import ExitStack

from ds_compiler.backends.llvm import scalars
from ds_compiler.backends.llvm.body import Body
from ds_compiler.backends.llvm.builder import V
from ds_compiler.backends.llvm.partition import each_point
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.loops.ir import Axis, Nest, Node, Store, step_nodes, walk

_SIDE_BY_SIDE = 8  # results of one element that are interleaved at most
_CHUNK = 1024  # elements along the vector axis that are one unit of work


def find_interleaving(nest: Nest) -> tuple[Axis, Axis] | None:
    """The axis for vectors and the short one inside it; None for nests that store in another way."""
    if nest.serial or nest.inner or len(nest.outer) < 2:
        return None
    along, inside = nest.outer[-2:]
    count = inside.extent
    if not isinstance(count, int) or not 2 <= count <= _SIDE_BY_SIDE:
        return None
    for step in nest.steps:
        if not isinstance(step, Store) or step.mode != "set":
            return None
        if step.index.coefficient(inside) != 1 or step.index.coefficient(along) != count:
            return None
        if any(isinstance(atom, Node) for atom, _ in step.index.terms):
            return None
    loads = [n for n in walk([n for s in nest.steps for n in step_nodes(s)]) if n.op == "load" and n.index is not None]
    if any(n.index is not None and n.index.coefficient(along) not in (0, 1) for n in loads):
        return None
    return along, inside


def emit_interleaved(body: Body, nest: Nest, axes: tuple[Axis, Axis], target: Target, task: V, tasks: V) -> None:
    """Emit this task's share of a nest that `find_interleaving` gave `axes` for."""
    fb, (along, inside) = body.fb, axes
    lanes, count = target.lanes("float"), inside.extent
    assert isinstance(count, int)
    extent = body.size(along.extent)
    chunks = fb.sdiv(fb.add(extent, fb.i64(_CHUNK - 1)), fb.i64(_CHUNK))

    def point(at: V, left: V | None) -> None:
        mask = None if left is None else fb.lane_mask(left, lanes)
        for step in nest.steps:
            assert isinstance(step, Store)
            values: list[V] = []
            # What does not depend on the short axis is one vector, repeated.
            for n in range(count if inside in step.value.axes else 1):
                with body.lanes_at(along, at, lanes, mask):
                    body.axes[inside] = fb.i64(n)
                    value = body.vectorised(body.emit(step.value))
                    values.append(scalars.to_memory(fb, value, step.value.dtype))
                    if n == 0:
                        address, _, _ = body.address(step.buffer, step.index)
            values = values * (count // len(values))
            for number, vector in enumerate(interleave(body, values)):
                to = fb.gep(vector.element, address, fb.i64(number * lanes))
                if left is None:
                    fb.store(vector, to)
                else:
                    present = fb.sub(fb.mul(left, fb.i64(count)), fb.i64(number * lanes))
                    fb.masked_store(vector, to, _prefix(body, present, lanes))

    def visit(unit: V) -> None:
        first = fb.mul(unit, fb.i64(_CHUNK))
        last = fb.smin(fb.add(first, fb.i64(_CHUNK)), extent)
        whole = fb.add(first, fb.mul(fb.sdiv(fb.sub(last, first), fb.i64(lanes)), fb.i64(lanes)))
        varying = frozenset(axes)
        for step in nest.steps:
            assert isinstance(step, Store)
            body.hoist(step_nodes(step), [step.index], varying)
        with fb.loop(first, whole, lanes, hint="vector") as loop, body.scope():
            point(loop.index, None)
        if isinstance(along.extent, int) and along.extent % lanes == 0:
            return
        left = fb.sub(last, whole)
        if isinstance(along.extent, int) and along.extent <= _CHUNK:
            left = fb.i64(along.extent % lanes)
        with ExitStack() as stack:
            stack.enter_context(fb.if_(fb.icmp("sgt", left, fb.i64(0))))
            stack.enter_context(body.scope())
            point(whole, left)

    each_point(body, nest.outer[:-2], chunks, task, tasks, visit)


def _prefix(body: Body, count: V, lanes: int) -> V:
    """A mask of the first `count` lanes: none below 0, all from `lanes` on."""
    fb = body.fb
    return fb.lane_mask(fb.smin(fb.smax(count, fb.i64(0)), fb.i64(lanes)), lanes)


def interleave(body: Body, vectors: list[V]) -> list[V]:
    """As many vectors again: the first lanes of all, then their second lanes, and so on."""
    fb, count, lanes = body.fb, len(vectors), vectors[0].lanes
    source = vectors[0]
    if all(v == source for v in vectors):
        return [fb.shuffle(source, source, [(n * lanes + i) // count for i in range(lanes)]) for n in range(count)]
    together = list(vectors)
    while len(together) > 1:  # one vector of all lanes; code generation sees only the shuffles below
        if len(together) % 2:
            together.append(together[-1])
        together = [fb.shuffle(a, b, range(2 * a.lanes)) for a, b in zip(together[::2], together[1::2], strict=True)]
    wide = together[0]
    return [
        fb.shuffle(wide, wide, [e % count * lanes + e // count for e in range(n * lanes, (n + 1) * lanes)])
        for n in range(count)
    ]
