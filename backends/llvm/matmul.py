"""Matrix products: C[i, j] = sum over k of A[i, k] * B[k, j], batched, with a fused epilogue.

    emit_matmul      the code of one product inside a function, this task's share of it
    matmul_scratch_bytes   the scratch that one task needs

Blocks follow Goto: a panel of B stays in the first-level cache, a block of A in the second, and the
register tile (`tile.accumulate`) does the work. See `gemm_schedule` for the choices.
"""

from __future__ import annotations

from dataclasses import replace

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, known
from ds_compiler.backends.llvm.gemm_schedule import choose_schedule, packed_width, task_grid
from ds_compiler.backends.llvm.matmul_block import Block, BlockEmitter
from ds_compiler.backends.llvm.matvec import emit_few_rows
from ds_compiler.backends.llvm.operands import Epilogue, Matrix, PackedMatrix, Touch, each_unit, share
from ds_compiler.backends.llvm.target import Target

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
    touch: Touch | None = None,
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
        touch: prefetches what the epilogue needs.
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
    product = _Product(BlockEmitter(fb, schedule, m, n, k, a, b, scratch, epilogue, touch))
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
    """The loops around the blocks of one product."""

    def __init__(self, blocks: BlockEmitter) -> None:
        self.blocks, self.fb, self.s = blocks, blocks.fb, blocks.s
        self.a, self.b, self.k = blocks.a, blocks.b, blocks.k

    def emit(self, batch: V, task: V, tasks: V) -> None:
        """This task's rectangles of tiles, one batch entry after the other."""
        fb, s, tiles, panels = self.fb, self.s, self.blocks.tiles, self.blocks.panels
        grid = task_grid(fb, batch, tiles, panels, s.mr, s.nr, tasks)

        def unit(index: V, row_part: V, column_part: V) -> None:
            tile_range, panel_range = share(fb, tiles, row_part, grid[0]), share(fb, panels, column_part, grid[1])
            self._rectangle(index, tile_range, panel_range)

        each_unit(fb, batch, grid, task, tasks, unit)

    def _rectangle(self, index: V, tiles: tuple[V, V], panels: tuple[V, V]) -> None:
        """Column blocks, then row blocks, then passes over k."""
        fb, s, element = self.fb, self.s, self.s.element
        a, b = self.a.at(fb, element, index), self.b.at(fb, element, index)
        panel_step, tile_step = self._even(panels, s.nc), self._even(tiles, s.mc)
        with fb.loop(panels[0], panels[1], panel_step, hint="jc") as jc:
            panel1 = fb.smin(fb.add(jc.index, panel_step), panels[1])
            if s.pack_once:
                self.blocks.pack_b(b, jc.index, panel1, fb.i64(0), self.k)
            with fb.loop(tiles[0], tiles[1], tile_step, hint="ic") as ic:
                tile1 = fb.smin(fb.add(ic.index, tile_step), tiles[1])
                row0 = self.blocks.first_row(ic.index)
                block = Block(index, a, b, jc.index, panel1, ic.index, tile1, row0, fb.i64(0), self.k)
                if s.partial:
                    self._passes(block)
                else:
                    self.blocks.emit(block)

    def _passes(self, block: Block) -> None:
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
            if s.pack_b and not s.pack_once:
                self.blocks.pack_b(block.b, block.panel0, block.panel1, start, count)
            first = fb.icmp("eq", kc.index, fb.i64(0))
            last = fb.icmp("eq", kc.index, fb.sub(passes, one))
            self.blocks.emit(replace(block, start=start, count=count, first=first, last=last))

    def _even(self, span: tuple[V, V], limit: int) -> V:
        """Step that cuts `span` into equal blocks of at most `limit`."""
        fb = self.fb
        count, one = fb.sub(span[1], span[0]), fb.i64(1)
        blocks = fb.smax(self._ceil(count, fb.i64(limit)), one)
        return fb.smax(self._ceil(count, blocks), one)

    def _ceil(self, a: V, b: V) -> V:
        """a / b, rounded up."""
        return self.fb.sdiv(self.fb.add(a, self.fb.sub(b, self.fb.i64(1))), b)
