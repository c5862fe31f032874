"""How a convolution's weight gradient is cut up: the register tile, the units of work, and the blocks of windows.

The gradient is a matrix product whose contracted axis is all windows of all images: rows are one side's channels,
each broadcast to the lanes; columns are the other side's, as vectors. Each element of the kernel (tap) is such a
product, on the input moved by the tap. With few input channels the taps are rows too (``copied``): then the windows'
input is copied to scratch, with zeros around, where every tap is at a constant distance.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import bytes_of
from ds_compiler.backends.llvm.conv_plan import aligned
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import split_rows
from ds_compiler.backends.llvm.window import ConvShape

BLOCK = 192
"""Windows of a block: one cache line of either side for each of them stays in the first-level cache."""

_SUMS_BYTES = 192 << 10  # sums of the units that share a pass over the windows: well within the second-level cache
_COPY_BYTES = 256 << 10  # more is no cache's size: then taps are products of their own
_LOADS = 2.5  # loads a cycle beside two multiply-adds
_LATENCY = 4  # cycles until a sum can be added to again


@dataclass(frozen=True)
class WeightPlan:
    """The choices for one gradient.

    Attributes:
        copied: rows are (tap, input channel), read from a copy of the windows' input.
        swapped: rows are the gradient's channels, columns the input's.
        rows, columns: extent of a group's product.
        mr, nv, lanes: the register tile, mr rows of nv vectors.
        taps: products of a group: 1 when copied.
        units: sums kept at once, in tiles.
        area: rows and columns of the copy, if any.
        block: rows and columns of windows that a copy serves.
    """

    copied: bool
    swapped: bool
    rows: int
    columns: int
    mr: int
    nv: int
    lanes: int
    taps: int
    units: int
    area: tuple[int, int] = (0, 0)
    block: tuple[int, int] = (0, 0)

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return self.nv * self.lanes

    @property
    def heights(self) -> list[tuple[int, int]]:
        """Row tiles: (height, how many), in order."""
        return split_rows(self.rows, self.mr)


def weight_plan(shape: ConvShape, target: Target, element: str) -> WeightPlan:
    """The cheapest of the plans by the cycles that the windows of one position take."""
    lanes, taps = target.lanes(element), shape.kernel[0] * shape.kernel[1]
    ci, co = shape.ci // shape.groups, shape.co // shape.groups
    found: list[tuple[float, WeightPlan]] = []
    for nv in range(1, 5):
        mr = min(12 if target.vector_registers < 32 else 24, (target.vector_registers - 1 - nv) // nv)
        if mr < 1:
            continue
        units = max(1, _SUMS_BYTES // (mr * nv * lanes * bytes_of(element)))
        for swapped, rows, columns in ((False, ci, co), (True, co, ci)):
            cycles = taps * _cycles(rows, columns, mr, nv, lanes)
            found.append((cycles, WeightPlan(False, swapped, rows, columns, mr, nv, lanes, taps, units)))
        if shape.groups == 1 and taps > 1:
            block, area = _copy(shape)
            if area[0] * area[1] * ci * bytes_of(element) <= _COPY_BYTES:
                copying = 2 * ci * area[0] * area[1] / (block[0] * block[1]) / lanes
                cycles = _cycles(taps * ci, co, mr, nv, lanes) + copying
                plan = WeightPlan(True, False, taps * ci, co, mr, nv, lanes, 1, units, area, block)
                found.append((cycles, plan))
    return min(found, key=lambda item: item[0])[1]


def _cycles(rows: int, columns: int, mr: int, nv: int, lanes: int) -> float:
    """Of all tiles, for one window."""
    vectors = -(-columns // lanes)
    panels = [nv] * (vectors // nv) + ([vectors % nv] if vectors % nv else [])
    total = 0.0
    for height, times in split_rows(rows, mr):
        for width in panels:
            total += times * max(height * width / 2, (height + width) / _LOADS, _LATENCY)
    return total


def _copy(shape: ConvShape) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the windows of a block, and of the input that they see."""
    wide = int(shape.ow.ref) if shape.ow.ref.isdigit() else BLOCK
    columns = max(1, min(wide, BLOCK))
    rows = max(1, BLOCK // columns)
    if shape.oh.ref.isdigit():
        rows = max(1, min(rows, int(shape.oh.ref)))
    steps = copy_stride(shape)
    area = tuple(
        (count - 1) * step + (kernel - 1) * dilation + 1
        for count, step, kernel, dilation in zip((rows, columns), steps, shape.kernel, shape.dilation, strict=True)
    )
    return (rows, columns), (area[0], area[1])


def copy_stride(shape: ConvShape) -> tuple[int, int]:
    """From window to window in the copy: along an axis with one tap only what windows see is copied."""
    rows, columns = (s if k > 1 else 1 for s, k in zip(shape.stride, shape.kernel, strict=True))
    return rows, columns


def weight_scratch_bytes(plan: WeightPlan, shape: ConvShape, element: str) -> int:
    """Scratch that one task needs, independent of run-time sizes."""
    size = bytes_of(element)
    sums = plan.units * plan.mr * plan.width * size
    # A vector read from the copy's last elements may reach over its end.
    return aligned(sums) + aligned((plan.area[0] * plan.area[1] * shape.ci + plan.lanes) * size)
