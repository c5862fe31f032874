"""One cache block of a matrix product: its tiles, the operands they read, and where their sums go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, known, vector_of
from ds_compiler.backends.llvm.gemm_schedule import RowSegment, Schedule, row_segments
from ds_compiler.backends.llvm.operands import Epilogue, Matrix, PackedMatrix, Touch
from ds_compiler.backends.llvm.packing import emit_copy_rows, emit_pack_b, emit_transpose
from ds_compiler.backends.llvm.tile import Tile, accumulate, zero_tile

_LINE = 64  # bytes of a cache line


@dataclass
class Block:
    """Where the loops around the tiles stand; all values i64 but `a`, `b` (ptr) and `first`, `last` (i1).

    Row tiles `tile0` ... `tile1` - 1, starting at row `row0`, meet column panels `panel0` ... `panel1` - 1 over
    `count` steps of k from `start`. `first` and `last` tell the pass over k; None when there is only one.
    """

    index: V
    a: V
    b: V
    panel0: V
    panel1: V
    tile0: V
    tile1: V
    row0: V
    start: V
    count: V
    first: V | None = None
    last: V | None = None


@dataclass(frozen=True)
class ColumnSegment:
    """Panels `first` ... `stop` - 1 of `vectors` vectors.

    `tail` is None (all columns exist), the mask of the last vector, ``"any"`` (look at run time, B may be read to
    the panel's end) or ``"vectors"`` (look at run time, a vector at a time, B must be masked).
    """

    vectors: int
    first: V
    stop: V
    tail: V | str | None


class BlockEmitter:
    """Emits blocks of one product; see `matmul.emit_matmul` for the arguments."""

    def __init__(
        self,
        fb: FunctionBuilder,
        schedule: Schedule,
        m: V,
        n: V,
        k: V,
        a: Matrix,
        b: Matrix | PackedMatrix,
        scratch: V | None,
        epilogue: Epilogue,
        touch: Touch | None,
    ) -> None:
        self.fb, self.s, self.m, self.n, self.k = fb, schedule, m, n, k
        self.a, self.b, self.epilogue, self.touch = a, b, epilogue, touch
        self.element = schedule.element
        self.type = vector_of(self.element, schedule.lanes)
        self.segments, self.tiles = row_segments(fb, m, schedule.mr)
        nr = fb.i64(schedule.nr)
        self.panels = fb.sdiv(fb.add(n, fb.i64(schedule.nr - 1)), nr)
        # Whether B's panels may be read to their last column.
        self.padded = schedule.pack_b or isinstance(b, PackedMatrix)
        a_part, c_part, _ = schedule.scratch_parts()
        if scratch is not None:
            self.scratch_a = scratch
            self.scratch_c = fb.gep(self.element, scratch, fb.i64(a_part))
            self.scratch_b = fb.gep(self.element, scratch, fb.i64(a_part + c_part))
        # A loop over a tile's rows needs the tile in memory.
        self.spill = fb.alloca(self.type, schedule.mr * schedule.nv)

    def emit(self, block: Block) -> None:
        """All tiles of the block; B is packed already."""
        fb, s = self.fb, self.s
        if s.copy_a:
            self._copy_a(block)
        for columns in self._column_segments():
            low, high = fb.smax(block.panel0, columns.first), fb.smin(block.panel1, columns.stop)
            with fb.loop(low, high, hint="panel") as panel:
                for rows in self.segments:
                    with self._tile_loop(block, rows) as tile:
                        self._panel(block, columns, rows, panel.index, tile)

    @contextmanager
    def _tile_loop(self, block: Block, rows: RowSegment) -> Iterator[V]:
        """The segment's tiles that lie in the block."""
        fb = self.fb
        low, high = fb.smax(block.tile0, rows.first), fb.smin(block.tile1, fb.add(rows.first, rows.count))
        with fb.loop(low, high, hint="tile") as loop:
            yield loop.index

    def _column_segments(self) -> list[ColumnSegment]:
        fb, s, extent = self.fb, self.s, known(self.n)
        zero = fb.i64(0)
        if extent is None:
            if self.padded:
                return [ColumnSegment(s.nv, zero, self.panels, "any")]
            full = fb.sdiv(self.n, fb.i64(s.nr))
            return [ColumnSegment(s.nv, zero, full, None), ColumnSegment(1, full, self.panels, "vectors")]
        whole, rest = divmod(extent, s.nr)
        segments = [ColumnSegment(s.nv, zero, fb.i64(whole), None)] if whole else []
        if rest:
            mask = fb.lane_mask(fb.i64(rest % s.lanes), s.lanes) if rest % s.lanes else None
            segments.append(ColumnSegment(-(-rest // s.lanes), fb.i64(whole), fb.i64(whole + 1), mask))
        return segments

    def _panel(self, block: Block, columns: ColumnSegment, rows: RowSegment, panel: V, tile: V) -> None:
        """The meeting of one row tile and one panel; a panel that must be masked goes a vector at a time."""
        fb, s = self.fb, self.s
        column = fb.mul(panel, fb.i64(s.nr))
        b_at, b_row = self._b_panel(block, panel)
        if columns.tail != "vectors":
            self._tile(block, rows, columns.vectors, columns.tail, panel, tile, column, b_at, b_row)
            return
        with fb.loop(column, self.n, s.lanes, hint="vector") as vector:
            at = fb.gep(self.element, b_at, fb.sub(vector.index, column))
            mask = fb.lane_mask(fb.sub(self.n, vector.index), s.lanes)
            self._tile(block, rows, 1, mask, panel, tile, vector.index, at, b_row)

    def _tile(
        self,
        block: Block,
        rows: RowSegment,
        nv: int,
        tail: V | str | None,
        panel: V,
        tile: V,
        column: V,
        b_at: V,
        b_row: V,
    ) -> None:
        """One register tile: add up, add the sums so far, hand over or put aside."""
        fb = self.fb
        row = fb.add(rows.row, fb.mul(fb.sub(tile, rows.first), fb.i64(rows.height)))
        a_rows, a_step = self._a_rows(block, row, rows)
        partial = self._partial(block, panel, tile, column) if block.first is not None else None
        acc = zero_tile(fb, self.element, rows.height, nv, self.s.lanes)
        if self.s.prefetch:
            self._prefetch(fb.gep(self.element, b_at, fb.mul(self.k, fb.i64(self.s.nr))), fb.sub(tile, block.tile0))
        if self.touch is not None:
            self._touch(self.touch, block, row, column, rows)
        mask = tail if isinstance(tail, V) and not self.padded else None
        acc = accumulate(fb, acc, a_rows, a_step, b_at, b_row, block.count, lanes=self.s.lanes, last_mask=mask)
        if partial is None or block.last is None:
            self._finish(block, acc, row, column, rows, tail)
            return
        assert block.first is not None
        acc = self._resumed(acc, partial, block.first)
        branch = fb.if_else(block.last)
        with branch.then():
            self._finish(block, acc, row, column, rows, tail)
        with branch.otherwise():
            self._store_tile(acc, partial)
        branch.results()

    def _touch(self, touch: Touch, block: Block, row: V, column: V, segment: RowSegment) -> None:
        """Ask for what the epilogue needs while the tile adds up: its rows lie apart, no hardware sees them coming."""
        fb = self.fb
        with fb.if_(block.last) if block.last is not None else nullcontext():
            for i in range(segment.height):
                touch(fb, block.index, fb.add(row, fb.i64(i)), column)

    def _prefetch(self, panel: V, tile: V) -> None:
        """Each tile asks for a share of the panel that comes after this one (worth 2 to 8 % with B in the L3 cache)."""
        fb, s = self.fb, self.s
        per_line = _LINE // bytes_of(self.element)
        lines = -(-(s.kc * s.nr) // (per_line * s.mc))
        at = fb.gep(self.element, panel, fb.mul(tile, fb.i64(lines * per_line)))
        for line in range(lines):
            fb.prefetch(fb.gep(self.element, at, fb.i64(line * per_line)))

    # -- operands -----------------------------------------------------------------------------
    def first_row(self, tile: V) -> V:
        """The row at which a tile starts."""
        fb = self.fb
        row = fb.i64(0)
        for segment in self.segments:
            inside = fb.smin(fb.smax(fb.sub(tile, segment.first), fb.i64(0)), segment.count)
            row = fb.add(row, fb.mul(inside, fb.i64(segment.height)))
        return row

    def pack_b(self, b_base: V, panel0: V, panel1: V, start: V, count: V) -> None:
        """Pack `count` rows of B from `start`, panels `panel0` ... `panel1` - 1, into scratch."""
        assert isinstance(self.b, Matrix)
        fb, s, b = self.fb, self.s, self.b
        nr = fb.i64(s.nr)
        column = fb.mul(panel0, nr)
        columns = fb.sub(fb.smin(self.n, fb.mul(panel1, nr)), column)
        source = fb.gep(self.element, b_base, fb.add(fb.mul(start, b.row), fb.mul(column, b.col)))
        stride = fb.i64(s.nr * s.depth)
        emit_pack_b(fb, self.element, s.lanes, s.nv, self.scratch_b, source, b.row, b.col, count, columns, stride)

    def _b_panel(self, block: Block, panel: V) -> tuple[V, V]:
        """Address of the pass's first row of a panel, and elements between rows."""
        fb, s = self.fb, self.s
        nr = fb.i64(s.nr)
        if s.pack_b:
            offset = fb.mul(fb.sub(panel, block.panel0), fb.i64(s.nr * s.depth))
            if s.pack_once:
                offset = fb.add(offset, fb.mul(block.start, nr))
            return fb.gep(self.element, self.scratch_b, offset), nr
        if isinstance(self.b, PackedMatrix):
            offset = fb.mul(fb.add(fb.mul(panel, self.k), block.start), nr)
            return fb.gep(self.element, block.b, offset), nr
        offset = fb.add(fb.mul(panel, nr), fb.mul(block.start, self.b.row))
        return fb.gep(self.element, block.b, offset), self.b.row

    def _copy_a(self, block: Block) -> None:
        """Copy the block's part of A, row by row, to scratch."""
        fb, s, a = self.fb, self.s, self.a
        rows = fb.sub(fb.smin(self.first_row(block.tile1), self.m), block.row0)
        source = fb.gep(self.element, block.a, fb.add(fb.mul(block.row0, a.row), fb.mul(block.start, a.col)))
        row = fb.i64(s.a_row)
        if a.layout == "rows":
            emit_copy_rows(fb, self.element, s.lanes, self.scratch_a, row, source, a.row, rows, block.count)
        else:
            emit_transpose(fb, self.element, s.lanes, self.scratch_a, row, source, a.col, rows, block.count)

    def _a_rows(self, block: Block, row: V, segment: RowSegment) -> tuple[list[V], V]:
        """Pointers to the rows of A that a tile needs, at the pass's start, and the elements between two k."""
        fb, s, a = self.fb, self.s, self.a
        last = fb.sub(self.m, fb.i64(1))
        rows = [fb.add(row, fb.i64(i)) for i in range(segment.height)]
        if segment.clamped:
            rows = [fb.smin(r, last) for r in rows]
        if s.copy_a:
            base, stride, step = self.scratch_a, fb.i64(s.a_row), fb.i64(1)
            return [fb.gep(self.element, base, fb.mul(fb.sub(r, block.row0), stride)) for r in rows], step
        base = fb.gep(self.element, block.a, fb.mul(block.start, a.col))
        return [fb.gep(self.element, base, fb.mul(r, a.row)) for r in rows], a.col

    # -- sums ---------------------------------------------------------------------------------
    def _partial(self, block: Block, panel: V, tile: V, column: V) -> V:
        """Where a tile's sums wait between passes."""
        fb, s = self.fb, self.s
        index = fb.add(fb.mul(fb.sub(panel, block.panel0), fb.i64(s.mc)), fb.sub(tile, block.tile0))
        offset = fb.add(fb.mul(index, fb.i64(s.mr * s.nr)), fb.sub(column, fb.mul(panel, fb.i64(s.nr))))
        return fb.gep(self.element, self.scratch_c, offset)

    def _resumed(self, acc: Tile, partial: V, first: V) -> Tile:
        """The sums of this pass and those before. One sum over all of k would be several times less exact."""
        fb, nv = self.fb, len(acc[0])
        add = "add" if self.element == "i32" else "fadd"
        branch = fb.if_else(first)
        with branch.then():
            branch.give(*(v for row in acc for v in row))
        with branch.otherwise():
            places = [(i, j, v) for i, row in enumerate(acc) for j, v in enumerate(row)]
            branch.give(*(fb.binary(add, self._tile_vector(partial, i, j), v) for i, j, v in places))
        values = branch.results()
        return [values[i * nv : (i + 1) * nv] for i in range(len(acc))]

    def _tile_vector(self, at: V, i: int, j: int) -> V:
        offset = self.fb.i64((i * self.s.nv + j) * self.s.lanes)
        return self.fb.load(self.type, self.fb.gep(self.element, at, offset))

    def _store_tile(self, acc: Tile, at: V) -> None:
        fb, s = self.fb, self.s
        for i, row in enumerate(acc):
            for j, value in enumerate(row):
                fb.store(value, fb.gep(self.element, at, fb.i64((i * s.nv + j) * s.lanes)))

    def _finish(self, block: Block, acc: Tile, row: V, column: V, segment: RowSegment, tail: V | str | None) -> None:
        """Hand the tile's vectors to the epilogue, rows and columns that exist only."""
        fb, s, nv = self.fb, self.s, len(acc[0])
        if not isinstance(tail, str):
            self._finish_rows(block, acc, row, column, segment, [*(None for _ in range(nv - 1)), tail])
            return
        left = fb.sub(self.n, column)
        branch = fb.if_else(fb.icmp("sge", left, fb.i64(nv * s.lanes)))
        with branch.then():
            self._finish_rows(block, acc, row, column, segment, [None for _ in range(nv)])
        with branch.otherwise():
            widths = [fb.smax(fb.sub(left, fb.i64(j * s.lanes)), fb.i64(0)) for j in range(nv)]
            self._finish_rows(block, acc, row, column, segment, [fb.lane_mask(width, s.lanes) for width in widths])
        branch.results()

    def _finish_rows(
        self, block: Block, acc: Tile, row: V, column: V, segment: RowSegment, masks: list[V | None]
    ) -> None:
        fb, s = self.fb, self.s
        columns = [fb.add(column, fb.i64(j * s.lanes)) for j in range(len(acc[0]))]
        if s.inline_epilogue and not segment.clamped:
            for i, values in enumerate(acc):
                at = fb.add(row, fb.i64(i))
                for value, col, mask in zip(values, columns, masks, strict=True):
                    self.epilogue(fb, block.index, at, col, s.lanes, mask, value)
            return
        self._store_tile(acc, self.spill)
        height = fb.i64(segment.height)
        rows = fb.smin(height, fb.sub(self.m, row)) if segment.clamped else height
        with fb.loop(fb.i64(0), rows, hint="epilogue") as loop:
            at = fb.gep(self.element, self.spill, fb.mul(loop.index, fb.i64(s.nr)))
            for j, (col, mask) in enumerate(zip(columns, masks, strict=True)):
                value = fb.load(self.type, fb.gep(self.element, at, fb.i64(j * s.lanes)))
                self.epilogue(fb, block.index, fb.add(row, loop.index), col, s.lanes, mask, value)
