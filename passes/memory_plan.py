"""Where every buffer of a program lies: one arena, planned ahead, with in-place reuse.

`passes.buffer_assignment` says which values share a buffer and when it is in use, `passes.arena` packs; this file joins
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds_compiler.ir import Function
from ds_compiler.ir.dims import Dim
from ds_compiler.ops import Fusion
from ds_compiler.passes.arena import ALIGNMENT, Interval, Layout, aligned, lower_bound, overlaps, pack
from ds_compiler.passes.buffer_assignment import assign_buffers
from ds_compiler.passes.buffer_lifetimes import overwritable
from ds_compiler.passes.buffers import Buffer, Buffers, Where


@dataclass(frozen=True)
class MemoryPlan:
    """The result of `plan_memory`.

    Attributes:
        buffers: the buffer of each value.
        arena: bytes of the arena, a size over the entry's symbols.
        lower_bound: largest number of bytes in use at one time; no plan needs less.
        slots: offset in the arena of the pointer to each buffer that is allocated at run time.
        overwritable: outputs, each with an input whose memory it may be given by a caller who no longer needs that.
    """

    buffers: Buffers
    arena: Dim
    lower_bound: Dim
    slots: Mapping[Buffer, int]
    overwritable: tuple[tuple[int, int], ...] = ()

    def overlaps(self, values: Mapping[str, int]) -> list[tuple[Buffer, Buffer]]:
        """Buffers that are in use together but share memory when the symbols have these values; none if right."""
        planned = self.buffers.of_kind(Where.ARENA)
        pairs = overlaps([_interval(b) for b in planned], Layout(tuple(b.offset for b in planned), self.arena), values)
        return [(planned[a], planned[b]) for a, b in pairs]


def plan_memory(
    function: Function, inplace: Mapping[Fusion, Mapping[int, tuple[int, ...]]] | None = None
) -> MemoryPlan:
    """Assign buffers and offsets to the values of a fused function.

    Args:
        inplace: for a fusion's results, the inputs whose buffer each may overwrite (as kernels state it).

    Raises:
        CompileError: see `assign_buffers`.
    """
    buffers = assign_buffers(function, inplace)
    allocated = buffers.of_kind(Where.HEAP)
    slots = {buffer: 8 * index for index, buffer in enumerate(allocated)}
    base = -(-8 * len(slots) // ALIGNMENT) * ALIGNMENT
    planned = buffers.of_kind(Where.ARENA)
    intervals = [_interval(b) for b in planned]
    layout = pack(intervals)
    for buffer, offset in zip(planned, layout.offsets, strict=True):
        buffer.offset = base + offset
    given = overwritable(function, buffers, inplace or {})
    return MemoryPlan(buffers, base + layout.size, base + lower_bound(intervals), slots, tuple(given))


def half_size(buffer: Buffer) -> Dim:
    """Distance in bytes between the halves of an alternating buffer."""
    return aligned(buffer.size)


def _interval(buffer: Buffer) -> Interval:
    return Interval(2 * half_size(buffer) if buffer.alternating else buffer.size, buffer.first, buffer.last)
