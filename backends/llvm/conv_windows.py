"""Where a tile of output pixels finds its input: tables of addresses, gathered windows, or rows in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, vector_of
from ds_compiler.backends.llvm.conv_plan import Plan
from ds_compiler.backends.llvm.window import ConvShape, ceil_div

_UNROLLED_TAPS = 25


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


class InputWindows:
    """Tiles of the pixels of a `Grid` and the input of their windows.

    Pixels are numbered through all images. When their count is known they are split into tiles of two heights
    that differ by one (`even`: the lower height, and how many tiles at the start are taller); otherwise all
    tiles have mr pixels, and the missing ones of the last tile repeat its last pixel.

    Args:
        table, positions, gathered: scratch, see `conv_plan.scratch_parts`.
    """

    def __init__(
        self,
        fb: FunctionBuilder,
        plan: Plan,
        grid: Grid,
        shape: ConvShape,
        x: V,
        element: str,
        table: V,
        positions: V,
        gathered: V,
    ) -> None:
        self.fb, self.plan, self.grid, self.shape = fb, plan, grid, shape
        self.x, self.element, self.vector = x, element, vector_of(element, plan.lanes)
        self.table, self.positions, self.gathered = table, positions, gathered
        self.ci = shape.ci // shape.groups
        self.group_x = x  # the first channel of the group at hand, set by `prepare`
        self.pixels = fb.mul(fb.mul(shape.n, grid.rows), grid.columns)
        self.tiles = ceil_div(fb, self.pixels, plan.mr)
        # The pixels of one image are their own positions; otherwise positions are kept in scratch.
        self.flat = shape.n.ref == "1" and grid.dense
        self.even: tuple[int, int] | None = None
        if self.pixels.ref.isdigit() and self.pixels.ref != "0":
            self.even = divmod(int(self.pixels.ref), int(self.tiles.ref))
        if plan.mode in ("taps", "lines"):
            definition = f"internal constant [{plan.length} x {element}] zeroinitializer, align 64"
            self.zeros = fb.module.global_(f"zeros.{element}.{plan.length}", definition)

    def tile_start(self, number: V) -> V:
        """First pixel of a tile. A known pixel count is split evenly: the first `taller` tiles have one more."""
        fb = self.fb
        if self.even is None:
            return fb.mul(number, fb.i64(self.plan.mr))
        low, taller = self.even
        start = fb.mul(number, fb.i64(low))
        return fb.add(start, fb.smin(number, fb.i64(taller))) if taller else start

    def rows(self, tile: V, start: V, segment: V, offset: V, height: int, count: V | None) -> list[V]:
        """Addresses of element `offset` of a segment, for `height` pixels of a tile of which `count` exist."""
        fb, plan = self.fb, self.plan
        if plan.mode in ("taps", "lines"):
            table = fb.mul(fb.add(fb.mul(tile, fb.i64(plan.segments)), segment), fb.i64(plan.mr))
            at = fb.gep("ptr", self.table, table)
            taps = [fb.load("ptr", fb.gep("ptr", at, fb.i64(i))) for i in range(height)]
            return [fb.gep(self.element, tap, offset) for tap in taps]
        if plan.mode == "gather":
            at = fb.gep(self.element, self.gathered, fb.add(fb.mul(tile, fb.i64(plan.mr * plan.k)), offset))
            return [fb.gep(self.element, at, fb.i64(i * plan.k)) for i in range(height)]
        ci = fb.i64(self.shape.ci)
        at = fb.gep(self.element, self.group_x, fb.add(fb.mul(start, ci), offset))
        last = fb.sub(count, fb.i64(1)) if count is not None else fb.i64(height)
        return [fb.gep(self.element, at, fb.mul(fb.smin(fb.i64(i), last), ci)) for i in range(height)]

    def position(self, tile: V, p: V) -> tuple[V, V]:
        """Where the image and the output pixel of a tile's pixel `p` are kept."""
        fb = self.fb
        at = fb.gep("i64", self.positions, fb.mul(fb.add(fb.mul(tile, fb.i64(self.plan.mr)), p), fb.i64(2)))
        return at, fb.gep("i64", at, fb.i64(1))

    # -- once for each pixel block and group ----------------------------------------------------
    def prepare(self, first_tile: V, tiles: V, group: V) -> None:
        """Fill the table, the gathered windows and the positions for the pixels of a block."""
        fb, plan, grid = self.fb, self.plan, self.grid
        self.group_x = fb.gep(self.element, self.x, fb.mul(group, fb.i64(self.ci)))
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
                self.prepare_pixel(loop.index, pixels.index, image, i, j)
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

    def prepare_pixel(self, tile: V, p: V, image: V, i: V, j: V) -> None:
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
        at = fb.gep(self.element, self.group_x, origin)
        slot = fb.gep("ptr", self.table, fb.add(fb.mul(tile, fb.i64(plan.mr * plan.segments)), p))
        to = fb.mul(fb.add(fb.mul(tile, fb.i64(plan.mr)), p), fb.i64(plan.k))
        if plan.mode == "taps":
            self.fill_table(slot, at, ih, iw)
        elif plan.mode == "lines":
            self.find_lines(slot, fb.gep(self.element, self.gathered, to), at, ih, iw)
        else:
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

    def find_lines(self, slot: V, to: V, at: V, ih: V, iw: V) -> None:
        """Store the address of each kernel row of a window, copied to `to` if it crosses a side of the image."""
        fb, (rows, columns) = self.fb, self.grid.taps
        left = fb.icmp("sge", iw, fb.i64(0))
        right = fb.icmp("sle", fb.add(iw, fb.i64(columns)), self.shape.w)
        branches = fb.if_else(fb.binary("and", left, right))

        def in_place(kh: V) -> None:
            line = fb.gep(self.element, at, self.tap_offset(kh, fb.i64(0)))
            line = fb.select(self.tap_inside(0, ih, kh), line, self.zeros)
            fb.store(line, fb.gep("ptr", slot, fb.mul(kh, fb.i64(self.plan.mr))))

        with branches.then():
            if rows <= _UNROLLED_TAPS:
                for kh in range(rows):
                    in_place(fb.i64(kh))
            else:
                with fb.loop(fb.i64(0), fb.i64(rows), hint="kh") as loop:
                    in_place(loop.index)
        with branches.otherwise():
            self.gather_window(to, at, ih, iw)
            with fb.loop(fb.i64(0), fb.i64(rows), hint="kh") as loop:
                line = fb.gep(self.element, to, fb.mul(loop.index, fb.i64(self.plan.length)))
                fb.store(line, fb.gep("ptr", slot, fb.mul(loop.index, fb.i64(self.plan.mr))))
        branches.results()

    def gather_window(self, to: V, at: V, ih: V, iw: V) -> None:
        """Copy a pixel's window, zeros for the padding."""
        fb, (rows, columns) = self.fb, self.grid.taps
        with fb.loop(fb.i64(0), fb.i64(rows), hint="kh") as outer:
            row_inside = self.tap_inside(0, ih, outer.index)
            with fb.loop(fb.i64(0), fb.i64(columns), hint="kw") as inner:
                kh, kw = outer.index, inner.index
                inside = fb.binary("and", row_inside, self.tap_inside(1, iw, kw))
                number = fb.add(fb.mul(kh, fb.i64(columns)), kw)
                tap_to = fb.gep(self.element, to, fb.mul(number, fb.i64(self.ci)))
                branches = fb.if_else(inside)
                with branches.then():
                    self.copy(tap_to, fb.gep(self.element, at, self.tap_offset(kh, kw)))
                with branches.otherwise():
                    self.copy(tap_to, None)
                branches.results()

    def copy(self, to: V, source: V | None) -> None:
        """Copy the channels of a tap, fewer than `conv_plan` takes as a segment (zeros without a source).

        Writes whole vectors: what follows is written later. Masked loads are fast where masked stores are
        not (tens of cycles on Zen).
        """
        fb, lanes, count = self.fb, self.plan.lanes, self.ci
        for first in range(0, count, lanes):
            offset, value = fb.i64(first), fb.const(self.vector, 0.0)
            if source is not None:
                at = fb.gep(self.element, source, offset)
                if count - first >= lanes:
                    value = fb.load(self.vector, at)
                else:
                    value = fb.masked_load(self.vector, at, fb.lane_mask(fb.i64(count - first), lanes))
            fb.store(value, fb.gep(self.element, to, offset))
