"""Operands of emitted matrix products: where a matrix lies in memory, and what happens to its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V

_SHARED = V("i64", "0")

BatchStride = V | Callable[[FunctionBuilder, V], V]
"""Elements (i64) between batch entries (0: one matrix for all), or ``(fb, batch index) -> ptr`` to the entry."""

Epilogue = Callable[[FunctionBuilder, V, V, V, int, V | None, V], None]
"""``(fb, batch, row, column, lanes, mask, value)``: consume finished sums.

`value` is a vector of `lanes` sums: row `row`, columns `column` ... `column` + lanes - 1 of batch entry `batch`
(all i64). With `mask` (``<lanes x i1>``) only its true lanes exist: the others must be neither loaded from nor
stored to, and may hold anything, NaN included. A mask may be all false. The epilogue adds bias and residual,
applies activations, stores. It is called exactly once for each element, and may branch and loop.
"""

Touch = Callable[[FunctionBuilder, V, V, V], None]
"""``(fb, batch, row, column)``: ask for the memory that the epilogue will read and write from there on in a row."""


@dataclass(frozen=True)
class Matrix:
    """Element (i, j) of a batch entry is at ``base + batch + i * row + j * col``, strides in elements (i64).

    Any transposition or view works; a stride that is the constant 1 makes that direction vectorised.
    """

    base: V
    row: V
    col: V
    batch: BatchStride = _SHARED

    def at(self, fb: FunctionBuilder, element: str, index: V) -> V:
        """Pointer to element (0, 0) of batch entry `index`."""
        return _entry(fb, element, self.base, self.batch, index)

    @property
    def layout(self) -> str:
        """``rows`` when a row's elements are adjacent, ``columns`` when a column's are, else ``strided``."""
        if self.col.ref == "1":
            return "rows"
        return "columns" if self.row.ref == "1" else "strided"


@dataclass(frozen=True)
class PackedMatrix:
    """A right operand that `packing.pack_b` put in panels of `nr` columns ahead of time."""

    base: V
    nr: int
    batch: BatchStride = _SHARED

    layout = "packed"

    def at(self, fb: FunctionBuilder, element: str, index: V) -> V:
        """Pointer to the first panel of batch entry `index`."""
        return _entry(fb, element, self.base, self.batch, index)


def _entry(fb: FunctionBuilder, element: str, base: V, batch: BatchStride, index: V) -> V:
    if isinstance(batch, V):
        return fb.gep(element, base, fb.mul(index, batch))
    return batch(fb, index)


def each_unit(
    fb: FunctionBuilder, batch: V, grid: tuple[V, V], task: V, tasks: V, body: Callable[[V, V, V], None]
) -> None:
    """Emit ``body(batch index, row part, column part)`` for this task's share of batch x grid parts."""
    row_parts, column_parts = grid
    parts = fb.mul(row_parts, column_parts)
    units = fb.mul(batch, parts)
    first = fb.sdiv(fb.mul(task, units), tasks)
    last = fb.sdiv(fb.mul(fb.add(task, fb.i64(1)), units), tasks)
    with fb.loop(first, last, hint="unit") as unit:
        part = fb.srem(unit.index, parts)
        body(fb.sdiv(unit.index, parts), fb.sdiv(part, column_parts), fb.srem(part, column_parts))


def share(fb: FunctionBuilder, count: V, part: V, parts: V) -> tuple[V, V]:
    """First and past-the-end item of `part` when `count` items are spread evenly over `parts`."""
    first = fb.sdiv(fb.mul(part, count), parts)
    return first, fb.sdiv(fb.mul(fb.add(part, fb.i64(1)), count), parts)
