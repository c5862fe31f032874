"""Kernels that read along one axis and write along another: square tiles transposed in registers.

Writing along axis A what is read along axis B, lane by lane, costs a gather for each vector. Instead a tile of L
vectors is loaded along B, one for each of L points of A, and transposed by shuffles into L vectors along A; what the
kernel computes of the elements is emitted on those. Two tiles side by side along B use whole cache lines of the
source before the next rows come.
"""

from __future__ import annotations

from contextlib import ExitStack

from ds_compiler.backends.llvm import scalars
from ds_compiler.backends.llvm.body import Body
from ds_compiler.backends.llvm.builder import V, bytes_of, vector_of
from ds_compiler.backends.llvm.packing import transpose_registers
from ds_compiler.backends.llvm.partition import each_point
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.loops.ir import Nest, Node, Store
from ds_compiler.backends.loops.tiling import Tiling

_TILES = 2  # side by side along the read axis


def emit_transposed(body: Body, nest: Nest, tiling: Tiling, target: Target, task: V, tasks: V) -> None:
    """Emit this task's share of a nest."""
    _Emitter(body, nest, tiling, target).run(task, tasks)


class _Emitter:
    def __init__(self, body: Body, nest: Nest, tiling: Tiling, target: Target) -> None:
        self.body, self.nest, self.tiling, self.fb = body, nest, tiling, body.fb
        widest = max(bytes_of(scalars.memory_type(n.dtype)) for n in tiling.loads)
        self.lanes = target.lanes("double" if widest == 8 else "float")

    def run(self, task: V, tasks: V) -> None:
        fb, body, tiling = self.fb, self.body, self.tiling
        others = [a for a in self.nest.outer if a not in (tiling.written, tiling.read)]
        extent, width = body.size(tiling.read.extent), body.size(tiling.written.extent)
        size = _TILES * self.lanes
        blocks = fb.sdiv(fb.add(extent, fb.i64(size - 1)), fb.i64(size))
        whole = fb.sub(width, fb.srem(width, fb.i64(self.lanes)))
        zero = fb.i64(0)

        def visit(block: V) -> None:
            first = fb.mul(block, fb.i64(size))
            last = fb.smin(fb.add(first, fb.i64(size)), extent)
            with fb.loop(zero, whole, self.lanes, hint="written") as loop, body.scope():
                self.tiles(first, last, loop.index, None)
            left = fb.sub(width, whole)
            if left.ref != "0":
                with ExitStack() as stack:
                    if not left.ref.isdigit():
                        stack.enter_context(fb.if_(fb.icmp("sgt", left, zero)))
                    stack.enter_context(body.scope())
                    self.tiles(first, last, whole, left)

        each_point(body, others, blocks, task, tasks, visit)

    def tiles(self, first: V, last: V, written: V, count: V | None) -> None:
        """The tiles of [first, last) of the read axis; `count` < lanes points of the written axis, None: all lanes."""
        fb, body, lanes = self.fb, self.body, self.lanes
        extent = self.tiling.read.extent
        if not isinstance(extent, int) or extent >= lanes:
            # Whole tiles of this block: the last block may have fewer.
            end = fb.add(first, fb.mul(fb.sdiv(fb.sub(last, first), fb.i64(lanes)), fb.i64(lanes)))
            with fb.loop(first, end, lanes, hint="tile") as loop, body.scope():
                self.tile(loop.index, written, None, count)
        if isinstance(extent, int):
            rest, start = extent % lanes, fb.i64(extent - extent % lanes)
            if not rest:
                return
            with fb.if_(fb.icmp("eq", last, fb.i64(extent))), body.scope():
                self.tile(start, written, fb.i64(rest), count)
            return
        left = fb.sub(last, end)
        with fb.if_(fb.icmp("sgt", left, fb.i64(0))), body.scope():
            self.tile(end, written, left, count)

    def tile(self, read: V, written: V, rows: V | None, count: V | None) -> None:
        """One tile: `rows` < lanes points of the read axis (None: all lanes), `count` of the written one."""
        fb, body, lanes = self.fb, self.body, self.lanes
        columns = {load: self.transposed(load, read, written, rows, count) for load in self.tiling.loads}
        mask = None if count is None else fb.lane_mask(count, lanes)
        known = None if rows is None or not rows.ref.isdigit() else int(rows.ref)
        for i in range(lanes if rows is None else known if known is not None else lanes - 1):
            with ExitStack() as stack:
                if rows is not None and known is None:
                    stack.enter_context(fb.if_(fb.icmp("slt", fb.i64(i), rows)))
                stack.enter_context(body.lanes_at(self.tiling.written, written, lanes, mask))
                body.axes[self.tiling.read] = fb.add(read, fb.i64(i))
                saved = dict(body.given)
                body.given.update({load: vectors[i] for load, vectors in columns.items()})
                for step in self.nest.steps:
                    assert isinstance(step, Store)
                    body.store(step)
                body.given.clear()
                body.given.update(saved)

    def transposed(self, load: Node, read: V, written: V, rows: V | None, count: V | None) -> list[V]:
        """The vectors along the written axis, one for each point of the read axis."""
        fb, body, lanes, tiling = self.fb, self.body, self.lanes, self.tiling
        assert load.index is not None
        type_ = vector_of(scalars.memory_type(load.dtype), lanes)
        mask = None if rows is None else fb.lane_mask(rows, lanes)
        loaded: list[V] = []
        for j in range(lanes):
            at = fb.i64(j) if count is None else fb.smin(fb.i64(j), fb.sub(count, fb.i64(1)))
            if count is not None and count.ref.isdigit() and j >= int(count.ref):
                loaded.append(loaded[-1])  # no such point: any value, it is not stored
                continue
            body.axes[tiling.written] = fb.add(written, at)
            with body.lanes_at(tiling.read, read, lanes, mask):
                address, _, _ = body.address(load.payload, load.index)
                loaded.append(fb.load(type_, address) if mask is None else fb.masked_load(type_, address, mask))
        return [scalars.from_memory(fb, vector, load.dtype) for vector in transpose_registers(fb, loaded)]
