"""Sliding windows over channels-last images: the loops that depthwise convolution and pooling share.

`emit_windows` walks output pixels in tiles of a few pixels x a few channel vectors, all held in registers, and
loads an input column once for all the windows of the tile that contain it. Tiles whose windows lie inside the
image run unrolled and unchecked. The others clip the kernel's rows to the image and read the columns outside of it
from a small buffer of neutral values, so that no comparison stands in the innermost loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, vector_of
from ds_compiler.backends.llvm.target import Target

# epilogue(fb, image, pixel, channel, lanes, mask, value): take one finished output vector, see `emit_windows`.
Epilogue = Callable[[FunctionBuilder, V, V, V, int, V | None, V], None]

# Taps up to this many are written out one after the other; more run in a loop.
_UNROLLED_TAPS = 25
_UNROLLED_COLUMNS = 9
# Accumulators of a tile. Kernel-row weights and the input column need registers too (16 with AVX2).
_ACCUMULATORS = 8


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window sliding over ``[n, h, w, channels]`` with ``[n, oh, ow, ...]`` positions; 1-D is h = oh = 1.

    Attributes:
        n, h, w, oh, ow: i64 values, constant or run-time.
        kernel, stride, dilation: (rows, columns).
        pads: top, left, bottom, right. How far windows reach follows from oh and ow; the far pads tell a
            convolution that there is no padding, and an average what counts as padding.
    """

    n: V
    h: V
    w: V
    oh: V
    ow: V
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int | V, int | V, int | V, int | V] = (0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class ConvShape(Window):
    """A convolution ``[n, h, w, ci]`` by ``[co, ci / groups, kh, kw]`` to ``[n, oh, ow, co]``, channels last.

    Raises:
        ValueError: the channels do not divide into the groups.
    """

    ci: int
    co: int
    groups: int = 1

    def __post_init__(self) -> None:
        if self.groups < 1 or self.ci % self.groups or self.co % self.groups:
            raise ValueError(f"convolution: {self.ci} and {self.co} channels do not divide into {self.groups} groups")


def index(value: int | V) -> V:
    """An i64 operand of a Python int; a `V` passes through."""
    return value if isinstance(value, V) else V("i64", str(value))


def share(fb: FunctionBuilder, count: V, task: V, tasks: V) -> tuple[V, V]:
    """The range [first, stop) of `count` items that `task` of `tasks` works on; sizes differ by one at most."""
    first = fb.sdiv(fb.mul(count, task), tasks)
    return first, fb.sdiv(fb.mul(count, fb.add(task, fb.i64(1))), tasks)


def ceil_div(fb: FunctionBuilder, value: V, divisor: int | V) -> V:
    """Quotient of non-negative numbers, rounded up."""
    by = index(divisor)
    return fb.sdiv(fb.add(value, fb.sub(by, fb.i64(1))), by)


def taps_inside(fb: FunctionBuilder, start: V, taps: int, dilation: int, size: V) -> tuple[V, V]:
    """The range [first, stop) of taps t with ``0 <= start + t * dilation < size``; empty when stop <= first."""
    zero = fb.i64(0)
    first = ceil_div(fb, fb.smax(zero, fb.sub(zero, start)), dilation)
    stop = fb.smin(fb.i64(taps), ceil_div(fb, fb.smax(zero, fb.sub(size, start)), dilation))
    return first, stop


@dataclass(frozen=True)
class ChannelBlock:
    """`inputs` vectors read and `outputs` vectors written at once, the last of them perhaps partial."""

    inputs: int
    outputs: int
    input_mask: V | None
    output_mask: V | None


@dataclass(frozen=True)
class WindowBody:
    """What happens in a window.

    Attributes:
        initial: what an accumulator starts from, and what the padding holds.
        weight: ``weight(tap, channel, j)`` loads the vector that belongs to tap number `tap` (i64) of output
            vector j of the block that begins at output channel `channel`; None where there are no weights.
        combine: ``combine(acc, x, weight)`` adds one tap.
        finish: ``finish(acc, count)`` with the taps counted as `count` says (a float scalar, or None).
        count: ``valid`` counts taps on the image, ``padded`` also those in the padding.
        padded_size: height and width of the image up to the end of the far padding, for ``padded``.
    """

    initial: float
    combine: Callable[[V, V, V | None], V]
    finish: Callable[[V, V | None], V]
    weight: Callable[[V, V, int], V] | None = None
    count: Literal["valid", "padded"] | None = None
    padded_size: tuple[V, V] | None = None


def emit_windows(
    fb: FunctionBuilder,
    target: Target,
    window: Window,
    body: WindowBody,
    *,
    x: V,
    channels: int,
    multiplier: int = 1,
    element: str = "float",
    task: V,
    tasks: V,
    epilogue: Epilogue,
) -> None:
    """Emit the loops over all windows of `window` on ``x: [n, h, w, channels]``.

    The output has ``channels * multiplier`` channels; output channel c comes from input channel
    ``c // multiplier``. Each output vector is computed by one of the `tasks` and given to
    ``epilogue(fb, image, pixel, channel, lanes, mask, value)`` once, with pixel = oh * OW + ow within the image
    and a mask ``<lanes x i1>`` (else None) where only the first lanes are channels.
    """
    _Walk(fb, target, window, body, x, channels, multiplier, element, epilogue).run(task, tasks)


class _Walk:
    def __init__(
        self,
        fb: FunctionBuilder,
        target: Target,
        window: Window,
        body: WindowBody,
        x: V,
        channels: int,
        multiplier: int,
        element: str,
        epilogue: Epilogue,
    ) -> None:
        self.fb, self.window, self.body, self.x = fb, window, body, x
        self.channels, self.multiplier, self.element, self.epilogue = channels, multiplier, element, epilogue
        self.lanes = target.lanes(element)
        self.vector = vector_of(element, self.lanes)
        total = -(-channels // self.lanes)
        self.inputs = 1 if multiplier > 1 else total if total <= 3 else 2
        self.outputs = max(self.inputs, multiplier)
        self.pixels = max(1, _ACCUMULATORS // self.outputs)
        neutral = constant(element, body.initial)
        count = self.inputs * self.lanes
        name = f"neutral.{element}.{neutral.ref.lower()}.{count}"
        values = ", ".join([str(neutral)] * count)
        self.neutral = fb.module.global_(name, f"internal constant [{count} x {element}] [{values}], align 64")

    def run(self, task: V, tasks: V) -> None:
        fb, window = self.fb, self.window
        tiles = ceil_div(fb, window.ow, self.pixels)
        one_image = window.n.ref == "1"
        first, stop = share(fb, fb.mul(fb.mul(window.n, window.oh), tiles), task, tasks)
        divisor = fb.smax(tiles, fb.i64(1))  # an empty output has no tiles
        with fb.loop(fb.sdiv(first, divisor), ceil_div(fb, stop, divisor), hint="row") as rows:
            row = rows.index
            image = fb.i64(0) if one_image else fb.sdiv(row, window.oh)
            oh = row if one_image else fb.srem(row, window.oh)
            ih = fb.sub(fb.mul(oh, fb.i64(window.stride[0])), index(window.pads[0]))
            inside = taps_inside(fb, ih, window.kernel[0], window.dilation[0], window.h)
            row_at = fb.mul(fb.add(fb.mul(image, window.h), ih), window.w)
            whole_rows = fb.binary(
                "and",
                fb.icmp("eq", inside[0], fb.i64(0)),
                fb.icmp("eq", inside[1], fb.i64(window.kernel[0])),
            )
            done = fb.mul(row, tiles)
            start = fb.smax(fb.i64(0), fb.sub(first, done))
            end = fb.smin(tiles, fb.sub(stop, done))
            with fb.loop(start, end, hint="tile") as columns:
                ow = fb.mul(columns.index, fb.i64(self.pixels))
                iw = fb.sub(fb.mul(ow, fb.i64(window.stride[1])), index(window.pads[1]))
                reach = (self.pixels - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1]
                conditions = [
                    fb.icmp("sge", iw, fb.i64(0)),
                    fb.icmp("slt", fb.add(iw, fb.i64(reach)), window.w),
                    fb.icmp("sle", fb.add(ow, fb.i64(self.pixels)), window.ow),
                ]
                interior = whole_rows
                for condition in conditions:
                    interior = fb.binary("and", interior, condition)
                origin = fb.gep(self.element, self.x, fb.mul(fb.add(row_at, iw), fb.i64(self.channels)))
                pixel = fb.add(fb.mul(oh, window.ow), ow)
                branches = fb.if_else(interior)
                with branches.then():
                    self.channel_loop(_Interior(self, origin), image, pixel, ow)
                with branches.otherwise():
                    self.channel_loop(_Edge(self, origin, ih, iw, inside), image, pixel, ow)
                branches.results()

    def channel_loop(self, tile: _Interior, image: V, pixel: V, ow: V) -> None:
        fb, lanes = self.fb, self.lanes
        step = self.inputs * lanes
        full = self.channels // step * step
        if full:
            with fb.loop(fb.i64(0), fb.i64(full), step, hint="channels") as loop:
                block = ChannelBlock(self.inputs, self.outputs, None, None)
                self.windows(tile, block, loop.index, image, pixel, ow)
        rest = self.channels - full
        if rest:
            made = rest * self.multiplier
            masks = [fb.lane_mask(fb.i64(n % lanes), lanes) if n % lanes else None for n in (rest, made)]
            block = ChannelBlock(-(-rest // lanes), -(-made // lanes), *masks)
            self.windows(tile, block, fb.i64(full), image, pixel, ow)

    def windows(self, tile: _Interior, block: ChannelBlock, channel: V, image: V, pixel: V, ow: V) -> None:
        """One tile: all taps, then the epilogue of each pixel and vector."""
        fb = self.fb
        start = constant(self.vector, self.body.initial)
        acc = tile.taps([[start] * block.outputs for _ in range(self.pixels)], block, channel)
        out_channel = fb.mul(channel, fb.i64(self.multiplier))

        def finish(p: int) -> None:
            at = fb.add(pixel, fb.i64(p))
            for j in range(block.outputs):
                mask = block.output_mask if j == block.outputs - 1 else None
                value = self.body.finish(acc[p][j], tile.counts[p])
                self.epilogue(fb, image, at, fb.add(out_channel, fb.i64(j * self.lanes)), self.lanes, mask, value)

        for p in range(self.pixels):
            if p and isinstance(tile, _Edge):
                with fb.if_(fb.icmp("slt", fb.add(ow, fb.i64(p)), self.window.ow)):
                    finish(p)
            else:
                finish(p)

    def load(self, address: V, block: ChannelBlock) -> list[V]:
        """The input at `address`, one vector for each output vector of the block."""
        fb = self.fb
        loaded = []
        for i in range(block.inputs):
            at = fb.gep(self.element, address, fb.i64(i * self.lanes))
            masked = block.input_mask if i == block.inputs - 1 else None
            loaded.append(fb.load(self.vector, at) if masked is None else fb.masked_load(self.vector, at, masked))
        if self.multiplier == 1:
            return loaded
        positions = [[(j * self.lanes + i) // self.multiplier for i in range(self.lanes)] for j in range(block.outputs)]
        return [fb.shuffle(loaded[0], loaded[0], [p % self.lanes for p in lane]) for lane in positions]


class _Interior:
    """The taps of a tile whose windows lie inside the image."""

    def __init__(self, walk: _Walk, origin: V) -> None:
        self.walk, self.origin = walk, origin
        taps = walk.window.kernel[0] * walk.window.kernel[1]
        self.unrolled = taps <= _UNROLLED_TAPS
        count = walk.fb.const(walk.element, taps) if walk.body.count else None
        self.counts: list[V | None] = [count] * walk.pixels
        self.row_step = walk.fb.mul(walk.window.w, index(walk.channels * walk.window.dilation[0]))

    def row_range(self) -> tuple[V, V]:
        return self.walk.fb.i64(0), self.walk.fb.i64(self.walk.window.kernel[0])

    def column(self, row: V, offset: V, channel: V) -> V:
        """Address of the input at `row`, `offset` columns from the tile's first, from `channel` on."""
        fb = self.walk.fb
        return fb.gep(self.walk.element, row, fb.mul(offset, fb.i64(self.walk.channels)))

    def taps(self, acc: list[list[V]], block: ChannelBlock, channel: V) -> list[list[V]]:
        fb = self.walk.fb
        at = fb.gep(self.walk.element, self.origin, channel)
        if self.unrolled:
            for kh in range(self.walk.window.kernel[0]):
                row = fb.gep(self.walk.element, at, fb.mul(fb.i64(kh), self.row_step))
                acc = self.kernel_row(acc, block, channel, row, fb.i64(kh))
            return acc
        first, stop = self.row_range()
        with fb.loop(first, stop, carried=_flat(acc), hint="kh") as loop:
            row = fb.gep(self.walk.element, at, fb.mul(loop.index, self.row_step))
            loop.carry(*_flat(self.kernel_row(_square(loop.carried, acc), block, channel, row, loop.index)))
        return _square(loop.results, acc)

    def kernel_row(self, acc: list[list[V]], block: ChannelBlock, channel: V, row: V, kh: V) -> list[list[V]]:
        walk, fb = self.walk, self.walk.fb
        columns, stride, dilation = walk.window.kernel[1], walk.window.stride[1], walk.window.dilation[1]
        out_channel = fb.mul(channel, fb.i64(walk.multiplier))
        first_tap = fb.mul(kh, fb.i64(columns))

        def weights(kw: V) -> list[V | None]:
            if walk.body.weight is None:
                return [None] * block.outputs
            tap = fb.add(first_tap, kw)
            return [walk.body.weight(tap, out_channel, j) for j in range(block.outputs)]

        acc = [list(row_acc) for row_acc in acc]
        if columns <= _UNROLLED_COLUMNS:
            weight = [weights(fb.i64(kw)) for kw in range(columns)]
            users: dict[int, list[tuple[int, int]]] = {}
            for p in range(walk.pixels):
                for kw in range(columns):
                    users.setdefault(p * stride + kw * dilation, []).append((p, kw))
            for offset in sorted(users):
                xs = walk.load(self.column(row, fb.i64(offset), channel), block)
                for p, kw in users[offset]:
                    acc[p] = [walk.body.combine(a, x, w) for a, x, w in zip(acc[p], xs, weight[kw])]
            return acc
        with fb.loop(fb.i64(0), fb.i64(columns), carried=_flat(acc), hint="kw") as loop:
            tile, weight_kw = _square(loop.carried, acc), weights(loop.index)
            for p in range(walk.pixels):
                offset_v = fb.add(fb.mul(loop.index, fb.i64(dilation)), fb.i64(p * stride))
                xs = walk.load(self.column(row, offset_v, channel), block)
                tile[p] = [walk.body.combine(a, x, w) for a, x, w in zip(tile[p], xs, weight_kw)]
            loop.carry(*_flat(tile))
        return _square(loop.results, acc)


class _Edge(_Interior):
    """The taps of a tile with windows that reach over the image's edge, or with pixels past the last one."""

    def __init__(self, walk: _Walk, origin: V, ih: V, iw: V, inside: tuple[V, V]) -> None:
        super().__init__(walk, origin)
        self.iw, self.inside, self.unrolled = iw, inside, False
        if walk.body.count:
            self.counts = [self._count(ih, p) for p in range(walk.pixels)]

    def _count(self, ih: V, p: int) -> V:
        walk, window, fb = self.walk, self.walk.window, self.walk.fb
        iw = fb.add(self.iw, fb.i64(p * window.stride[1]))
        if walk.body.padded_size is None:
            columns = taps_inside(fb, iw, window.kernel[1], window.dilation[1], window.w)
            rows = self.inside
        else:
            # Counted from the first padding row and column, so that no tap lies before the start.
            sizes = [fb.add(size, index(pad)) for size, pad in zip(walk.body.padded_size, window.pads)]
            starts = [fb.add(at, index(pad)) for at, pad in zip((ih, iw), window.pads)]
            rows, columns = (
                taps_inside(fb, starts[d], window.kernel[d], window.dilation[d], sizes[d]) for d in range(2)
            )
        height, width = (fb.smax(fb.i64(0), fb.sub(stop, first)) for first, stop in (rows, columns))
        return fb.cast("sitofp", fb.mul(height, width), walk.element)

    def row_range(self) -> tuple[V, V]:
        return self.inside

    def column(self, row: V, offset: V, channel: V) -> V:
        fb = self.walk.fb
        at = fb.add(self.iw, offset)
        # Unsigned: a negative column is a very large one.
        return fb.select(
            fb.icmp("ult", at, self.walk.window.w), super().column(row, offset, channel), self.walk.neutral
        )


def _flat(tile: Sequence[Sequence[V]]) -> list[V]:
    return [value for row in tile for value in row]


def _square(values: Sequence[V], like: Sequence[Sequence[V]]) -> list[list[V]]:
    width = len(like[0])
    return [list(values[i * width : (i + 1) * width]) for i in range(len(like))]
