"""The gradient of a dense or grouped convolution's weight, on register tiles (see `weight_plan`), channels last."""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of
from ds_compiler.backends.llvm.conv_plan import aligned
from ds_compiler.backends.llvm.tile import Tile, accumulate
from ds_compiler.backends.llvm.weight_plan import WeightPlan, copy_stride
from ds_compiler.backends.llvm.window import ConvShape, index
from ds_compiler.backends.llvm.window_sums import Windows, WindowSums, emit_move


def emit_weight_gradient(
    fb: FunctionBuilder,
    plan: WeightPlan,
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
    """Emit ``result[o, c, kh, kw]``, the sum over images and windows of gradient times the input that the tap met.

    Args:
        shape: the convolution; `x` is its input, `gradient` its result's cotangent.
        scratch: this task's own `weight_scratch_bytes`, aligned to 64 bytes.
    """
    _Products(fb, plan, shape, x, gradient, result, scratch, element).run(task, tasks)


class _Products(WindowSums):
    """A unit is a tile of one group's product for one tap."""

    def __init__(
        self,
        fb: FunctionBuilder,
        plan: WeightPlan,
        shape: ConvShape,
        x: V,
        gradient: V,
        result: V,
        scratch: V,
        element: str,
    ) -> None:
        self.plan = plan
        self.tiles = sum(times for _, times in plan.heights)
        self.panels = -(-plan.columns // plan.width)
        size = plan.mr * plan.width
        super().__init__(
            fb,
            shape,
            x=x,
            gradient=gradient,
            result=result,
            sums=scratch,
            units=shape.groups * self.panels * self.tiles * plan.taps,
            kept=plan.units,
            size=size,
            lanes=plan.lanes,
            element=element,
        )
        self.copy = fb.gep("i8", scratch, fb.i64(aligned(plan.units * size * bytes_of(element))))
        if plan.copied:
            ci, dilation, columns = shape.ci, shape.dilation, shape.kernel[1]
            offsets = [
                ((tap // columns) * dilation[0] * plan.area[1] + (tap % columns) * dilation[1]) * ci + c
                for tap in range(self.taps)
                for c in range(ci)
            ]
            text = ", ".join(f"i64 {offset}" for offset in offsets)
            name = f"taps.{'.'.join(map(str, (*shape.kernel, *dilation, plan.area[1], ci)))}"
            self.table = fb.module.global_(name, f"internal constant [{len(offsets)} x i64] [{text}], align 64")

    def block(self) -> tuple[V, V, V]:
        if not self.plan.copied:
            return super().block()
        rows, columns = self.plan.block
        return self.fb.i64(1), self.fb.i64(rows), self.fb.i64(columns)

    # -- the copy -----------------------------------------------------------------------------
    def begin(self, windows: Windows) -> None:
        """Copy the input that a block's windows see, with zeros where they leave it."""
        if not self.plan.copied:
            return
        fb, shape, plan, zero = self.fb, self.shape, self.plan, self.fb.i64(0)
        channels, (row_step, column_step) = fb.i64(shape.ci), copy_stride(shape)
        needed, begins, steps = [], [], []
        for axis, (block, step) in enumerate(
            zip((windows.rows, windows.columns), (row_step, column_step), strict=True)
        ):
            count = fb.sub(fb.sub(block[1], block[0]), fb.i64(1))
            span = (shape.kernel[axis] - 1) * shape.dilation[axis] + 1
            needed.append(fb.add(fb.mul(count, fb.i64(step)), fb.i64(span)))
            begins.append(fb.sub(fb.mul(block[0], fb.i64(shape.stride[axis])), index(shape.pads[axis])))
            steps.append(shape.stride[axis] if shape.kernel[axis] == 1 else 1)
        with fb.loop(zero, needed[0], hint="copy") as loop:
            to = fb.gep(self.element, self.copy, fb.mul(loop.index, fb.i64(plan.area[1] * shape.ci)))
            row = fb.add(begins[0], fb.mul(loop.index, fb.i64(steps[0])))
            on_input = fb.icmp("ult", row, shape.h)
            branches = fb.if_else(on_input)
            with branches.then():
                if steps[1] == 1:
                    left = fb.smin(fb.smax(fb.sub(zero, begins[1]), zero), needed[1])
                    right = fb.smax(fb.smin(fb.sub(shape.w, begins[1]), needed[1]), left)
                    source = self.x_at(windows.images[0], row, fb.add(begins[1], left), zero)
                    self._move(to, None, fb.mul(left, channels))
                    inner = fb.mul(left, channels)
                    self._move(fb.gep(self.element, to, inner), source, fb.mul(fb.sub(right, left), channels))
                    behind = fb.gep(self.element, to, fb.mul(right, channels))
                    self._move(behind, None, fb.mul(fb.sub(needed[1], right), channels))
                else:
                    self._spread(to, windows.images[0], row, begins[1], needed[1], steps[1])
            with branches.otherwise():
                self._move(to, None, fb.mul(needed[1], channels))
            branches.results()

    def _spread(self, to: V, image: V, row: V, begin: V, count: V, step: int) -> None:
        """A row of pixels `step` apart."""
        fb, channels = self.fb, self.fb.i64(self.shape.ci)
        with fb.loop(fb.i64(0), count, hint="pixel") as loop:
            column = fb.add(begin, fb.mul(loop.index, fb.i64(step)))
            at = fb.gep(self.element, to, fb.mul(loop.index, channels))
            branches = fb.if_else(fb.icmp("ult", column, self.shape.w))
            with branches.then():
                self._move(at, self.x_at(image, row, column, fb.i64(0)), channels)
            with branches.otherwise():
                self._move(at, None, channels)
            branches.results()

    def _move(self, to: V, source: V | None, count: V) -> None:
        emit_move(self.fb, self.element, self.lanes, to, source, count)

    # -- units --------------------------------------------------------------------------------
    def _split(self, unit: V) -> tuple[V, V, V, V]:
        """Group, panel, tile and tap of a unit."""
        fb, taps, tiles, panels = self.fb, self.plan.taps, self.tiles, self.panels
        tap, rest = fb.srem(unit, fb.i64(taps)), fb.sdiv(unit, fb.i64(taps))
        tile, rest = fb.srem(rest, fb.i64(tiles)), fb.sdiv(rest, fb.i64(tiles))
        return fb.sdiv(rest, fb.i64(panels)), fb.srem(rest, fb.i64(panels)), tile, tap

    def add(self, unit: V, sums: V, windows: Windows) -> None:
        fb, plan = self.fb, self.plan
        group, panel, tile, tap = self._split(unit)
        column = fb.mul(panel, fb.i64(plan.width))
        full, rest = divmod(plan.columns, plan.width)
        kinds: list[tuple[V, int, V | None]] = []
        if full:
            kinds.append((fb.icmp("slt", panel, fb.i64(full)), plan.nv, None))
        if rest:
            tail = rest % plan.lanes
            mask = fb.lane_mask(fb.i64(tail), plan.lanes) if tail else None
            kinds.append((fb.icmp("sge", panel, fb.i64(full)), -(-rest // plan.lanes), mask))
        before, top = 0, 0
        for height, times in plan.heights:
            past = fb.icmp("sge", tile, fb.i64(before))
            here = fb.binary("and", past, fb.icmp("slt", tile, fb.i64(before + times)))
            row = fb.add(fb.i64(top), fb.mul(fb.sub(tile, fb.i64(before)), fb.i64(height)))
            for of_kind, nv, mask in kinds:
                with fb.if_(fb.binary("and", here, of_kind), hint=f"tile{height}x{nv}"):
                    acc = [[fb.load(self.vector, self._sum(sums, i, j)) for j in range(nv)] for i in range(height)]
                    if plan.copied:
                        acc = self._copied(acc, row, column, mask, windows)
                    else:
                        acc = self._tap(acc, group, row, column, mask, tap, windows)
                    for i in range(height):
                        for j in range(nv):
                            fb.store(acc[i][j], self._sum(sums, i, j))
            before, top = before + times, top + height * times

    def _sum(self, sums: V, i: int, j: int) -> V:
        return self.fb.gep(self.element, sums, self.fb.i64((i * self.plan.nv + j) * self.lanes))

    def _tap(self, acc: Tile, group: V, row: V, column: V, mask: V | None, tap: V, windows: Windows) -> Tile:
        """Add a block's windows, read in place: those whose tap is on the input."""
        fb, shape, plan = self.fb, self.shape, self.plan
        taps = (fb.sdiv(tap, fb.i64(shape.kernel[1])), fb.srem(tap, fb.i64(shape.kernel[1])))
        first, stop = self.inside(0, taps[0], taps[0], windows.rows)
        left, right = self.inside(1, taps[1], taps[1], windows.columns)
        ci, co = shape.ci // shape.groups, shape.co // shape.groups
        x_channel = fb.add(fb.mul(group, fb.i64(ci)), column if plan.swapped else row)
        g_channel = fb.add(fb.mul(group, fb.i64(co)), row if plan.swapped else column)
        x_column = fb.add(fb.mul(left, fb.i64(shape.stride[1])), self.start(1, taps[1]))
        x_row = self.start(0, taps[0])
        height, nv = len(acc), len(acc[0])
        with fb.loop(*windows.images, carried=[v for r in acc for v in r], hint="image") as image:
            with fb.loop(first, stop, carried=image.carried, hint="row") as line:
                met = fb.add(fb.mul(line.index, fb.i64(shape.stride[0])), x_row)
                x = self.x_at(image.index, met, x_column, x_channel)
                g = self.gradient_at(image.index, line.index, left, g_channel)
                x_step, g_step = shape.stride[1] * shape.ci, shape.co
                a, a_step, b, b_step = (g, g_step, x, x_step) if plan.swapped else (x, x_step, g, g_step)
                rows = [fb.gep(self.element, a, fb.i64(i)) for i in range(height)]
                inner = accumulate(
                    fb,
                    [line.carried[i * nv : (i + 1) * nv] for i in range(height)],
                    rows,
                    a_step,
                    b,
                    b_step,
                    fb.sub(right, left),
                    lanes=self.lanes,
                    last_mask=mask,
                )
                line.carry(*(v for r in inner for v in r))
            image.carry(*line.results)
        return [image.results[i * nv : (i + 1) * nv] for i in range(height)]

    def _copied(self, acc: Tile, row: V, column: V, mask: V | None, windows: Windows) -> Tile:
        """Add a block's windows, read from the copy: rows are at the table's distances."""
        fb, shape, plan = self.fb, self.shape, self.plan
        height, nv = len(acc), len(acc[0])
        row_step, column_step = copy_stride(shape)
        at = fb.gep("i64", self.table, row)
        offsets = [fb.load("i64", fb.gep("i64", at, fb.i64(i))) for i in range(height)]
        first, stop = windows.rows
        left, right = windows.columns
        with fb.loop(first, stop, carried=[v for r in acc for v in r], hint="row") as line:
            down = fb.mul(fb.sub(line.index, first), fb.i64(row_step * plan.area[1] * shape.ci))
            x = fb.gep(self.element, self.copy, down)
            g = self.gradient_at(windows.images[0], line.index, left, column)
            inner = accumulate(
                fb,
                [line.carried[i * nv : (i + 1) * nv] for i in range(height)],
                [fb.gep(self.element, x, offset) for offset in offsets],
                column_step * shape.ci,
                g,
                shape.co,
                fb.sub(right, left),
                lanes=self.lanes,
                last_mask=mask,
            )
            line.carry(*(v for r in inner for v in r))
        return [line.results[i * nv : (i + 1) * nv] for i in range(height)]

    # -- the result -----------------------------------------------------------------------------
    def write(self, unit: V, sums: V) -> None:
        """Scatter a tile to ``[o, c, taps]``."""
        fb, shape, plan, zero = self.fb, self.shape, self.plan, self.fb.i64(0)
        ci, co, taps = shape.ci // shape.groups, shape.co // shape.groups, fb.i64(self.taps)
        group, panel, tile, tap = self._split(unit)
        column = fb.mul(panel, fb.i64(plan.width))
        width = fb.smin(fb.sub(fb.i64(plan.columns), column), fb.i64(plan.width))
        row, height, before, top = zero, zero, 0, 0
        for extent, times in plan.heights:
            here = fb.icmp("sge", tile, fb.i64(before))
            start = fb.add(fb.i64(top), fb.mul(fb.sub(tile, fb.i64(before)), fb.i64(extent)))
            row, height = fb.select(here, start, row), fb.select(here, fb.i64(extent), height)
            before, top = before + times, top + extent * times
        with (
            fb.loop(zero, height, hint="i") as i,
            fb.loop(zero, width, hint="j") as j,
        ):
            value = fb.load(
                self.element, fb.gep(self.element, sums, fb.add(fb.mul(i.index, fb.i64(plan.width)), j.index))
            )
            r, c = fb.add(row, i.index), fb.add(column, j.index)
            out, channel = (r, c) if plan.swapped else (c, r)
            if plan.copied:
                tap, channel = fb.sdiv(r, fb.i64(ci)), fb.srem(r, fb.i64(ci))
            out = fb.add(fb.mul(group, fb.i64(co)), out)
            place = fb.add(fb.mul(fb.add(fb.mul(out, fb.i64(ci)), channel), taps), tap)
            fb.store(value, fb.gep(self.element, self.result, place))
