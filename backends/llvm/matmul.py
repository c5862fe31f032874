"""Matrix products: C[i, j] = sum over k of A[i, k] * B[k, j], batched, with a fused epilogue.

    emit_matmul      the code of one product inside a function, this task's share of it
    matmul_scratch_bytes   the scratch that one task needs

Blocks follow Goto: a panel of B stays in the first-level cache, a block of A in the second, and the
register tile (`tile.accumulate`) does the work. See `gemm_schedule` for the choices.
"""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, known, vector_of
from ds_compiler.backends.llvm.gemm_schedule import (
    RowSegment,
    Schedule,
    choose_schedule,
    packed_width,
    row_segments,
    task_grid,
)
from ds_compiler.backends.llvm.matvec import emit_few_rows
from ds_compiler.backends.llvm.operands import Epilogue, Matrix, PackedMatrix, each_unit, share
from ds_compiler.backends.llvm.packing import emit_copy_rows, emit_pack_b, emit_transpose
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import Tile, accumulate, zero_tile

__all__ = ["Epilogue", "Matrix", "PackedMatrix", "emit_matmul", "matmul_scratch_bytes", "packed_width"]


def matmul_scratch_bytes(
    target: Target,
    *,
    m: int | None = None,
    n: int | None = None,
    k: int | None = None,
    b_layout: str = "packed",
    a_layout: str = "rows",
    element: str = "float",
) -> int:
    """Bytes of private scratch, 64-byte aligned, that each task of `emit_matmul` needs.

    None is a run-time extent; the result is a bound whatever its value. `a_layout` and `b_layout` are the
    operands' `layout`.
    """
    schedule = choose_schedule(target, element, m, n, k, b_layout=b_layout, a_layout=a_layout)
    return schedule.scratch_bytes


def emit_matmul(
    fb: FunctionBuilder,
    target: Target,
    *,
    batch: V,
    m: V,
    n: V,
    k: V,
    a: Matrix,
    b: Matrix | PackedMatrix,
    task: V,
    tasks: V,
    scratch: V | None,
    epilogue: Epilogue,
    element: str = "float",
) -> None:
    """Emit this task's share of ``C = A · B`` for each batch entry.

    Args:
        batch, m, n, k: extents, i64, each constant or run-time, each may be 0 (k = 0 gives zero sums).
        a: m x k. b: k x n, or its panels, whose `nr` must be `packed_width` for this target, n and element.
        task, tasks: this task's number and their count, i64. Every element is computed by one task, and its
            value doesn't depend on `tasks`.
        scratch: this task's private memory of `matmul_scratch_bytes`, 64-byte aligned; None forbids copies
            and packing (B is then read in place).
        epilogue: receives the finished sums; see `operands.Epilogue`.
        element: ``float`` or ``double``, of A, B and the sums.

    Raises:
        ValueError: the packed panels are not `packed_width` columns wide, or B must be packed and scratch is None.
    """
    if isinstance(b, PackedMatrix) and b.nr != packed_width(target, known(n), element):
        expected = packed_width(target, known(n), element)
        raise ValueError(f"emit_matmul: B is packed {b.nr} wide; this target and n need {expected}")
    schedule = choose_schedule(
        target,
        element,
        known(m),
        known(n),
        known(k),
        b_layout=b.layout,
        a_layout=a.layout,
        scratch=scratch is not None,
    )
    if known(m) is not None and known(m) <= schedule.small_m:  # type: ignore[operator]
        emit_few_rows(fb, schedule, batch, m, n, k, a, b, task, tasks, epilogue)
        return
    product = _Product(fb, schedule, m, n, k, a, b, scratch, epilogue)
    if schedule.small_m:
        branch = fb.if_else(fb.icmp("sle", m, fb.i64(schedule.small_m)))
        with branch.then():
            emit_few_rows(fb, schedule, batch, m, n, k, a, b, task, tasks, epilogue)
        with branch.otherwise():
            product.emit(batch, task, tasks)
        branch.results()
    else:
        product.emit(batch, task, tasks)


class _Product:
    """Emits the blocked product; one object an `emit_matmul`."""

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
    ) -> None:
        self.fb, self.s, self.m, self.n, self.k = fb, schedule, m, n, k
        self.a, self.b, self.epilogue = a, b, epilogue
        self.element = schedule.element
        self.type = vector_of(self.element, schedule.lanes)
        self.segments, self.tiles = row_segments(fb, m, schedule.mr)
        nr = fb.i64(schedule.nr)
        self.panels = self._ceil(n, nr)
        a_part, c_part, _ = schedule.scratch_parts()
        if scratch is not None:
            self.scratch_a = scratch
            self.scratch_c = fb.gep(self.element, scratch, fb.i64(a_part))
            self.scratch_b = fb.gep(self.element, scratch, fb.i64(a_part + c_part))
        # A loop over rows needs the tile in memory.
        self.spill = fb.alloca(self.type, schedule.mr * schedule.nv)

    def emit(self, batch: V, task: V, tasks: V) -> None:
        fb, s = self.fb, self.s
        grid = task_grid(fb, batch, self.tiles, self.panels, s.mr, s.nr, tasks)

        def unit(index: V, row_part: V, column_part: V) -> None:
            self.batch_index = index
            self.a_base, self.b_base = self.a.at(fb, self.element, index), self.b.at(fb, self.element, index)
            tile_range = share(fb, self.tiles, row_part, grid[0])
            panel_range = share(fb, self.panels, column_part, grid[1])
            self._blocks(tile_range, panel_range)

        each_unit(fb, batch, grid, task, tasks, unit)

    # -- blocks -------------------------------------------------------------------------------
    def _blocks(self, tiles: tuple[V, V], panels: tuple[V, V]) -> None:
        """Column blocks, then row blocks, then passes over k, of one rectangle of tiles."""
        fb, s = self.fb, self.s
        panel_step, tile_step = self._even(panels, s.nc), self._even(tiles, s.mc)
        with fb.loop(panels[0], panels[1], panel_step, hint="jc") as jc:
            self.panel0, self.panel1 = jc.index, fb.smin(fb.add(jc.index, panel_step), panels[1])
            if s.pack_b and not s.partial:
                self._pack_b(fb.i64(0), self.k)
            with fb.loop(tiles[0], tiles[1], tile_step, hint="ic") as ic:
                self.tile0, self.tile1 = ic.index, fb.smin(fb.add(ic.index, tile_step), tiles[1])
                self.row0 = self._first_row(self.tile0)
                if s.partial:
                    self._passes()
                else:
                    self._pass(fb.i64(0), self.k, None, None)

    def _even(self, span: tuple[V, V], limit: int) -> V:
        """Step that cuts `span` into equal blocks of at most `limit`."""
        fb = self.fb
        one = fb.i64(1)
        count = fb.sub(span[1], span[0])
        blocks = fb.smax(self._ceil(count, fb.i64(limit)), one)
        return fb.smax(self._ceil(count, blocks), one)

    def _ceil(self, a: V, b: V) -> V:
        """a / b, rounded up."""
        return self.fb.sdiv(self.fb.add(a, self.fb.sub(b, self.fb.i64(1))), b)

    def _passes(self) -> None:
        """Passes over k of at most kc each; the sums wait in scratch in between."""
        fb, s, extent = self.fb, self.s, known(self.k)
        one = fb.i64(1)
        if extent is not None:
            length, passes = fb.i64(s.kc), fb.i64(-(-extent // s.kc))
        else:
            passes = fb.smax(self._ceil(self.k, fb.i64(s.kc)), one)
            # Equal lengths, a multiple of the unrolling; kc is one too.
            length = fb.mul(self._ceil(self._ceil(self.k, passes), fb.i64(8)), fb.i64(8))
        with fb.loop(fb.i64(0), passes, hint="kc") as kc:
            start = fb.mul(kc.index, length)
            even = extent is not None and extent % s.kc == 0
            count = length if even else fb.smin(length, fb.smax(fb.sub(self.k, start), fb.i64(0)))
            if s.pack_b:
                self._pack_b(start, count)
            is_first = fb.icmp("eq", kc.index, fb.i64(0))
            self._pass(start, count, is_first, fb.icmp("eq", kc.index, fb.sub(passes, one)))

    def _pass(self, start: V, count: V, first: V | None, last: V | None) -> None:
        """All tiles of the block, over `count` steps from `start`; first and last are None when it is the only one."""
        fb, s = self.fb, self.s
        if s.copy_a:
            self._copy_a(start, count)
        nr = fb.i64(s.nr)
        for nv, panel_first, panel_stop, tail in self._column_segments():
            low, high = fb.smax(self.panel0, panel_first), fb.smin(self.panel1, panel_stop)
            with fb.loop(low, high, hint="panel") as panel:
                column = fb.mul(panel.index, nr)
                b_at, b_row = self._b_panel(panel.index, start)
                if tail == "vectors":
                    with fb.loop(column, self.n, s.lanes, hint="vector") as vector:
                        at = fb.gep(self.element, b_at, fb.sub(vector.index, column))
                        mask = fb.lane_mask(fb.sub(self.n, vector.index), s.lanes)
                        self._tiles(1, panel.index, vector.index, at, b_row, start, count, mask, first, last)
                else:
                    self._tiles(nv, panel.index, column, b_at, b_row, start, count, tail, first, last)

    def _column_segments(self) -> list[tuple[int, V, V, V | str | None]]:
        """(vectors, first panel, past-the-end panel, tail) of equal panels.

        The tail is None (all columns exist), the mask of the last vector, ``"any"`` (look at run time, B may be
        read to the panel's end) or ``"vectors"`` (look at run time, a vector at a time, B must be masked).
        """
        fb, s, extent = self.fb, self.s, known(self.n)
        zero = fb.i64(0)
        if extent is None:
            if s.pack_b or isinstance(self.b, PackedMatrix):
                return [(s.nv, zero, self.panels, "any")]
            full = fb.sdiv(self.n, fb.i64(s.nr))
            return [(s.nv, zero, full, None), (1, full, self.panels, "vectors")]
        whole, rest = divmod(extent, s.nr)
        segments: list[tuple[int, V, V, V | str | None]] = []
        if whole:
            segments.append((s.nv, zero, fb.i64(whole), None))
        if rest:
            mask = fb.lane_mask(fb.i64(rest % s.lanes), s.lanes) if rest % s.lanes else None
            segments.append((-(-rest // s.lanes), fb.i64(whole), fb.i64(whole + 1), mask))
        return segments

    def _tiles(
        self,
        nv: int,
        panel: V,
        column: V,
        b_at: V,
        b_row: V,
        start: V,
        count: V,
        tail: V | str | None,
        first: V | None,
        last: V | None,
    ) -> None:
        """The tiles of the row block that meet one panel."""
        fb = self.fb
        for segment in self.segments:
            low = fb.smax(self.tile0, segment.first)
            high = fb.smin(self.tile1, fb.add(segment.first, segment.count))
            with fb.loop(low, high, hint="tile") as tile:
                row = fb.add(segment.row, fb.mul(fb.sub(tile.index, segment.first), fb.i64(segment.height)))
                a_rows, a_step = self._a_rows(row, segment, start)
                partial = self._partial(panel, tile.index, column) if first is not None else None
                acc = self._initial(segment.height, nv, partial, first)
                masked = tail if isinstance(tail, V) and not self._padded else None
                acc = accumulate(fb, acc, a_rows, a_step, b_at, b_row, count, lanes=self.s.lanes, last_mask=masked)
                if partial is None or last is None:
                    self._finish(acc, row, column, segment, tail)
                    continue
                branch = fb.if_else(last)
                with branch.then():
                    self._finish(acc, row, column, segment, tail)
                with branch.otherwise():
                    self._store_tile(acc, partial)
                branch.results()

    # -- operands -----------------------------------------------------------------------------
    @property
    def _padded(self) -> bool:
        """Whether B's panels may be read to their last column."""
        return self.s.pack_b or isinstance(self.b, PackedMatrix)

    def _first_row(self, tile: V) -> V:
        """The row at which a tile starts."""
        fb = self.fb
        row = fb.i64(0)
        for segment in self.segments:
            inside = fb.smin(fb.smax(fb.sub(tile, segment.first), fb.i64(0)), segment.count)
            row = fb.add(row, fb.mul(inside, fb.i64(segment.height)))
        return row

    def _b_panel(self, panel: V, start: V) -> tuple[V, V]:
        """Address of row `start` of a panel, and elements between rows."""
        fb, s = self.fb, self.s
        nr = fb.i64(s.nr)
        if s.pack_b:
            stride = fb.i64(s.nr * s.k_capacity)
            return fb.gep(self.element, self.scratch_b, fb.mul(fb.sub(panel, self.panel0), stride)), nr
        if isinstance(self.b, PackedMatrix):
            offset = fb.mul(fb.add(fb.mul(panel, self.k), start), nr)
            return fb.gep(self.element, self.b_base, offset), nr
        offset = fb.add(fb.mul(panel, nr), fb.mul(start, self.b.row))
        return fb.gep(self.element, self.b_base, offset), self.b.row

    def _pack_b(self, start: V, count: V) -> None:
        """Pack rows `start` ... of the current column block."""
        assert isinstance(self.b, Matrix)
        fb, s, b = self.fb, self.s, self.b
        nr = fb.i64(s.nr)
        column = fb.mul(self.panel0, nr)
        columns = fb.sub(fb.smin(self.n, fb.mul(self.panel1, nr)), column)
        source = fb.gep(self.element, self.b_base, fb.add(fb.mul(start, b.row), fb.mul(column, b.col)))
        stride = fb.i64(s.nr * s.k_capacity)
        emit_pack_b(fb, self.element, s.lanes, s.nv, self.scratch_b, source, b.row, b.col, count, columns, stride)

    def _copy_a(self, start: V, count: V) -> None:
        """Copy the row block's rows, elements `start` ..., to scratch."""
        fb, s, a = self.fb, self.s, self.a
        rows = fb.sub(fb.smin(self._first_row(self.tile1), self.m), self.row0)
        source = fb.gep(self.element, self.a_base, fb.add(fb.mul(self.row0, a.row), fb.mul(start, a.col)))
        row = fb.i64(s.a_row)
        if a.layout == "rows":
            emit_copy_rows(fb, self.element, s.lanes, self.scratch_a, row, source, a.row, rows, count)
        else:
            emit_transpose(fb, self.element, s.lanes, self.scratch_a, row, source, a.col, rows, count)

    def _a_rows(self, row: V, segment: RowSegment, start: V) -> tuple[list[V], V]:
        """Pointers to A's rows of a tile at k = `start`, and the elements between two k."""
        fb, s, a = self.fb, self.s, self.a
        last = fb.sub(self.m, fb.i64(1))
        rows = [fb.add(row, fb.i64(i)) for i in range(segment.height)]
        if segment.clamped:
            rows = [fb.smin(r, last) for r in rows]
        if s.copy_a:
            stride = fb.i64(s.a_row)
            return [fb.gep(self.element, self.scratch_a, fb.mul(fb.sub(r, self.row0), stride)) for r in rows], fb.i64(1)
        base = fb.gep(self.element, self.a_base, fb.mul(start, a.col))
        return [fb.gep(self.element, base, fb.mul(r, a.row)) for r in rows], a.col

    # -- sums ---------------------------------------------------------------------------------
    def _partial(self, panel: V, tile: V, column: V) -> V:
        """Where a tile's sums wait between passes."""
        fb, s = self.fb, self.s
        index = fb.add(fb.mul(fb.sub(panel, self.panel0), fb.i64(s.mc)), fb.sub(tile, self.tile0))
        offset = fb.add(fb.mul(index, fb.i64(s.mr * s.nr)), fb.sub(column, fb.mul(panel, fb.i64(s.nr))))
        return fb.gep(self.element, self.scratch_c, offset)

    def _initial(self, height: int, nv: int, partial: V | None, first: V | None) -> Tile:
        """Zero, or the sums of the passes so far."""
        fb, s = self.fb, self.s
        zero = zero_tile(fb, self.element, height, nv, s.lanes)
        if partial is None or first is None:
            return zero
        branch = fb.if_else(first)
        with branch.then():
            branch.give(*(v for row in zero for v in row))
        with branch.otherwise():
            branch.give(*(self._tile_vector(partial, i, j) for i in range(height) for j in range(nv)))
        values = branch.results()
        return [values[i * nv : (i + 1) * nv] for i in range(height)]

    def _tile_vector(self, at: V, i: int, j: int) -> V:
        offset = self.fb.i64((i * self.s.nv + j) * self.s.lanes)
        return self.fb.load(self.type, self.fb.gep(self.element, at, offset))

    def _store_tile(self, acc: Tile, at: V) -> None:
        fb, s = self.fb, self.s
        for i, row in enumerate(acc):
            for j, value in enumerate(row):
                fb.store(value, fb.gep(self.element, at, fb.i64((i * s.nv + j) * s.lanes)))

    def _finish(self, acc: Tile, row: V, column: V, segment: RowSegment, tail: V | str | None) -> None:
        """Hand the tile's vectors to the epilogue, rows and columns that exist only."""
        fb, s, nv = self.fb, self.s, len(acc[0])
        if not isinstance(tail, str):
            self._finish_rows(acc, row, column, segment, [*(None for _ in range(nv - 1)), tail])
            return
        left = fb.sub(self.n, column)
        branch = fb.if_else(fb.icmp("sge", left, fb.i64(nv * s.lanes)))
        with branch.then():
            self._finish_rows(acc, row, column, segment, [None for _ in range(nv)])
        with branch.otherwise():
            widths = [fb.smax(fb.sub(left, fb.i64(j * s.lanes)), fb.i64(0)) for j in range(nv)]
            self._finish_rows(acc, row, column, segment, [fb.lane_mask(width, s.lanes) for width in widths])
        branch.results()

    def _finish_rows(self, acc: Tile, row: V, column: V, segment: RowSegment, masks: list[V | None]) -> None:
        fb, s = self.fb, self.s
        columns = [fb.add(column, fb.i64(j * s.lanes)) for j in range(len(acc[0]))]
        if s.inline_epilogue and not segment.clamped:
            for i, values in enumerate(acc):
                at = fb.add(row, fb.i64(i))
                for value, col, mask in zip(values, columns, masks, strict=True):
                    self.epilogue(fb, self.batch_index, at, col, s.lanes, mask, value)
            return
        self._store_tile(acc, self.spill)
        height = fb.i64(segment.height)
        rows = fb.smin(height, fb.sub(self.m, row)) if segment.clamped else height
        with fb.loop(fb.i64(0), rows, hint="epilogue") as loop:
            at = fb.gep(self.element, self.spill, fb.mul(loop.index, fb.i64(s.nr)))
            for j, (col, mask) in enumerate(zip(columns, masks, strict=True)):
                value = fb.load(self.type, fb.gep(self.element, at, fb.i64(j * s.lanes)))
                self.epilogue(fb, self.batch_index, fb.add(row, loop.index), col, s.lanes, mask, value)
