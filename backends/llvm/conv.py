"""Dense and grouped convolution as an implicit matrix product on register tiles, channels last.

A tile of ``mr`` output pixels x ``nv`` vectors of output channels is accumulated over *segments*: stretches of the
input that are contiguous in memory and belong to one kernel tap. How a tile finds them is chosen by shape:

* ``rows``: a 1x1 kernel without stride or padding is a plain matrix product over all pixels;
* ``taps``: a table holds the address of each (tap, pixel); taps in the padding point to zeros, so that the
  inner loop has no special case for the border;
* ``gather``: with few input channels the segments are too short, so a pixel's whole window is copied to
  scratch once and used for all output channels.

Blocking: a block of pixel tiles stays in the second-level cache while the weight panels pass by; a panel's piece of
about `_CHUNK` rows stays in the first-level cache for all tiles of the block. When there are several pieces, the
accumulators wait in scratch between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, vector_of
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import Tile, accumulate, zero_tile
from ds_compiler.backends.llvm.window import ConvShape, Epilogue, ceil_div, index, share

__all__ = ["ConvShape", "Grid", "Plan", "conv_plan", "conv_scratch_bytes", "emit_conv", "emit_grid", "pack_conv_weight"]

# Rows of a weight panel used before the next tile: 256 rows of 16 floats are 16 KiB, half of a usual first-level cache.
_CHUNK = 256
# Shorter segments than this are gathered: the accumulation loop would be left as soon as it started.
_SHORTEST_SEGMENT = 16
_UNROLLED_TAPS = 25
_MOST_ROWS = 8  # row pointers that fit beside the other general registers
_BLOCK_TILES = 64


@dataclass(frozen=True)
class Plan:
    """How a convolution is tiled; follows from its static sizes and the target alone.

    Attributes:
        mr, nv, lanes: pixels and vectors of the register tile, lanes of a vector.
        mode: see the module's docstring.
        segments, length: input segments of a window, and elements of each.
        per_chunk, pieces: a chunk is `per_chunk` segments, or a segment is `pieces` chunks (then `per_chunk` is 1).
        block: tiles of a pixel block.
    """

    mr: int
    nv: int
    lanes: int
    mode: Literal["rows", "taps", "gather"]
    segments: int
    length: int
    per_chunk: int
    pieces: int
    block: int

    @property
    def width(self) -> int:
        """Output channels of a weight panel."""
        return self.nv * self.lanes

    @property
    def k(self) -> int:
        """Products summed for one output."""
        return self.segments * self.length

    @property
    def piece(self) -> int:
        """Elements of a piece of a segment (the last may be shorter)."""
        return -(-self.length // self.pieces)

    @property
    def chunks(self) -> int:
        return -(-self.segments // self.per_chunk) * self.pieces

    def partial_bytes(self, element: str) -> int:
        """Scratch for accumulators between chunks."""
        return self.block * self.mr * self.width * bytes_of(element) if self.chunks > 1 else 0

    def table_bytes(self) -> int:
        """Scratch for the segments' addresses."""
        return self.block * self.segments * self.mr * 8 if self.mode == "taps" else 0

    def position_bytes(self) -> int:
        """Scratch for the (image, pixel) pairs."""
        return self.block * self.mr * 16

    def gather_bytes(self, element: str) -> int:
        """Scratch for gathered windows; a copy may write up to a vector beyond the last."""
        if self.mode != "gather":
            return 0
        return (self.block * self.mr * self.k + self.lanes) * bytes_of(element)


def _tile_shape(target: Target, channels: int, lanes: int) -> tuple[int, int]:
    """The tile (mr, nv) with the fewest cycles a pixel, for two multiply-adds and two loads a cycle, latency 4."""
    best: tuple[float, int, int] | None = None
    for nv in (2, 3, 1):
        mr = min(_MOST_ROWS, (target.vector_registers - 1 - nv) // nv)
        cycles = 0.0
        vectors = -(-channels // lanes)
        for first in range(0, vectors, nv):
            v = min(nv, vectors - first)
            cycles += max(mr * v / 2, (mr + v) / 2, 4) / mr
        if best is None or cycles < best[0] - 1e-9:
            best = (cycles, mr, nv)
    assert best is not None
    return best[1], best[2]


def _plan(
    target: Target,
    element: str,
    *,
    ci: int,
    co: int,
    taps: int,
    bytes_per_pixel: int,
    in_place: bool,
) -> Plan:
    """`ci` and `co` of one group; `in_place`: windows are consecutive rows of the input."""
    lanes = target.lanes(element)
    mr, nv = _tile_shape(target, co, lanes)
    mode: Literal["rows", "taps", "gather"]
    if in_place:
        mode = "rows"
    else:
        mode = "taps" if ci >= _SHORTEST_SEGMENT else "gather"
    segments, length = (1, taps * ci) if mode == "gather" else (taps, ci)
    per_chunk, pieces = segments, 1
    if segments * length > _CHUNK * 3 // 2:
        if length <= _CHUNK:
            chunks = -(-segments // (_CHUNK // length))
            per_chunk = -(-segments // chunks)
        else:
            per_chunk = 1
            least = -(-length // _CHUNK)
            pieces = next((p for p in range(least, least + 4) if length % p == 0), least)
    if mode == "gather":
        bytes_per_pixel = segments * length * bytes_of(element)
    block = max(4, min(_BLOCK_TILES, target.l2_bytes // 2 // max(1, mr * bytes_per_pixel)))
    return Plan(mr, nv, lanes, mode, segments, length, per_chunk, pieces, block)


def conv_plan(shape: ConvShape, target: Target, element: str = "float") -> Plan:
    """The tiling of `shape` on `target`."""
    no_padding = all(index(p).ref == "0" for p in shape.pads)
    in_place = shape.groups == 1 and (shape.kernel, shape.stride) == ((1, 1), (1, 1)) and no_padding
    return _plan(
        target,
        element,
        ci=shape.ci // shape.groups,
        co=shape.co // shape.groups,
        taps=shape.kernel[0] * shape.kernel[1],
        bytes_per_pixel=shape.ci * shape.stride[0] * shape.stride[1] * bytes_of(element),
        in_place=in_place,
    )


def conv_scratch_bytes(shape: ConvShape, target: Target, element: str = "float") -> int:
    """Bytes of scratch that each task needs, at most a few hundred KiB; independent of the run-time sizes."""
    return scratch_bytes(conv_plan(shape, target, element), element)


def scratch_bytes(plan: Plan, element: str) -> int:
    """Bytes of scratch for one task working by `plan`."""
    return sum(_aligned(size) for size in _scratch_parts(plan, element))


def _scratch_parts(plan: Plan, element: str) -> tuple[int, int, int, int]:
    return plan.table_bytes(), plan.position_bytes(), plan.partial_bytes(element), plan.gather_bytes(element)


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def pack_conv_weight(w: NDArray[np.floating], shape: ConvShape, target: Target) -> NDArray[np.floating]:
    """Reorder ``[co, ci / groups, kh, kw]`` to ``[groups, panels, kh * kw * ci / groups, nv * lanes]``, zero-filled.

    Raises:
        ValueError: the weight's shape is not the one that `shape` says.
    """
    expected = (shape.co, shape.ci // shape.groups, *shape.kernel)
    if w.shape != expected:
        raise ValueError(f"convolution weight: expected {list(expected)}, got {list(w.shape)}")
    element = {4: "float", 8: "double"}[w.dtype.itemsize]
    grouped = w.reshape(shape.groups, shape.co // shape.groups, *w.shape[1:])
    return pack_panels(grouped.transpose(0, 3, 4, 2, 1), conv_plan(shape, target, element).width)


def pack_panels(w: NDArray[np.floating], width: int) -> NDArray[np.floating]:
    """``[groups, ..., n]`` to ``[groups, panels, k, width]`` with k the product of the middle dimensions."""
    groups, n = w.shape[0], w.shape[-1]
    flat = w.reshape(groups, -1, n)
    padded = np.zeros((groups, flat.shape[1], -(-n // width) * width), w.dtype)
    padded[..., :n] = flat
    return np.ascontiguousarray(padded.reshape(groups, flat.shape[1], -1, width).transpose(0, 2, 1, 3))


@dataclass(frozen=True)
class Grid:
    """The output pixels of a convolution, and where their windows lie.

    Grid pixel (i, j) is output pixel ``(first + i * step)``; its tap t reads input row ``start + i * stride + t *
    dilation`` (columns likewise). A convolution has first 0, step 1 and start -pad; the phases of a
    transposed convolution differ.

    Attributes:
        rows, columns: extent of the grid.
        tap_exists: ``tap_exists(axis, tap)`` is false (i1) for taps to skip; None when all exist.
    """

    rows: V
    columns: V
    start: tuple[V, V]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    taps: tuple[int, int]
    first: tuple[V, V] = (V("i64", "0"), V("i64", "0"))
    step: tuple[int, int] = (1, 1)
    tap_exists: Callable[[int, V], V] | None = None

    @property
    def dense(self) -> bool:
        """Whether the grid is the whole output, in order."""
        return self.step == (1, 1) and all(f.ref == "0" for f in self.first)


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
        self.fb, self.plan, self.grid, self.shape = fb, plan, grid, shape
        self.x, self.w, self.epilogue, self.element = x, w, epilogue, element
        self.vector = vector_of(element, plan.lanes)
        self.ci, self.co = shape.ci // shape.groups, shape.co // shape.groups
        parts, offset = [], 0
        for size in _scratch_parts(plan, element):
            parts.append(fb.gep("i8", scratch, fb.i64(offset)))
            offset += _aligned(size)
        self.table, self.positions, self.partials, self.gathered = parts
        self.pixels = fb.mul(fb.mul(shape.n, grid.rows), grid.columns)
        self.tiles = ceil_div(fb, self.pixels, plan.mr)
        # An epilogue of one image can count pixels; otherwise each pixel's position is kept.
        self.flat = shape.n.ref == "1" and grid.dense
        self.even: tuple[int, int] | None = None
        if self.pixels.ref.isdigit() and self.pixels.ref != "0":
            self.even = divmod(int(self.pixels.ref), int(self.tiles.ref))
        if plan.mode == "taps":
            definition = f"internal constant [{plan.length} x {element}] zeroinitializer, align 64"
            self.zeros = fb.module.global_(f"zeros.{element}.{plan.length}", definition)

    # -- loops --------------------------------------------------------------------------------
    def run(self, task: V, tasks: V) -> None:
        """Split the work, then pixel blocks, groups, weight panels."""
        fb, plan, groups = self.fb, self.plan, self.shape.groups
        full, tail = divmod(self.co, plan.width)
        panels = full + bool(tail)
        units = groups if groups > 1 else panels
        # Few pixels, or more weights than activations: each task takes channels, and reads its weights only.
        weights, inputs = groups * plan.k * self.co, fb.mul(self.pixels, fb.i64(self.shape.ci))
        few = fb.icmp("slt", self.tiles, fb.mul(tasks, fb.i64(8)))
        heavy = fb.icmp("slt", inputs, fb.i64(weights))
        enough = fb.icmp("sge", fb.i64(units), fb.mul(tasks, fb.i64(2)))
        by_channel = fb.binary("and", enough, fb.binary("or", few, heavy))
        zero, one = fb.i64(0), fb.i64(1)
        tile_task, tile_tasks = fb.select(by_channel, zero, task), fb.select(by_channel, one, tasks)
        unit_task, unit_tasks = fb.select(by_channel, task, zero), fb.select(by_channel, tasks, one)
        first, stop = share(fb, self.tiles, tile_task, tile_tasks)
        unit_range = share(fb, fb.i64(units), unit_task, unit_tasks)
        group_range = unit_range if groups > 1 else (zero, one)
        panel_range = (zero, fb.i64(panels)) if groups > 1 else unit_range

        count = fb.sub(stop, first)
        blocks = fb.smax(ceil_div(fb, count, plan.block), one)
        size = fb.smax(ceil_div(fb, count, blocks), one)
        with fb.loop(first, stop, size, hint="block") as block:
            tiles = fb.smin(size, fb.sub(stop, block.index))
            with self._range(*group_range, hint="group") as group:
                self.prepare(block.index, tiles, group)
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
            start = self.tile_start(number)
            if self.even is None:
                # The last tile may be short: its missing pixels repeat the last one and are not stored.
                left = fb.sub(self.pixels, start)
                whole = fb.icmp("sge", left, fb.i64(self.plan.mr))
                heights: list[tuple[int, V | None]] = [(self.plan.mr, None), (self.plan.mr, left)]
            else:
                low, taller = self.even
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

    def tile_start(self, number: V) -> V:
        """First pixel of a tile. A known pixel count is split evenly: the first `taller` tiles have one more."""
        fb = self.fb
        if self.even is None:
            return fb.mul(number, fb.i64(self.plan.mr))
        low, taller = self.even
        start = fb.mul(number, fb.i64(low))
        return fb.add(start, fb.smin(number, fb.i64(taller))) if taller else start

    # -- one tile -----------------------------------------------------------------------------
    def tile(
        self, tile: V, start: V, chunk: V, w: V, channel: V, height: int, count: V | None, nv: int, mask: V | None
    ) -> None:
        """One chunk of a register tile: start or resume, accumulate, then keep it or hand it to the epilogue."""
        fb, plan = self.fb, self.plan
        zero = zero_tile(fb, self.element, height, nv, plan.lanes)
        if plan.chunks == 1:
            acc = self.accumulate(zero, tile, start, chunk, w, count)
            self.finish(acc, tile, start, channel, count, mask)
            return
        kept = fb.gep(self.element, self.partials, fb.mul(tile, fb.i64(plan.mr * plan.width)))

        def place(i: int, j: int) -> V:
            return fb.gep(self.element, kept, fb.i64((i * plan.nv + j) * plan.lanes))

        begin = fb.if_else(fb.icmp("eq", chunk, fb.i64(0)))
        with begin.then():
            begin.give(*(v for row in zero for v in row))
        with begin.otherwise():
            begin.give(*(fb.load(self.vector, place(i, j)) for i in range(height) for j in range(nv)))
        acc = _rows(begin.results(), nv)
        acc = self.accumulate(acc, tile, start, chunk, w, count)
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
        fb, plan, height = self.fb, self.plan, len(acc)
        rows = []
        if plan.mode == "taps":
            table = fb.mul(fb.add(fb.mul(tile, fb.i64(plan.segments)), segment), fb.i64(plan.mr))
            at = fb.gep("ptr", self.table, table)
            rows = [fb.load("ptr", fb.gep("ptr", at, fb.i64(i))) for i in range(height)]
            rows = [fb.gep(self.element, row, offset) for row in rows]
        elif plan.mode == "gather":
            at = fb.gep(self.element, self.gathered, fb.add(fb.mul(tile, fb.i64(plan.mr * plan.k)), offset))
            rows = [fb.gep(self.element, at, fb.i64(i * plan.k)) for i in range(height)]
        else:
            ci = fb.i64(self.ci)
            at = fb.gep(self.element, self.x, fb.add(fb.mul(start, ci), offset))
            last = fb.sub(count, fb.i64(1)) if count is not None else fb.i64(height)
            rows = [fb.gep(self.element, at, fb.mul(fb.smin(fb.i64(i), last), ci)) for i in range(height)]
        b = fb.add(fb.mul(segment, fb.i64(plan.length)), offset)
        b_at = fb.gep(self.element, w, fb.mul(b, fb.i64(plan.width)))
        return accumulate(fb, acc, rows, 1, b_at, plan.width, k, lanes=plan.lanes)

    def finish(self, acc: Tile, tile: V, start: V, channel: V, count: V | None, mask: V | None) -> None:
        """Hand the accumulators to the epilogue."""
        fb, lanes = self.fb, self.plan.lanes

        def row(i: int) -> None:
            if self.flat:
                image, pixel = fb.i64(0), fb.add(start, fb.i64(i))
            else:
                image_at, pixel_at = self.position(tile, fb.i64(i))
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

    def position(self, tile: V, p: V) -> tuple[V, V]:
        """Where the image and the output pixel of a tile's pixel `p` are kept."""
        fb = self.fb
        at = fb.gep("i64", self.positions, fb.mul(fb.add(fb.mul(tile, fb.i64(self.plan.mr)), p), fb.i64(2)))
        return at, fb.gep("i64", at, fb.i64(1))

    # -- once for each pixel block and group ----------------------------------------------------
    def prepare(self, first_tile: V, tiles: V, group: V) -> None:
        """Fill the table, the gathered windows and the positions for the pixels of a block."""
        fb, plan, grid = self.fb, self.plan, self.grid
        if plan.mode == "rows" and self.flat:
            return
        zero, one = fb.i64(0), fb.i64(1)
        start = self.tile_start(first_tile)
        image = zero
        if self.shape.n.ref != "1":
            image = fb.sdiv(start, fb.mul(grid.rows, grid.columns))
            start = fb.srem(start, fb.mul(grid.rows, grid.columns))
        place = (image, fb.sdiv(start, grid.columns), fb.srem(start, grid.columns))
        with fb.loop(zero, tiles, carried=place, hint="prepare") as loop:
            number = fb.add(first_tile, loop.index)
            height = fb.i64(plan.mr)
            if self.even is not None:
                low, taller = self.even
                more = fb.cast("zext", fb.icmp("slt", number, fb.i64(taller)), "i64")
                height = fb.add(fb.i64(low), more)
            with fb.loop(zero, height, carried=loop.carried, hint="pixel") as pixels:
                image, i, j = pixels.carried
                self.prepare_pixel(loop.index, pixels.index, image, i, j, group)
                following = fb.add(j, one)
                wraps = fb.icmp("sge", following, grid.columns)
                next_j = fb.select(wraps, zero, following)
                next_i = fb.add(i, fb.cast("zext", wraps, "i64"))
                wraps = fb.icmp("sge", next_i, grid.rows)
                next_image = fb.add(image, fb.cast("zext", wraps, "i64"))
                next_i = fb.select(wraps, zero, next_i)
                if self.even is None:
                    after = fb.add(fb.add(self.tile_start(number), pixels.index), one)
                    more = fb.icmp("slt", after, self.pixels)
                    next_image, next_i, next_j = (
                        fb.select(more, new, old) for new, old in zip((next_image, next_i, next_j), (image, i, j))
                    )
                pixels.carry(next_image, next_i, next_j)
            loop.carry(*pixels.results)

    def prepare_pixel(self, tile: V, p: V, image: V, i: V, j: V, group: V) -> None:
        fb, plan, grid, shape = self.fb, self.plan, self.grid, self.shape
        if not self.flat:
            row, column = (fb.add(grid.first[d], fb.mul(at, fb.i64(grid.step[d]))) for d, at in enumerate((i, j)))
            image_at, pixel_at = self.position(tile, p)
            fb.store(image, image_at)
            fb.store(fb.add(fb.mul(row, shape.ow), column), pixel_at)
        if plan.mode == "rows":
            return
        ih, iw = (fb.add(grid.start[d], fb.mul(at, fb.i64(grid.stride[d]))) for d, at in enumerate((i, j)))
        origin = fb.mul(fb.add(fb.mul(fb.add(fb.mul(image, shape.h), ih), shape.w), iw), fb.i64(shape.ci))
        at = fb.gep(self.element, self.x, fb.add(origin, fb.mul(group, fb.i64(self.ci))))
        if plan.mode == "taps":
            slot = fb.add(fb.mul(tile, fb.i64(plan.mr * plan.segments)), p)
            self.fill_table(fb.gep("ptr", self.table, slot), at, ih, iw)
        else:
            to = fb.mul(fb.add(fb.mul(tile, fb.i64(plan.mr)), p), fb.i64(plan.k))
            self.gather_window(fb.gep(self.element, self.gathered, to), at, ih, iw)

    def tap_inside(self, axis: int, origin: V, tap: V) -> V:
        """Whether a tap exists and lies on the image."""
        fb = self.fb
        at = fb.add(origin, fb.mul(tap, fb.i64(self.grid.dilation[axis])))
        # Unsigned: a negative index is a very large one.
        inside = fb.icmp("ult", at, (self.shape.h, self.shape.w)[axis])
        exists = self.grid.tap_exists
        return inside if exists is None else fb.binary("and", inside, exists(axis, tap))

    def tap_offset(self, kh: V, kw: V) -> V:
        """Elements from a window's origin to a tap."""
        fb, (dh, dw) = self.fb, self.grid.dilation
        pixels = fb.add(fb.mul(fb.mul(kh, fb.i64(dh)), self.shape.w), fb.mul(kw, fb.i64(dw)))
        return fb.mul(pixels, fb.i64(self.shape.ci))

    def fill_table(self, slot: V, at: V, ih: V, iw: V) -> None:
        """Store the address of each tap of a pixel."""
        fb, (rows, columns) = self.fb, self.grid.taps

        def tap(kh: V, kw: V, row_inside: V, column_inside: V) -> None:
            inside = fb.binary("and", row_inside, column_inside)
            address = fb.select(inside, fb.gep(self.element, at, self.tap_offset(kh, kw)), self.zeros)
            number = fb.add(fb.mul(kh, fb.i64(columns)), kw)
            fb.store(address, fb.gep("ptr", slot, fb.mul(number, fb.i64(self.plan.mr))))

        if rows * columns <= _UNROLLED_TAPS:
            inside = [self.tap_inside(1, iw, fb.i64(kw)) for kw in range(columns)]
            for kh in range(rows):
                row = self.tap_inside(0, ih, fb.i64(kh))
                for kw in range(columns):
                    tap(fb.i64(kh), fb.i64(kw), row, inside[kw])
            return
        with fb.loop(fb.i64(0), fb.i64(rows), hint="kh") as outer:
            row = self.tap_inside(0, ih, outer.index)
            with fb.loop(fb.i64(0), fb.i64(columns), hint="kw") as inner:
                tap(outer.index, inner.index, row, self.tap_inside(1, iw, inner.index))

    def gather_window(self, to: V, at: V, ih: V, iw: V) -> None:
        """Copy a pixel's window, zeros for the padding."""
        fb, (rows, columns) = self.fb, self.grid.taps
        contiguous = self.shape.groups == 1 and self.grid.dilation[1] == 1 and self.grid.tap_exists is None
        with fb.loop(fb.i64(0), fb.i64(rows), hint="kh") as outer:
            kh = outer.index
            row_inside = self.tap_inside(0, ih, kh)
            row_to = fb.gep(self.element, to, fb.mul(kh, fb.i64(columns * self.ci)))

            def single_taps() -> None:
                with fb.loop(fb.i64(0), fb.i64(columns), hint="kw") as inner:
                    inside = fb.binary("and", row_inside, self.tap_inside(1, iw, inner.index))
                    tap_to = fb.gep(self.element, row_to, fb.mul(inner.index, fb.i64(self.ci)))
                    branches = fb.if_else(inside)
                    with branches.then():
                        self.copy(tap_to, fb.gep(self.element, at, self.tap_offset(kh, inner.index)), self.ci)
                    with branches.otherwise():
                        self.copy(tap_to, None, self.ci)
                    branches.results()

            if not contiguous:
                single_taps()
            else:
                left = fb.icmp("sge", iw, fb.i64(0))
                right = fb.icmp("sle", fb.add(iw, fb.i64(columns)), self.shape.w)
                whole = fb.binary("and", row_inside, fb.binary("and", left, right))
                branches = fb.if_else(whole)
                with branches.then():
                    source = fb.gep(self.element, at, self.tap_offset(kh, fb.i64(0)))
                    self.copy(row_to, source, columns * self.ci)
                with branches.otherwise():
                    single_taps()
                branches.results()

    def copy(self, to: V, source: V | None, count: int) -> None:
        """Copy `count` elements (zeros without a source). Writes whole vectors: what follows is written later.

        Masked loads are fast where masked stores are not (tens of cycles on Zen).
        """
        fb, lanes = self.fb, self.plan.lanes
        zero = fb.const(self.vector, 0.0)
        full = count // lanes * lanes

        def vector(offset: V) -> None:
            value = zero if source is None else fb.load(self.vector, fb.gep(self.element, source, offset))
            fb.store(value, fb.gep(self.element, to, offset))

        if full > 8 * lanes:
            with fb.loop(fb.i64(0), fb.i64(full), lanes, hint="copy") as loop:
                vector(loop.index)
        else:
            for offset in range(0, full, lanes):
                vector(fb.i64(offset))
        if count > full:
            rest = zero
            if source is not None:
                mask = fb.lane_mask(fb.i64(count - full), lanes)
                rest = fb.masked_load(self.vector, fb.gep(self.element, source, fb.i64(full)), mask)
            fb.store(rest, fb.gep(self.element, to, fb.i64(full)))


def _rows(values: Sequence[V], width: int) -> Tile:
    return [list(values[i : i + width]) for i in range(0, len(values), width)]
