"""Products with few rows: matrix-vector and its neighbours, where B is read once and memory sets the pace.

B in panels or rows: a few rows of A against several panels at once, so that enough independent sums
hide the latency of the multiply-add. B in columns (a weight matrix used as W·x): dot products along k,
a register's worth of columns at once, turned into one vector of sums by a transposition.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, known, vector_of
from ds_compiler.backends.llvm.gemm_schedule import Schedule
from ds_compiler.backends.llvm.operands import Epilogue, Matrix, PackedMatrix, each_unit, share
from ds_compiler.backends.llvm.packing import transpose_registers
from ds_compiler.backends.llvm.tile import accumulate_in_blocks

_VECTORS = 8  # independent sums wanted: latency 4 times 2 units


def emit_few_rows(
    fb: FunctionBuilder,
    schedule: Schedule,
    batch: V,
    m: V,
    n: V,
    k: V,
    a: Matrix,
    b: Matrix | PackedMatrix,
    task: V,
    tasks: V,
    epilogue: Epilogue,
) -> None:
    """Emit this task's share of a product with few rows; arguments as `matmul.emit_matmul`, no scratch."""
    _FewRows(fb, schedule, m, n, k, a, b, epilogue).emit(batch, task, tasks)


class _FewRows:
    def __init__(
        self,
        fb: FunctionBuilder,
        schedule: Schedule,
        m: V,
        n: V,
        k: V,
        a: Matrix,
        b: Matrix | PackedMatrix,
        epilogue: Epilogue,
    ) -> None:
        self.fb, self.s, self.m, self.n, self.k = fb, schedule, m, n, k
        self.a, self.b, self.epilogue, self.element = a, b, epilogue, schedule.element
        self.type = vector_of(self.element, schedule.lanes)
        # Rows share what is read of B when their number is known; else they take turns, B in the cache.
        self.height = known(m) or 1

    def emit(self, batch: V, task: V, tasks: V) -> None:
        fb = self.fb
        if known(self.m) == 0:
            return
        columns = isinstance(self.b, Matrix) and self.b.layout == "columns"
        width = self.s.lanes if columns else self.s.nr
        units = fb.sdiv(fb.add(self.n, fb.i64(width - 1)), fb.i64(width))
        # Entries are short: columns are cut unless whole entries spread evenly.
        one = fb.i64(1)
        if known(tasks) == 1:
            parts = one
        else:
            parts = fb.select(fb.icmp("eq", fb.srem(batch, tasks), fb.i64(0)), one, tasks)

        def unit(index: V, row_part: V, column_part: V) -> None:
            self.batch_index = index
            self.a_base, self.b_base = self.a.at(fb, self.element, index), self.b.at(fb, self.element, index)
            first, last = share(fb, units, column_part, parts)
            if columns:
                self._dots(first, last)
            else:
                self._panels(first, last)

        each_unit(fb, batch, (one, parts), task, tasks, unit)

    # -- B in panels or rows --------------------------------------------------------------------
    def _panels(self, first: V, last: V) -> None:
        """Whole panels several at a time, then one at a time, then the panel that n cuts."""
        fb, s = self.fb, self.s
        whole = fb.smin(last, fb.sdiv(self.n, fb.i64(s.nr)))
        whole = fb.smax(whole, first)
        group = max(1, _VECTORS // (self.height * s.nv))
        grouped = first
        if group > 1:
            count = fb.sub(whole, first)
            grouped = fb.add(first, fb.sub(count, fb.srem(count, fb.i64(group))))
            with fb.loop(first, grouped, group, hint="panels") as panel:
                self._rows(panel.index, group, s.nv, None)
        with fb.loop(grouped, whole, hint="panel") as panel:
            self._rows(panel.index, 1, s.nv, None)
        with fb.loop(whole, last, hint="cut") as panel:
            column = fb.mul(panel.index, fb.i64(s.nr))
            with fb.loop(column, self.n, s.lanes, hint="vector") as vector:
                mask = fb.lane_mask(fb.sub(self.n, vector.index), s.lanes)
                self._rows(panel.index, 1, 1, mask, fb.sub(vector.index, column))

    def _rows(self, panel: V, group: int, nv: int, mask: V | None, offset: V | None = None) -> None:
        """All rows against `group` panels of nv vectors; `offset` skips columns of the panel."""
        fb, s = self.fb, self.s
        skip = offset or fb.i64(0)
        column = fb.add(fb.mul(panel, fb.i64(s.nr)), skip)
        pointers = []
        for g in range(group):
            at = fb.add(panel, fb.i64(g))
            if isinstance(self.b, PackedMatrix):
                start, step = fb.mul(at, fb.mul(self.k, fb.i64(s.nr))), fb.i64(s.nr)
            else:
                start, step = fb.mul(fb.mul(at, fb.i64(s.nr)), self.b.col), self.b.row
            pointers.append(fb.gep(self.element, self.b_base, fb.add(start, skip)))
        with fb.loop(fb.i64(0), self.m, self.height, hint="rows") as row:
            rows = [fb.add(row.index, fb.i64(i)) for i in range(self.height)]
            a_rows = [fb.gep(self.element, self.a_base, fb.mul(r, self.a.row)) for r in rows]
            acc = accumulate_in_blocks(
                fb, a_rows, self.a.col, pointers, step, self.k, group * nv,
                element=self.element, lanes=s.lanes, last_mask=mask,
            )  # fmt: skip
            for r, values in zip(rows, acc, strict=True):
                for j, value in enumerate(values):
                    self.epilogue(fb, self.batch_index, r, fb.add(column, fb.i64(j * s.lanes)), s.lanes, mask, value)

    # -- B in columns ---------------------------------------------------------------------------
    def _dots(self, first: V, last: V) -> None:
        """A register of columns at a time: as many dot products along k, for each row of A."""
        fb, s = self.fb, self.s
        assert isinstance(self.b, Matrix)
        final = fb.sub(self.n, fb.i64(1))
        rest = fb.srem(self.k, fb.i64(s.lanes))
        main = fb.sub(self.k, rest)
        with fb.loop(first, last, hint="columns") as group:
            column = fb.mul(group.index, fb.i64(s.lanes))
            # Columns past the end repeat the last; the mask drops their sums.
            columns = [fb.smin(fb.add(column, fb.i64(j)), final) for j in range(s.lanes)]
            b_columns = [fb.gep(self.element, self.b_base, fb.mul(c, self.b.col)) for c in columns]
            with fb.loop(fb.i64(0), self.m, hint="rows") as row:
                a_row = fb.gep(self.element, self.a_base, fb.mul(row.index, self.a.row))
                zero = fb.const(self.type, 0.0)
                with fb.loop(fb.i64(0), main, s.lanes, carried=[zero] * s.lanes, hint="k") as loop:
                    x = self._a_vector(a_row, loop.index, None)
                    loop.carry(*self._dot_step(loop.carried, x, b_columns, loop.index, None))
                sums = loop.results
                if rest.ref != "0":
                    mask = fb.lane_mask(rest, s.lanes)
                    sums = self._dot_step(sums, self._a_vector(a_row, main, mask), b_columns, main, mask)
                value = self._sum_lanes(sums)
                full = fb.icmp("sle", fb.add(column, fb.i64(s.lanes)), self.n)
                branch = fb.if_else(full)
                with branch.then():
                    self.epilogue(fb, self.batch_index, row.index, column, s.lanes, None, value)
                with branch.otherwise():
                    left = fb.lane_mask(fb.sub(self.n, column), s.lanes)
                    self.epilogue(fb, self.batch_index, row.index, column, s.lanes, left, value)
                branch.results()

    def _a_vector(self, a_row: V, index: V, mask: V | None) -> V:
        """Elements index ... of a row of A; gathered when they are not adjacent."""
        fb, lanes = self.fb, self.s.lanes
        if self.a.col.ref == "1":
            at = fb.gep(self.element, a_row, index)
            return fb.load(self.type, at) if mask is None else fb.masked_load(self.type, at, mask)
        last = fb.sub(self.k, fb.i64(1))
        vector = fb.const(self.type, 0.0)
        for lane in range(lanes):
            # Lanes past the end read the last element; B's zeros there would not cancel an infinity, so select.
            at = fb.smin(fb.add(index, fb.i64(lane)), last)
            scalar = fb.load(self.element, fb.gep(self.element, a_row, fb.mul(at, self.a.col)))
            vector = fb.insert(vector, scalar, lane)
        return vector if mask is None else fb.select(mask, vector, fb.const(self.type, 0.0))

    def _dot_step(self, sums: Sequence[V], x: V, b_columns: Sequence[V], index: V, mask: V | None) -> list[V]:
        fb = self.fb
        result = []
        for total, b_column in zip(sums, b_columns, strict=True):
            at = fb.gep(self.element, b_column, index)
            y = fb.load(self.type, at) if mask is None else fb.masked_load(self.type, at, mask)
            result.append(fb.intrinsic("fmuladd", x, y, total))
        return result

    def _sum_lanes(self, sums: Sequence[V]) -> V:
        """Lane j of the result is the sum of the lanes of sums[j]."""
        parts = transpose_registers(self.fb, sums)
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [self.fb.fadd(x, y) for x, y in zip(parts[:half], parts[half:], strict=True)]
        return parts[0]
