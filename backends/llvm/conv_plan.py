"""How a convolution is tiled: register tile, where its windows come from, blocking, and the packed weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import bytes_of
from ds_compiler.backends.llvm.packing import pack_b
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.window import ConvShape, index

Mode = Literal["rows", "taps", "lines", "gather"]
# Rows of a weight panel used before the next tile: 256 rows of 16 floats are 16 KiB, half of a usual first-level cache.
_CHUNK = 256
# Shorter segments are joined or gathered: the accumulation loop would be left as soon as it started.
_SHORTEST_SEGMENT = 16
_SHORTEST_LINE = 8
_WRITTEN_OUT = 24
_MOST_ROWS = 8  # row pointers that fit beside the other general registers
_BLOCK_TILES = 64


@dataclass(frozen=True)
class Plan:
    """How a convolution is tiled; follows from its static sizes and the target alone.

    Attributes:
        mr, nv, lanes: pixels and vectors of the register tile, lanes of a vector.
        mode: where the input comes from, see `conv`.
        segments, length: input segments of a window, and elements of each.
        per_chunk, pieces: a chunk is `per_chunk` segments, or a segment is `pieces` chunks (then `per_chunk` is 1).
        block: tiles of a pixel block.
    """

    mr: int
    nv: int
    lanes: int
    mode: Mode
    segments: int
    length: int
    per_chunk: int
    pieces: int
    block: int

    @property
    def width(self) -> int:
        """Output channels of a weight panel."""
        return self.nv * self.lanes

    @property
    def k(self) -> int:
        """Products summed for one output."""
        return self.segments * self.length

    @property
    def piece(self) -> int:
        """Elements of a piece of a segment (the last may be shorter)."""
        return -(-self.length // self.pieces)

    @property
    def unroll(self) -> int:
        """Products of an iteration of the accumulation loop; short segments are written out."""
        return self.length if self.length <= _WRITTEN_OUT else 4

    @property
    def chunks(self) -> int:
        return -(-self.segments // self.per_chunk) * self.pieces

    def partial_bytes(self, element: str) -> int:
        """Scratch for accumulators between chunks."""
        return self.block * self.mr * self.width * bytes_of(element) if self.chunks > 1 else 0

    def table_bytes(self) -> int:
        """Scratch for the segments' addresses."""
        return self.block * self.segments * self.mr * 8 if self.mode in ("taps", "lines") else 0

    def position_bytes(self) -> int:
        """Scratch for the (image, pixel) pairs."""
        return self.block * self.mr * 16

    def gather_bytes(self, element: str) -> int:
        """Scratch for gathered windows; a copy may write up to a vector beyond the last."""
        if self.mode not in ("lines", "gather"):
            return 0
        return (self.block * self.mr * self.k + self.lanes) * bytes_of(element)


def _tile_shape(target: Target, channels: int, lanes: int) -> tuple[int, int]:
    """The tile (mr, nv) with the fewest cycles a pixel, for two multiply-adds and two loads a cycle, latency 4."""
    best: tuple[float, int, int] | None = None
    for nv in (2, 3, 1):
        mr = min(_MOST_ROWS, (target.vector_registers - 1 - nv) // nv)
        cycles = 0.0
        vectors = -(-channels // lanes)
        for first in range(0, vectors, nv):
            v = min(nv, vectors - first)
            cycles += max(mr * v / 2, (mr + v) / 2, 4) / mr
        if best is None or cycles < best[0] - 1e-9:
            best = (cycles, mr, nv)
    assert best is not None
    return best[1], best[2]


def make_plan(
    target: Target,
    element: str,
    *,
    ci: int,
    co: int,
    taps: tuple[int, int],
    bytes_per_pixel: int,
    in_place: bool,
    lines: bool = False,
) -> Plan:
    """The tiling of one group with `ci` and `co` channels and `taps` = (rows, columns).

    Args:
        bytes_per_pixel: of input that one output pixel brings into the cache.
        in_place: windows are consecutive rows of the input.
        lines: a kernel row of a window is contiguous in the input.
    """
    lanes = target.lanes(element)
    mr, nv = _tile_shape(target, co, lanes)
    mode: Mode
    if in_place:
        mode, segments, length = "rows", 1, ci
    elif ci >= _SHORTEST_SEGMENT:
        mode, segments, length = "taps", taps[0] * taps[1], ci
    elif lines and taps[1] * ci >= _SHORTEST_LINE:
        mode, segments, length = "lines", taps[0], taps[1] * ci
    else:
        mode, segments, length = "gather", 1, taps[0] * taps[1] * ci
    per_chunk, pieces = segments, 1
    if segments * length > _CHUNK * 3 // 2:
        if length <= _CHUNK:
            chunks = -(-segments // (_CHUNK // length))
            per_chunk = -(-segments // chunks)
        else:
            per_chunk = 1
            least = -(-length // _CHUNK)
            pieces = next((p for p in range(least, least + 4) if length % p == 0), least)
    if mode in ("lines", "gather"):
        bytes_per_pixel = segments * length * bytes_of(element)
    block = max(4, min(_BLOCK_TILES, target.l2_bytes // 2 // max(1, mr * bytes_per_pixel)))
    return Plan(mr, nv, lanes, mode, segments, length, per_chunk, pieces, block)


def conv_plan(shape: ConvShape, target: Target, element: str = "float") -> Plan:
    """The tiling of `shape` on `target`."""
    no_padding = all(index(p).ref == "0" for p in shape.pads)
    in_place = (shape.kernel, shape.stride) == ((1, 1), (1, 1)) and no_padding
    return make_plan(
        target,
        element,
        ci=shape.ci // shape.groups,
        co=shape.co // shape.groups,
        taps=shape.kernel,
        bytes_per_pixel=shape.ci * shape.stride[0] * shape.stride[1] * bytes_of(element),
        in_place=in_place,
        lines=shape.groups == 1 and shape.dilation[1] == 1,
    )


def conv_scratch_bytes(shape: ConvShape, target: Target, element: str = "float") -> int:
    """Bytes of scratch that each task needs, at most a few hundred KiB; independent of the run-time sizes."""
    return scratch_bytes(conv_plan(shape, target, element), element)


def scratch_bytes(plan: Plan, element: str) -> int:
    """Bytes of scratch for one task working by `plan`."""
    return sum(aligned(size) for size in scratch_parts(plan, element))


def scratch_parts(plan: Plan, element: str) -> tuple[int, int, int, int]:
    """Bytes of the table, the positions, the partial sums and the gathered windows."""
    return plan.table_bytes(), plan.position_bytes(), plan.partial_bytes(element), plan.gather_bytes(element)


def aligned(size: int) -> int:
    """`size` rounded up to a cache line."""
    return -(-size // 64) * 64


def pack_conv_weight(w: NDArray[np.generic], shape: ConvShape, target: Target) -> NDArray[np.generic]:
    """Reorder ``[co, ci / groups, kh, kw]`` to ``[groups, panels, kh * kw * ci / groups, nv * lanes]``, zero-filled.

    Raises:
        ValueError: the weight's shape is not the one that `shape` says.
    """
    expected = (shape.co, shape.ci // shape.groups, *shape.kernel)
    if w.shape != expected:
        raise ValueError(f"convolution weight: expected {list(expected)}, got {list(w.shape)}")
    element = {4: "float", 8: "double"}[w.dtype.itemsize]
    grouped = w.reshape(shape.groups, shape.co // shape.groups, *w.shape[1:])
    rows = grouped.transpose(0, 3, 4, 2, 1).reshape(shape.groups, -1, shape.co // shape.groups)
    return pack_b(rows, conv_plan(shape, target, element).width)
