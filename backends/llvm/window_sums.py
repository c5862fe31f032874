"""Sums over all windows of all images, for the gradients of convolutions' weights.

What is summed is cut into *units*, which keep their sums in scratch; a pass over the windows, in blocks that stay in
the first-level cache, adds to all units that share it. Tasks take units, not windows: every sum is one task's, in one
order, so results do not depend on the number of tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, vector_of
from ds_compiler.backends.llvm.weight_plan import BLOCK
from ds_compiler.backends.llvm.window import ConvShape, ceil_div, index, share


@dataclass(frozen=True)
class Windows:
    """A block of windows: of images, rows and columns, first and past-the-end."""

    images: tuple[V, V]
    rows: tuple[V, V]
    columns: tuple[V, V]


class WindowSums(ABC):
    """Loops over units and blocks of windows.

    Args:
        x: the input, ``[n, h, w, ci]``.
        gradient: ``[n, oh, ow, co]``.
        result: ``[co, ci / groups, kh, kw]``.
        sums: scratch for `kept` units of `size` elements.
    """

    def __init__(
        self,
        fb: FunctionBuilder,
        shape: ConvShape,
        *,
        x: V,
        gradient: V,
        result: V,
        sums: V,
        units: int,
        kept: int,
        size: int,
        lanes: int,
        element: str,
    ) -> None:
        self.fb, self.shape, self.element = fb, shape, element
        self.x, self.gradient, self.result, self.sums = x, gradient, result, sums
        self.units, self.kept, self.size, self.lanes = units, kept, size, lanes
        self.vector = vector_of(element, lanes)
        self.taps = shape.kernel[0] * shape.kernel[1]

    @abstractmethod
    def add(self, unit: V, sums: V, windows: Windows) -> None:
        """Add what a block of windows contributes to a unit."""

    @abstractmethod
    def write(self, unit: V, sums: V) -> None:
        """Write a unit's sums to the result."""

    def begin(self, windows: Windows) -> None:  # noqa: B027, most need nothing
        """What all units need of a block."""

    def block(self) -> tuple[V, V, V]:
        """Images, rows and columns of a block: whole rows and images where they are small."""
        fb, shape, one = self.fb, self.shape, self.fb.i64(1)
        columns = fb.smax(fb.smin(shape.ow, fb.i64(BLOCK)), one)
        rows = fb.smax(fb.smin(shape.oh, fb.sdiv(fb.i64(BLOCK), columns)), one)
        images = fb.smax(fb.sdiv(fb.i64(BLOCK), fb.smax(fb.mul(shape.oh, shape.ow), one)), one)
        return images, rows, columns

    def run(self, task: V, tasks: V) -> None:
        """This task's units."""
        fb, shape, zero = self.fb, self.shape, self.fb.i64(0)
        first, stop = share(fb, fb.i64(self.units), task, tasks)
        images, rows, columns = self.block()
        with fb.loop(first, stop, self.kept, hint="units") as units:
            end = fb.smin(fb.add(units.index, fb.i64(self.kept)), stop)
            count = fb.mul(fb.sub(end, units.index), fb.i64(self.size))
            with fb.loop(zero, count, self.lanes, hint="clear") as loop:
                fb.store(constant(self.vector, 0.0), fb.gep(self.element, self.sums, loop.index))
            with (
                fb.loop(zero, shape.n, images, hint="images") as n,
                fb.loop(zero, shape.oh, rows, hint="rows") as row,
                fb.loop(zero, shape.ow, columns, hint="columns") as column,
            ):
                windows = Windows(
                    (n.index, fb.smin(fb.add(n.index, images), shape.n)),
                    (row.index, fb.smin(fb.add(row.index, rows), shape.oh)),
                    (column.index, fb.smin(fb.add(column.index, columns), shape.ow)),
                )
                self.begin(windows)
                with fb.loop(units.index, end, hint="unit") as unit:
                    self.add(unit.index, self._sums(unit.index, units.index), windows)
            with fb.loop(units.index, end, hint="write") as unit:
                self.write(unit.index, self._sums(unit.index, units.index))

    def _sums(self, unit: V, first: V) -> V:
        fb = self.fb
        return fb.gep(self.element, self.sums, fb.mul(fb.sub(unit, first), fb.i64(self.size)))

    # -- places -------------------------------------------------------------------------------
    def start(self, axis: int, tap: V) -> V:
        """Where on the input a tap of window 0 lies, along an axis."""
        fb = self.fb
        return fb.sub(fb.mul(tap, fb.i64(self.shape.dilation[axis])), index(self.shape.pads[axis]))

    def inside(self, axis: int, first: V, last: V, block: tuple[V, V]) -> tuple[V, V]:
        """The windows of a block, along an axis, whose taps from `first` to `last` all lie on the input."""
        fb, stride = self.fb, self.shape.stride[axis]
        size = (self.shape.h, self.shape.w)[axis]
        begin = ceil_div(fb, fb.smax(fb.sub(fb.i64(0), self.start(axis, first)), fb.i64(0)), stride)
        end = ceil_div(fb, fb.smax(fb.sub(size, self.start(axis, last)), fb.i64(0)), stride)
        begin, end = fb.smax(begin, block[0]), fb.smin(end, block[1])
        return begin, fb.smax(begin, end)

    def x_at(self, image: V, row: V, column: V, channel: V) -> V:
        """Address of an element of the input."""
        fb, shape = self.fb, self.shape
        pixel = fb.add(fb.mul(fb.add(fb.mul(image, shape.h), row), shape.w), column)
        return fb.gep(self.element, self.x, fb.add(fb.mul(pixel, fb.i64(shape.ci)), channel))

    def gradient_at(self, image: V, row: V, column: V, channel: V) -> V:
        """Address of an element of the gradient."""
        fb, shape = self.fb, self.shape
        pixel = fb.add(fb.mul(fb.add(fb.mul(image, shape.oh), row), shape.ow), column)
        return fb.gep(self.element, self.gradient, fb.add(fb.mul(pixel, fb.i64(shape.co)), channel))


def emit_move(fb: FunctionBuilder, element: str, lanes: int, to: V, source: V | None, count: V) -> None:
    """Copy `count` elements, or write zeros."""
    whole = fb.mul(fb.sdiv(count, fb.i64(lanes)), fb.i64(lanes))
    for start, stop, step in ((fb.i64(0), whole, lanes), (whole, count, 1)):
        type_ = vector_of(element, lanes) if step > 1 else element
        with fb.loop(start, stop, step, hint="move") as loop:
            value = constant(type_, 0.0)
            if source is not None:
                value = fb.load(type_, fb.gep(element, source, loop.index))
            fb.store(value, fb.gep(element, to, loop.index))
