"""Tiles: which axes a program covers a block of, and how the grid's programs share the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds_compiler.backends.loops.ir import Axis, Node
from ds_compiler.backends.triton.body import Block, Body, Buffer
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import Dim, ceildiv, product

LARGEST_BLOCK = 1 << 20  # elements of a block that Triton accepts


def power_of_two(size: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(size - 1, 0).bit_length()


@dataclass(frozen=True)
class TileDim:
    """`block` consecutive positions of the flat index over `axes`; the grid has a program for each block."""

    name: str
    axes: tuple[Axis, ...]
    block: int

    @property
    def extent(self) -> Dim:
        return product(tuple(a.extent for a in self.axes))

    @property
    def count(self) -> Dim:
        """Blocks that cover the extent."""
        return ceildiv(self.extent, self.block)


@dataclass(frozen=True)
class Grid:
    """How a kernel is launched: programs in all, warps in each, stages of pipelined loops."""

    programs: Dim
    num_warps: int = 4
    num_stages: int = 3


def program_index(writer: Writer, counts: Sequence[Dim], *, wide: bool) -> list[str]:
    """Split the program's number into one for each count, the last one running fastest: names, or "0"."""
    whole = "tl.program_id(0)" + (".to(tl.int64)" if wide else "")
    varying = [n for n, c in enumerate(counts) if c != 1]
    found = ["0"] * len(counts)
    rest = whole
    if len(varying) > 1:
        rest = writer.assign("program", whole)
    for place, number in reversed(list(enumerate(varying))):
        if place == 0:
            found[number] = writer.assign("block", rest) if rest == whole else rest
            break
        found[number] = writer.assign("block", f"{rest} % {size_text(counts[number])}")
        rest = writer.assign("program", f"{rest} // {size_text(counts[number])}")
    return found


def enter(
    writer: Writer, buffers: Sequence[Buffer], dims: Sequence[TileDim], inner: Sequence[int] = (), *, wide: bool
) -> tuple[Body, Dim]:
    """A body inside the program's tile, and the number of programs.

    Args:
        dims: outer dimensions of the tile; those with a block of 1 are no dimensions of blocks.
        inner: further dimensions of the tile, which loops run over.
    """
    counts = [d.count for d in dims]
    blocks = program_index(writer, counts, wide=wide)
    shape = [d.block for d in dims if d.block > 1] + list(inner)
    body = Body(writer, buffers, shape, wide=wide)
    number = 0
    for dim, block in zip(dims, blocks, strict=True):
        if not dim.axes:
            continue
        if dim.block == 1:
            body.place(dim.axes, Block(block))
            continue
        start = "" if block == "0" else f"{block} * {dim.block}"
        flat = body.positions(number, start, dim.name)
        cover(body, number, flat, dim.extent, dim.block)
        body.place(dim.axes, flat)
        number += 1
    return body, product(tuple(counts))


def cover(body: Body, number: int, flat: Block, extent: Dim, block: int) -> None:
    """Mask positions from `extent` on, if blocks may reach beyond it."""
    if isinstance(extent, int) and extent % block == 0:
        body.masks.pop(number, None)
        return
    body.masks[number] = body.writer.assign("exists", f"{flat.text} < {size_text(extent)}")


def along(body: Body, dim: int, axis: Axis, start: str, name: str) -> None:
    """Put an axis along a dimension of the tile, from `start` on."""
    flat = body.positions(dim, start, name)
    cover(body, dim, flat, axis.extent, body.shape[dim])
    body.axes[axis] = flat


def whole(body: Body, node: Node) -> str:
    """A node's value as a block of the whole tile, of two dimensions."""
    value = body.emit(node)
    if value.dims == frozenset([0, 1]):
        return value.text
    return body.writer.assign("operand", f"tl.broadcast_to({value.text}, [{body.shape[0]}, {body.shape[1]}])")


def warps_for(elements: int) -> int:
    """Warps for a tile: about 16 elements a thread, which fit its registers."""
    return 2 if elements <= 256 else 4 if elements <= 2048 else 8 if elements <= 8192 else 16
