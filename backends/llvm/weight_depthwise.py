"""The gradient of a depthwise convolution's weight: vectors along the channels, one sum for each tap."""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.window import ConvShape
from ds_compiler.backends.llvm.window_sums import Windows, WindowSums

_SUMS = 12  # that registers hold beside a vector of the gradient and one of the input
_KEPT = 64  # units that share a pass over the windows: their rows of input and gradient stay in the caches


def emit_depthwise_weight_gradient(
    fb: FunctionBuilder,
    target: Target,
    *,
    shape: ConvShape,
    x: V,
    gradient: V,
    result: V,
    task: V,
    tasks: V,
    scratch: V,
    element: str,
) -> None:
    """Emit ``result[c, 0, kh, kw]``: the sum over images and windows of gradient times the input that the tap met.

    Args:
        shape: one output channel for each input channel, each its own group.
        scratch: this task's own `depthwise_weight_scratch_bytes`, aligned to 64 bytes.
    """
    _Taps(fb, target, shape, x, gradient, result, scratch, element).run(task, tasks)


def depthwise_weight_scratch_bytes(shape: ConvShape, target: Target, element: str) -> int:
    """Scratch that one task needs."""
    columns, vectors = _tile(shape, target.lanes(element))
    return _KEPT * columns * vectors * target.lanes(element) * bytes_of(element)


def _tile(shape: ConvShape, lanes: int) -> tuple[int, int]:
    """Taps of a kernel row that are summed at once, and vectors of channels."""
    pieces = -(-shape.kernel[1] // _SUMS)
    columns = -(-shape.kernel[1] // pieces)
    return columns, min(_SUMS // columns, -(-shape.ci // lanes))


class _Taps(WindowSums):
    """A unit is some channels, and one row of the kernel or a part of it."""

    def __init__(
        self,
        fb: FunctionBuilder,
        target: Target,
        shape: ConvShape,
        x: V,
        gradient: V,
        result: V,
        scratch: V,
        element: str,
    ) -> None:
        lanes = target.lanes(element)
        self.columns, self.vectors = _tile(shape, lanes)
        self.pieces = -(-shape.kernel[1] // self.columns)
        self.width = self.vectors * lanes
        self.panels = -(-shape.ci // self.width)
        super().__init__(
            fb,
            shape,
            x=x,
            gradient=gradient,
            result=result,
            sums=scratch,
            units=self.panels * shape.kernel[0] * self.pieces,
            kept=_KEPT,
            size=self.columns * self.width,
            lanes=lanes,
            element=element,
        )

    def _split(self, unit: V) -> tuple[V, V, V]:
        """First channel, row of the kernel, first tap in it."""
        fb, pieces, rows = self.fb, self.fb.i64(self.pieces), self.fb.i64(self.shape.kernel[0])
        piece, rest = fb.srem(unit, pieces), fb.sdiv(unit, pieces)
        channel = fb.mul(fb.sdiv(rest, rows), fb.i64(self.width))
        return channel, fb.srem(rest, rows), fb.mul(piece, fb.i64(self.columns))

    def add(self, unit: V, sums: V, windows: Windows) -> None:
        fb = self.fb
        channel, row, tap = self._split(unit)
        full, rest = divmod(self.shape.ci, self.width)
        if full:
            with fb.if_(fb.icmp("sle", channel, fb.i64((full - 1) * self.width)), hint="full"):
                self._add(sums, channel, row, tap, self.vectors, None, windows)
        if rest:
            tail = rest % self.lanes
            mask = fb.lane_mask(fb.i64(tail), self.lanes) if tail else None
            with fb.if_(fb.icmp("sge", channel, fb.i64(full * self.width)), hint="tail"):
                self._add(sums, channel, row, tap, -(-rest // self.lanes), mask, windows)

    def _add(self, sums: V, channel: V, row: V, tap: V, nv: int, mask: V | None, windows: Windows) -> None:
        """Windows whose taps are all on the input run unchecked; the others skip what is not."""
        fb, shape = self.fb, self.shape
        places = [
            fb.gep(self.element, sums, fb.i64((t * self.vectors + j) * self.lanes))
            for t in range(self.columns)
            for j in range(nv)
        ]
        first, stop = self.inside(0, row, row, windows.rows)
        past = fb.add(tap, fb.i64(self.columns - 1))
        left, right = self.inside(1, tap, past, windows.columns)
        left = fb.smin(left, windows.columns[1])
        right = fb.smax(fb.smin(right, windows.columns[1]), left)
        x_row = self.start(0, row)
        acc = [fb.load(self.vector, place) for place in places]
        with fb.loop(*windows.images, carried=acc, hint="image") as image:
            with fb.loop(first, stop, carried=image.carried, hint="row") as line:
                met = fb.add(fb.mul(line.index, fb.i64(shape.stride[0])), x_row)
                carried = line.carried
                for begin, end, checked in (
                    (windows.columns[0], left, True),
                    (left, right, False),
                    (right, windows.columns[1], True),
                ):
                    with fb.loop(begin, end, carried=carried, hint="column") as loop:
                        column = fb.add(fb.mul(loop.index, fb.i64(shape.stride[1])), self.start(1, tap))
                        x = self.x_at(image.index, met, column, channel)
                        g = self.gradient_at(image.index, line.index, loop.index, channel)
                        loop.carry(*self._window(loop.carried, x, g, column, tap, nv, mask, checked))
                    carried = loop.results
                line.carry(*carried)
            image.carry(*line.results)
        for value, place in zip(image.results, places, strict=True):
            fb.store(value, place)

    def _window(self, acc: list[V], x: V, g: V, column: V, tap: V, nv: int, mask: V | None, checked: bool) -> list[V]:
        """`acc`, by tap, then vector, with one window added."""
        fb, shape = self.fb, self.shape
        gradient = [self._load(g, j, nv, mask) for j in range(nv)]
        result: list[V] = []
        for t in range(self.columns):
            old = acc[t * nv : (t + 1) * nv]
            at = fb.gep(self.element, x, fb.i64(t * shape.dilation[1] * shape.ci))
            exists = fb.icmp("slt", fb.add(tap, fb.i64(t)), fb.i64(shape.kernel[1]))
            if checked:
                place = fb.add(column, fb.i64(t * shape.dilation[1]))
                exists = fb.binary("and", exists, fb.icmp("ult", place, shape.w))
            elif self.pieces == 1:
                result += [self._sum(old[j], at, gradient[j], j, nv, mask) for j in range(nv)]
                continue
            branches = fb.if_else(exists)
            with branches.then():
                branches.give(*(self._sum(old[j], at, gradient[j], j, nv, mask) for j in range(nv)))
            with branches.otherwise():
                branches.give(*old)
            result += branches.results()
        return result

    def _load(self, at: V, j: int, nv: int, mask: V | None) -> V:
        fb = self.fb
        address = fb.gep(self.element, at, fb.i64(j * self.lanes))
        if mask is not None and j == nv - 1:
            return fb.masked_load(self.vector, address, mask)
        return fb.load(self.vector, address)

    def _sum(self, old: V, x: V, g: V, j: int, nv: int, mask: V | None) -> V:
        return self.fb.intrinsic("fmuladd", self._load(x, j, nv, mask), g, old)

    def write(self, unit: V, sums: V) -> None:
        fb, shape, zero = self.fb, self.shape, self.fb.i64(0)
        channel, row, tap = self._split(unit)
        width = fb.smin(fb.sub(fb.i64(shape.ci), channel), fb.i64(self.width))
        count = fb.smin(fb.sub(fb.i64(shape.kernel[1]), tap), fb.i64(self.columns))
        with fb.loop(zero, width, hint="c") as c, fb.loop(zero, count, hint="t") as t:
            value = fb.load(
                self.element, fb.gep(self.element, sums, fb.add(fb.mul(t.index, fb.i64(self.width)), c.index))
            )
            number = fb.add(fb.mul(row, fb.i64(shape.kernel[1])), fb.add(tap, t.index))
            place = fb.add(fb.mul(fb.add(channel, c.index), fb.i64(self.taps)), number)
            fb.store(value, fb.gep(self.element, self.result, place))
