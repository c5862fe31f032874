"""Loop nests as Triton kernels: elementwise and data movement here, nests with inner axes in `rows`.

A nest without inner axes is cut into tiles of about a thousand elements along the axis that stores run along and those
in front of it; one that reads along another axis than it writes gets square tiles, which Triton turns in shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.loops.ir import Axis, Nest, Reduction, Running, Store
from ds_compiler.backends.loops.tiling import find_tiling
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.body import Block, Body, Buffer
from ds_compiler.backends.triton.dot import emit_dot, find_product
from ds_compiler.backends.triton.rows import emit_rows
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.tile import Grid, TileDim, enter, power_of_two, warps_for
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import product
from ds_compiler.ir.errors import CompileError

_TILE = 1024  # elements: 8 a thread with 4 warps, two 16-byte loads of f32
_SQUARE = (32, 64)  # read and written axis of a transposing tile: whole cache lines of f32 both ways
_ATOMIC = ("f32", "f64", "f16", "bf16", "i32", "i64", "u32", "u64")
_ATOMIC_ORDER = ("i32", "i64", "u32", "u64", "f32")  # for max and min


def emit_nest(writer: Writer, buffers: Sequence[Buffer], nest: Nest, *, wide: bool) -> Grid:
    """Write the body of the kernel that computes a nest.

    Raises:
        CompileError: the nest's steps have no schedule.
    """
    found = find_product(nest)
    if found is not None:
        return emit_dot(writer, buffers, found, wide=wide)
    if nest.inner or any(isinstance(s, Reduction | Running) for s in nest.steps):
        return emit_rows(writer, buffers, nest, wide=wide)
    if nest.serial and not _order_is_free(nest, buffers):
        return _emit_serial(writer, buffers, nest, wide=wide)
    dims = _tile(nest)
    body, programs = enter(writer, buffers, dims, wide=wide)
    for step in nest.steps:
        if not isinstance(step, Store):
            raise CompileError(f"{type(step).__name__} without inner axes has no schedule")
        body.store(step)
    elements = 1
    for dim in dims:
        elements *= dim.block
    return Grid(programs, warps_for(elements))


def _tile(nest: Nest) -> list[TileDim]:
    tiling = find_tiling(nest)
    if tiling is not None:
        rest = tuple(a for a in nest.outer if a not in (tiling.read, tiling.written))
        read, written = (_bounded(a, n) for a, n in zip((tiling.read, tiling.written), _SQUARE, strict=True))
        return [
            TileDim("o", rest, 1),
            TileDim("r", (tiling.read,), read),
            TileDim("c", (tiling.written,), written),
        ]
    *front, last = nest.outer or [Axis("one", 1)]
    others = tuple(front)
    columns = _bounded(last, _TILE if not others else _TILE // 4 if not isinstance(last.extent, int) else _TILE)
    if not others:
        return [TileDim("i", (last,), columns)]
    return [TileDim("r", others, max(_TILE // columns, 1)), TileDim("c", (last,), columns)]


def _bounded(axis: Axis, block: int) -> int:
    """`block`, less for an axis that is known to be shorter."""
    return min(block, power_of_two(axis.extent)) if isinstance(axis.extent, int) else block


def _order_is_free(nest: Nest, buffers: Sequence[Buffer]) -> bool:
    """Whether points of a serial nest may run at once: plain stores, of which any may be the last one at its place, and
    combinations that the hardware has atomic instructions for."""
    for step in nest.steps:
        if not isinstance(step, Store):
            return False
        name = buffers[step.buffer].type.dtype.name
        known = {"set": (name,), "add": _ATOMIC, "max": _ATOMIC_ORDER, "min": _ATOMIC_ORDER}
        if name not in known.get(step.mode, ()):
            return False
    return True


def _emit_serial(writer: Writer, buffers: Sequence[Buffer], nest: Nest, *, wide: bool) -> Grid:
    """One program, one point after the other: slow, but the only order in which all combinations are right."""
    body = Body(writer, buffers, (), wide=wide)
    total = product(tuple(a.extent for a in nest.outer))
    point = writer.fresh("point")
    with writer.block(f"for {point} in range(0, {size_text(total)})"), body.scope():
        body.place(nest.outer, Block(point))
        for step in nest.steps:
            if not isinstance(step, Store):
                raise CompileError(f"{type(step).__name__} without inner axes has no schedule")
            dtype = buffers[step.buffer].type.dtype
            old = Block(writer.assign("old", scalars.from_memory(f"tl.load({body.pointer(step)})", dtype)))
            value = body.materialised(body.emit(step.value), dtype)
            mode = step.mode
            if dtype.kind == "b":
                mode = {"add": "max", "mul": "min"}.get(mode, mode)
            new = writer.assign("new", scalars.binary(mode, old.text, value.text, dtype))
            writer.line(f"tl.store({body.pointer(step)}, {scalars.to_memory(new, dtype)})")
            writer.line("tl.debug_barrier()")  # every thread loads what one of them has stored
    return Grid(1, num_warps=1)
