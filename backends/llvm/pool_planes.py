"""Pooling over the last axes (channels first): windows combined along the rows, then along each row.

Every kind of pooling here is separable: the rows of a window are combined first, as whole contiguous vectors, into a
staged row padded with the neutral element, then the columns. A few rows are staged before the first is read, and
vectors run along the innermost axis in both halves; a stride splits a staged row by shuffles. The windows may have
any number of axes, all but the last being "rows".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, constant, intrinsic_suffix, vector_of
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.values import known
from ds_compiler.backends.llvm.window import ceil_div, index, share, taps_inside
from ds_compiler.ir.dims import Dim

_ROWS = 8  # rows staged at a time
_VECTORS = 8  # vectors of results along a row at a time
_TAPS = 9  # rows combined in registers at a time
_SHUFFLED = 4  # strides up to this are split by shuffles, larger ones gathered

# epilogue(plane, row, column, lanes, mask, value): take one finished vector along a row.
PlaneEpilogue = Callable[[V, V, V, int, V | None, V], None]


@dataclass(frozen=True, kw_only=True)
class PlaneWindow:
    """Pooling of ``[planes, *sizes]`` to ``[planes, *out]``; one entry an axis in all tuples.

    Attributes:
        how: ``max``, ``sum``, ``mean`` (divides by the number of taps) or ``mean_valid`` (by those inside the tensor).
        planes, sizes, out, low: i64 values, constant or run-time.
        static_out: the innermost entry of `out` where it is known.
    """

    how: str
    planes: V
    sizes: tuple[V, ...]
    out: tuple[V, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[int | V, ...]
    static_out: Dim

    def tile(self, lanes: int) -> int:
        """Results along a row that are computed at a time."""
        most = _VECTORS * lanes
        if not isinstance(self.static_out, int):
            return most
        even = -(-self.static_out // max(1, -(-self.static_out // most)))
        return max(lanes, -(-even // lanes) * lanes)

    @property
    def step(self) -> int:
        """The innermost stride (irrelevant to a single window)."""
        return 1 if self.static_out == 1 else self.strides[-1]

    def staged(self, lanes: int) -> int:
        """Elements of a staged row, with room for whole vectors past its end."""
        reach = (self.window[-1] - 1) * self.dilations[-1]
        return -(-(self.tile(lanes) * self.step + reach + 2 * lanes * self.step) // lanes) * lanes


def plane_scratch_bytes(window: PlaneWindow, target: Target, element: str) -> int:
    """Scratch of each task: the staged rows, one neutral row, and the number of rows inside each window."""
    return ((_ROWS + 1) * window.staged(target.lanes(element)) + _ROWS) * bytes_of(element)


def emit_plane_pool(
    fb: FunctionBuilder,
    target: Target,
    window: PlaneWindow,
    *,
    x: V,
    element: str,
    task: V,
    tasks: V,
    scratch: V,
    epilogue: PlaneEpilogue,
) -> None:
    """Emit this task's share of `window` over `x`.

    ``max`` propagates NaN and ignores the padding. Each vector of results goes to `epilogue` once, from one of the
    `tasks`; results do not depend on the number of tasks.
    """
    _Planes(fb, target, window, x, element, scratch, epilogue).run(task, tasks)


class _Planes:
    def __init__(
        self,
        fb: FunctionBuilder,
        target: Target,
        window: PlaneWindow,
        x: V,
        element: str,
        scratch: V,
        epilogue: PlaneEpilogue,
    ) -> None:
        self.fb, self.window, self.x, self.element, self.epilogue = fb, window, x, element, epilogue
        self.lanes = target.lanes(element)
        self.vector = vector_of(element, self.lanes)
        self.tile, self.staged = window.tile(self.lanes), window.staged(self.lanes)
        self.neutral = constant(self.vector, float("-inf") if window.how == "max" else 0.0)
        self.stage = scratch
        self.neutral_row = fb.gep(element, scratch, fb.i64(_ROWS * self.staged))
        self.row_counts = fb.gep(element, scratch, fb.i64((_ROWS + 1) * self.staged))
        self.divisor = self._constant_divisor()

    # -- counting ------------------------------------------------------------------------------
    def _constant_divisor(self) -> float | None:
        """What every sum is divided by, when that is one number; None: the counts must be found."""
        w = self.window
        if w.how != "mean_valid":
            return float(math.prod(w.window)) if w.how == "mean" else 1.0
        for axis, (size, out) in enumerate(zip(w.sizes, w.out, strict=True)):
            s, o, low = (known(index(v)) for v in (size, out, w.low[axis]))
            if s is None or o is None or low != 0:
                return None
            if (o - 1) * w.strides[axis] + (w.window[axis] - 1) * w.dilations[axis] >= s:
                return None
        return float(math.prod(w.window))

    def _rows_inside(self, position: Sequence[V]) -> V:
        """Rows of the window at `position` that lie inside the tensor, as a float."""
        fb, w = self.fb, self.window
        total = fb.i64(1)
        for axis, at in enumerate(position):
            start = fb.sub(fb.mul(at, fb.i64(w.strides[axis])), index(w.low[axis]))
            first, stop = taps_inside(fb, start, w.window[axis], w.dilations[axis], w.sizes[axis])
            total = fb.mul(total, fb.smax(fb.i64(0), fb.sub(stop, first)))
        return fb.cast("sitofp", total, self.element)

    def _columns_inside(self, column: V) -> V:
        """Columns inside the tensor of each window from `column` on, as a vector of floats."""
        fb, w = self.fb, self.window
        start = fb.sub(fb.mul(column, fb.i64(w.step)), index(w.low[-1]))
        type_ = vector_of("i32", self.lanes)
        lane = V(type_, "<" + ", ".join(f"i32 {i * w.step}" for i in range(self.lanes)) + ">")
        starts = fb.binary("add", fb.splat(fb.cast("trunc", start, "i32"), self.lanes), lane)
        limit = fb.splat(fb.cast("trunc", w.sizes[-1], "i32"), self.lanes)
        count = constant(type_, 0)
        for tap in range(w.window[-1]):
            at = fb.binary("add", starts, constant(type_, tap * w.dilations[-1]))
            count = fb.binary("add", count, fb.cast("zext", fb.icmp("ult", at, limit), type_))
        return fb.cast("sitofp", count, self.vector)

    # -- loops ---------------------------------------------------------------------------------
    def run(self, task: V, tasks: V) -> None:
        fb, w = self.fb, self.window
        zero = fb.i64(0)
        with fb.loop(zero, fb.i64(self.staged), self.lanes, hint="neutral") as fill:
            fb.store(self.neutral, fb.gep(self.element, self.neutral_row, fill.index))
        rows = fb.i64(1)
        for size in w.out[:-1]:
            rows = fb.mul(rows, size)
        groups = ceil_div(fb, rows, _ROWS)
        first, stop = share(fb, fb.mul(w.planes, groups), task, tasks)
        with fb.loop(first, stop, hint="rows") as units:
            divisor = fb.smax(groups, fb.i64(1))
            plane = fb.sdiv(units.index, divisor)
            row = fb.mul(fb.srem(units.index, divisor), fb.i64(_ROWS))
            count = fb.smin(fb.sub(rows, row), fb.i64(_ROWS))
            with fb.loop(zero, w.out[-1], self.tile, hint="tile") as tiles:
                columns = fb.smin(fb.sub(w.out[-1], tiles.index), fb.i64(self.tile))
                self._stage(plane, row, count, tiles.index, columns)
                self._finish(plane, row, count, tiles.index, columns)

    def _combine(self, a: V, b: V) -> V:
        fb = self.fb
        if self.window.how != "max":
            return fb.fadd(a, b)
        # One maxps: a NaN in a stays, one in b needs the second select.
        larger = fb.select(fb.fcmp("ogt", b, a), b, a)
        return fb.select(fb.fcmp("uno", b, b), b, larger)

    def _stage(self, plane: V, row: V, rows: V, column: V, columns: V) -> None:
        """Combine the windows' rows for `rows` rows of results from `row` on, `columns` results from `column` on."""
        fb, w, zero = self.fb, self.window, self.fb.i64(0)
        first = fb.sub(fb.mul(column, fb.i64(w.step)), index(w.low[-1]))
        reach = (w.window[-1] - 1) * w.dilations[-1] + 1
        need = fb.add(fb.mul(fb.sub(columns, fb.i64(1)), fb.i64(w.step)), fb.i64(reach))
        begin = fb.smin(fb.smax(fb.sub(zero, first), zero), need)
        end = fb.smax(fb.smin(fb.sub(w.sizes[-1], first), need), begin)
        whole = fb.add(begin, fb.mul(fb.sdiv(fb.sub(end, begin), fb.i64(self.lanes)), fb.i64(self.lanes)))
        left = fb.sub(end, whole)
        mask = fb.lane_mask(left, self.lanes)
        with fb.loop(zero, rows, hint="stage") as loop:
            to = fb.gep(self.element, self.stage, fb.mul(loop.index, fb.i64(self.staged)))
            position = self._position(fb.add(row, loop.index))
            if self.divisor is None:
                fb.store(self._rows_inside(position), fb.gep(self.element, self.row_counts, loop.index))
            sources = self._sources(plane, position, first)
            for number in range(0, len(sources), _TAPS):
                group = sources[number : number + _TAPS]
                if number:
                    group = [to, *group]
                with fb.loop(begin, whole, self.lanes, hint="vector") as vectors:
                    loads = [fb.load(self.vector, fb.gep(self.element, p, vectors.index)) for p in group]
                    fb.store(self._all(loads), fb.gep(self.element, to, vectors.index))
                with fb.if_(fb.icmp("sgt", left, zero)):
                    loads = [fb.masked_load(self.vector, fb.gep(self.element, p, whole), mask) for p in group]
                    fb.store(self._all(loads), fb.gep(self.element, to, whole))
            with fb.loop(zero, begin, hint="left") as fill:
                fb.store(fb.extract(self.neutral, 0), fb.gep(self.element, to, fill.index))
            # Whole vectors: a row has room past its end, and what was stored there is not needed.
            with fb.loop(end, need, self.lanes, hint="right") as fill:
                fb.store(self.neutral, fb.gep(self.element, to, fill.index))

    def _position(self, row: V) -> list[V]:
        """Place of a row of results along all axes but the last."""
        fb = self.fb
        out: list[V] = []
        for number, size in enumerate(reversed(self.window.out[:-1])):
            last = number == len(self.window.out) - 2
            out.append(row if last else fb.srem(row, size))
            row = row if last else fb.sdiv(row, size)
        return out[::-1]

    def _sources(self, plane: V, position: Sequence[V], first: V) -> list[V]:
        """Address of column `first` in each row of the window at `position`; the neutral row outside the tensor."""
        fb, w = self.fb, self.window
        starts = [fb.sub(fb.mul(at, fb.i64(w.strides[axis])), index(w.low[axis])) for axis, at in enumerate(position)]
        sources: list[V] = []
        for tap in itertools.product(*(range(n) for n in w.window[:-1])):
            inside: V | None = None
            offset = plane
            for axis, t in enumerate(tap):
                at = fb.add(starts[axis], fb.i64(t * w.dilations[axis]))
                holds = fb.icmp("ult", at, w.sizes[axis])  # unsigned: a negative row is a very large one
                inside = holds if inside is None else fb.binary("and", inside, holds)
                offset = fb.add(fb.mul(offset, w.sizes[axis]), at)
            source = fb.gep(self.element, self.x, fb.add(fb.mul(offset, w.sizes[-1]), first))
            sources.append(source if inside is None else fb.select(inside, source, self.neutral_row))
        return sources

    def _all(self, values: Sequence[V]) -> V:
        total = values[0]
        for value in values[1:]:
            total = self._combine(total, value)
        return total

    def _finish(self, plane: V, row: V, rows: V, column: V, columns: V) -> None:
        """Combine along the staged rows and hand the results over."""
        fb, lanes = self.fb, self.lanes
        whole = fb.mul(fb.sdiv(columns, fb.i64(lanes)), fb.i64(lanes))

        def vector(at: V, mask: V | None) -> None:
            counts = self._columns_inside(fb.add(column, at)) if self.divisor is None else None
            start = fb.gep(self.element, self.stage, fb.mul(at, fb.i64(self.window.step)))
            with fb.loop(fb.i64(0), rows, hint="row") as loop:
                value = self._columns(fb.gep(self.element, start, fb.mul(loop.index, fb.i64(self.staged))))
                if counts is not None:
                    of_row = fb.load(self.element, fb.gep(self.element, self.row_counts, loop.index))
                    value = fb.fdiv(value, fb.fmul(counts, fb.splat(of_row, lanes)))
                elif self.divisor is not None and self.divisor != 1.0:
                    value = fb.fdiv(value, constant(self.vector, self.divisor))
                self.epilogue(plane, fb.add(row, loop.index), fb.add(column, at), lanes, mask, value)

        with fb.loop(fb.i64(0), whole, lanes, hint="columns") as loop:
            vector(loop.index, None)
        left = fb.sub(columns, whole)
        if left.ref != "0":
            with fb.if_(fb.icmp("sgt", left, fb.i64(0))):
                vector(whole, fb.lane_mask(left, lanes))

    def _columns(self, at: V) -> V:
        """Windows that begin at `at` and every stride from there, combined along the row."""
        fb, lanes, step = self.fb, self.lanes, self.window.step
        if step > _SHUFFLED:
            return self._all([self._gathered(fb.gep(self.element, at, fb.i64(t))) for t in self._offsets()])
        parts: dict[int, V] = {}
        values: list[V] = []
        for offset in self._offsets():
            block, phase = divmod(offset, step)
            if block not in parts:
                source = fb.gep(self.element, at, fb.i64(block * step))
                parts[block] = fb.load(vector_of(self.element, lanes * step), source, align=bytes_of(self.element))
            wide = parts[block]
            picked = [i * step + phase for i in range(lanes)]
            values.append(wide if step == 1 else fb.shuffle(wide, wide, picked))
        return self._all(values)

    def _offsets(self) -> list[int]:
        return [t * self.window.dilations[-1] for t in range(self.window.window[-1])]

    def _gathered(self, at: V) -> V:
        fb, lanes = self.fb, self.lanes
        offsets = fb.mul(fb.iota("i64", lanes), constant(vector_of("i64", lanes), self.window.step))
        pointers = fb.emit(f"<{lanes} x ptr>", f"getelementptr {self.element}, ptr {at.ref}, {offsets}")
        mask = constant(vector_of("i1", lanes), True)
        name = fb.module.declare(
            f"llvm.masked.gather.{intrinsic_suffix(self.vector)}.v{lanes}p0",
            self.vector,
            [pointers.type, "i32 immarg", mask.type, self.vector],
        )
        align = bytes_of(self.element)
        return fb.emit(
            self.vector, f"call {self.vector} @{name}({pointers}, i32 {align}, {mask}, {self.vector} zeroinitializer)"
        )
