"""Dense and grouped convolution as an implicit matrix product on register tiles, channels last.

A tile of ``mr`` output pixels x ``nv`` vectors of output channels is accumulated over *segments*: stretches of the
input that are contiguous in memory and belong to one kernel tap. How a tile finds them is chosen by shape:

* ``rows``: a 1x1 kernel without stride or padding is a plain matrix product over all pixels (one a group);
* ``taps``: a table holds the address of each (tap, pixel); taps in the padding point to zeros, so that the
  inner loop has no special case for the border;
* ``lines``: with few input channels (the first layer) a segment is a whole kernel row of the window. A window that
  reaches over the left or right edge is copied to scratch first, with zeros;
* ``gather``: few channels, but rows are not contiguous (groups, dilation), or too short: each pixel's window
  is copied to scratch once and used for all output channels.

Blocking: a block of pixel tiles stays in the second-level cache while the weight panels pass by; a panel's piece of
about 256 rows stays in the first-level cache for all tiles of the block. When there are several pieces, their sums
wait in scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, vector_of
from ds_compiler.backends.llvm.conv_plan import (
    Plan,
    aligned,
    conv_plan,
    conv_scratch_bytes,
    pack_conv_weight,
    scratch_parts,
)
from ds_compiler.backends.llvm.conv_windows import Grid, InputWindows
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import Tile, accumulate, zero_tile
from ds_compiler.backends.llvm.window import ConvShape, Epilogue, ceil_div, index, share

__all__ = ["ConvShape", "conv_scratch_bytes", "emit_conv", "emit_grid", "pack_conv_weight"]


def emit_conv(
    fb: FunctionBuilder,
    target: Target,
    *,
    shape: ConvShape,
    x: V,
    w: V,
    task: V,
    tasks: V,
    scratch: V,
    epilogue: Epilogue,
    element: str = "float",
) -> None:
    """Emit a convolution of ``x: [n, h, w, ci]``; `w` is from `pack_conv_weight`.

    Each output vector goes to ``epilogue(fb, image, pixel, channel, lanes, mask, value)`` once, from one of the
    `tasks`, with pixel = oh * OW + ow within the image and a mask ``<lanes x i1>`` (else None) where only the first
    lanes are channels. The order of the sum is fixed, so results do not depend on the number of tasks.

    Args:
        scratch: this task's own `conv_scratch_bytes`, aligned to 64 bytes.
    """
    zero = fb.i64(0)
    grid = Grid(
        rows=shape.oh,
        columns=shape.ow,
        start=(fb.sub(zero, index(shape.pads[0])), fb.sub(zero, index(shape.pads[1]))),
        stride=shape.stride,
        dilation=shape.dilation,
        taps=shape.kernel,
    )
    plan = conv_plan(shape, target, element)
    emit_grid(
        fb,
        plan,
        grid,
        shape=shape,
        x=x,
        w=w,
        task=task,
        tasks=tasks,
        scratch=scratch,
        epilogue=epilogue,
        element=element,
    )


def emit_grid(
    fb: FunctionBuilder,
    plan: Plan,
    grid: Grid,
    *,
    shape: ConvShape,
    x: V,
    w: V,
    task: V,
    tasks: V,
    scratch: V,
    epilogue: Epilogue,
    element: str = "float",
) -> None:
    """Emit the outputs of `grid` by `plan`; of `shape` only n, h, w, ow, ci, co and groups count."""
    _Emitter(fb, plan, grid, shape, x, w, scratch, epilogue, element).run(task, tasks)


class _Emitter:
    def __init__(
        self,
        fb: FunctionBuilder,
        plan: Plan,
        grid: Grid,
        shape: ConvShape,
        x: V,
        w: V,
        scratch: V,
        epilogue: Epilogue,
        element: str,
    ) -> None:
        self.fb, self.plan, self.shape = fb, plan, shape
        self.w, self.epilogue, self.element = w, epilogue, element
        self.vector = vector_of(element, plan.lanes)
        self.co = shape.co // shape.groups
        parts, offset = [], 0
        for size in scratch_parts(plan, element):
            parts.append(fb.gep("i8", scratch, fb.i64(offset)))
            offset += aligned(size)
        table, positions, self.partials, gathered = parts
        self.windows = InputWindows(fb, plan, grid, shape, x, element, table, positions, gathered)

    # -- loops --------------------------------------------------------------------------------
    def run(self, task: V, tasks: V) -> None:
        """Split the work, then pixel blocks, groups, weight panels."""
        fb, plan, groups = self.fb, self.plan, self.shape.groups
        full, tail = divmod(self.co, plan.width)
        panels = full + bool(tail)
        units = groups if groups > 1 else panels
        # Few pixels, or more weights than activations: each task takes channels, and reads its weights only.
        weights, inputs = groups * plan.k * self.co, fb.mul(self.windows.pixels, fb.i64(self.shape.ci))
        few = fb.icmp("slt", self.windows.tiles, fb.mul(tasks, fb.i64(8)))
        heavy = fb.icmp("slt", inputs, fb.i64(weights))
        enough = fb.icmp("sge", fb.i64(units), fb.mul(tasks, fb.i64(2)))
        by_channel = fb.binary("and", enough, fb.binary("or", few, heavy))
        zero, one = fb.i64(0), fb.i64(1)
        tile_task, tile_tasks = fb.select(by_channel, zero, task), fb.select(by_channel, one, tasks)
        unit_task, unit_tasks = fb.select(by_channel, task, zero), fb.select(by_channel, tasks, one)
        first, stop = share(fb, self.windows.tiles, tile_task, tile_tasks)
        unit_range = share(fb, fb.i64(units), unit_task, unit_tasks)
        group_range = unit_range if groups > 1 else (zero, one)
        panel_range = (zero, fb.i64(panels)) if groups > 1 else unit_range

        count = fb.sub(stop, first)
        blocks = fb.smax(ceil_div(fb, count, plan.block), one)
        size = fb.smax(ceil_div(fb, count, blocks), one)
        with fb.loop(first, stop, size, hint="block") as block:
            tiles = fb.smin(size, fb.sub(stop, block.index))
            with self._range(*group_range, hint="group") as group:
                self.windows.prepare(block.index, tiles, group)
                panel_w = fb.mul(group, fb.i64(panels))

                def panel(number: V, nv: int, mask: V | None, group: V = group, panel_w: V = panel_w) -> None:
                    at = fb.mul(fb.add(panel_w, number), fb.i64(plan.k * plan.width))
                    channel = fb.add(fb.mul(group, fb.i64(self.co)), fb.mul(number, fb.i64(plan.width)))
                    self.panel(
                        block.index,
                        tiles,
                        fb.gep(self.element, self.w, at),
                        channel,
                        nv,
                        mask,
                    )

                if full:
                    with self._range(panel_range[0], fb.smin(panel_range[1], fb.i64(full)), hint="panel") as number:
                        panel(number, plan.nv, None)
                if tail:
                    rest = tail % plan.lanes
                    mask = fb.lane_mask(fb.i64(rest), plan.lanes) if rest else None
                    with fb.if_(fb.icmp("sgt", panel_range[1], fb.i64(full)), hint="tail"):
                        panel(fb.i64(full), -(-tail // plan.lanes), mask)

    @contextmanager
    def _range(self, first: V, stop: V, hint: str) -> Iterator[V]:
        """A loop, or just its body when the range is known to be one item."""
        if (first.ref, stop.ref) == ("0", "1"):
            yield first
        else:
            with self.fb.loop(first, stop, hint=hint) as loop:
                yield loop.index

    def panel(self, first_tile: V, tiles: V, w: V, channel: V, nv: int, mask: V | None) -> None:
        """All tiles of a block with one weight panel, chunk by chunk."""
        fb = self.fb
        chunks = self._range(fb.i64(0), fb.i64(self.plan.chunks), hint="chunk")
        with chunks as chunk, fb.loop(fb.i64(0), tiles, hint="tile") as loop:
            number = fb.add(first_tile, loop.index)
            start = self.windows.tile_start(number)
            if self.windows.even is None:
                # The last tile may be short: its missing pixels repeat the last one and are not stored.
                left = fb.sub(self.windows.pixels, start)
                whole = fb.icmp("sge", left, fb.i64(self.plan.mr))
                heights: list[tuple[int, V | None]] = [(self.plan.mr, None), (self.plan.mr, left)]
            else:
                low, taller = self.windows.even
                whole = fb.icmp("slt", number, fb.i64(taller))
                heights = [(low + 1, None), (low, None)] if taller else [(low, None)]
            if len(heights) == 1:
                self.tile(loop.index, start, chunk, w, channel, *heights[0], nv, mask)
            else:
                branches = fb.if_else(whole)
                with branches.then():
                    self.tile(loop.index, start, chunk, w, channel, *heights[0], nv, mask)
                with branches.otherwise():
                    self.tile(loop.index, start, chunk, w, channel, *heights[1], nv, mask)
                branches.results()

    # -- one tile -----------------------------------------------------------------------------
    def tile(
        self, tile: V, start: V, chunk: V, w: V, channel: V, height: int, count: V | None, nv: int, mask: V | None
    ) -> None:
        """One chunk of a register tile: sum it, add the chunks before, then keep it or hand it to the epilogue."""
        fb, plan = self.fb, self.plan
        zero = zero_tile(fb, self.element, height, nv, plan.lanes)
        if plan.chunks == 1:
            acc = self.accumulate(zero, tile, start, chunk, w, count)
            self.finish(acc, tile, start, channel, count, mask)
            return
        add = "add" if self.element == "i32" else "fadd"
        kept = fb.gep(self.element, self.partials, fb.mul(tile, fb.i64(plan.mr * plan.width)))

        def place(i: int, j: int) -> V:
            return fb.gep(self.element, kept, fb.i64((i * plan.nv + j) * plan.lanes))

        # Each chunk is summed from zero: one sum over all of k would be several times less exact.
        acc = self.accumulate(zero, tile, start, chunk, w, count)
        flat = [v for row in acc for v in row]
        resumed = fb.if_else(fb.icmp("eq", chunk, fb.i64(0)))
        with resumed.then():
            resumed.give(*flat)
        with resumed.otherwise():
            places = [place(i, j) for i in range(height) for j in range(nv)]
            resumed.give(*(fb.binary(add, fb.load(self.vector, at), v) for at, v in zip(places, flat, strict=True)))
        acc = _rows(resumed.results(), nv)
        end = fb.if_else(fb.icmp("eq", chunk, fb.i64(plan.chunks - 1)))
        with end.then():
            self.finish(acc, tile, start, channel, count, mask)
        with end.otherwise():
            for i in range(height):
                for j in range(nv):
                    fb.store(acc[i][j], place(i, j))
        end.results()

    def accumulate(self, acc: Tile, tile: V, start: V, chunk: V, w: V, count: V | None) -> Tile:
        """Add the segments (or the piece of one) that belong to `chunk`."""
        fb, plan, nv = self.fb, self.plan, len(acc[0])
        if plan.pieces > 1:
            segment = fb.sdiv(chunk, fb.i64(plan.pieces))
            offset = fb.mul(fb.srem(chunk, fb.i64(plan.pieces)), fb.i64(plan.piece))
            k = fb.i64(plan.piece)
            if plan.length % plan.pieces:
                k = fb.smin(k, fb.sub(fb.i64(plan.length), offset))
            return self.segment(acc, tile, start, segment, offset, k, w, count)
        first = fb.mul(chunk, fb.i64(plan.per_chunk))
        stop = fb.smin(fb.i64(plan.segments), fb.add(first, fb.i64(plan.per_chunk)))
        length, zero = fb.i64(plan.length), fb.i64(0)
        if plan.per_chunk == 1:
            return self.segment(acc, tile, start, first, zero, length, w, count)
        with fb.loop(first, stop, carried=[v for row in acc for v in row], hint="segment") as loop:
            inner = self.segment(_rows(loop.carried, nv), tile, start, loop.index, zero, length, w, count)
            loop.carry(*(v for row in inner for v in row))
        return _rows(loop.results, nv)

    def segment(self, acc: Tile, tile: V, start: V, segment: V, offset: V, k: V, w: V, count: V | None) -> Tile:
        """Add `k` products from `offset` of a segment on."""
        fb, plan = self.fb, self.plan
        rows = self.windows.rows(tile, start, segment, offset, len(acc), count)
        b = fb.add(fb.mul(segment, fb.i64(plan.length)), offset)
        b_at = fb.gep(self.element, w, fb.mul(b, fb.i64(plan.width)))
        return accumulate(fb, acc, rows, 1, b_at, plan.width, k, lanes=plan.lanes, unroll=plan.unroll)

    def finish(self, acc: Tile, tile: V, start: V, channel: V, count: V | None, mask: V | None) -> None:
        """Hand the accumulators to the epilogue."""
        fb, lanes = self.fb, self.plan.lanes

        def row(i: int) -> None:
            if self.windows.flat:
                image, pixel = fb.i64(0), fb.add(start, fb.i64(i))
            else:
                image_at, pixel_at = self.windows.position(tile, fb.i64(i))
                image, pixel = fb.load("i64", image_at), fb.load("i64", pixel_at)
            for j, value in enumerate(acc[i]):
                partial = mask if j == len(acc[i]) - 1 else None
                self.epilogue(fb, image, pixel, fb.add(channel, fb.i64(j * lanes)), lanes, partial, value)

        for i in range(len(acc)):
            if count is None:
                row(i)
            else:
                with fb.if_(fb.icmp("slt", fb.i64(i), count)):
                    row(i)


def _rows(values: Sequence[V], width: int) -> Tile:
    return [list(values[i : i + width]) for i in range(0, len(values), width)]
