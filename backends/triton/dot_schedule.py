"""Tiles of matrix products: an analytic choice among those that suit tensor cores.

The model counts waves of programs over the GPU's multiprocessors and the time of one program, which is bound by its
multiplications or by the bytes that it reads from the second-level cache, whichever takes longer. It has not been
compared with measurements yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as combinations

from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import DType
from ds_compiler.passes.arena import nominal

MULTIPROCESSORS = 132  # of an H100; an A100 has 108
_SHARED_BYTES = 200 << 10  # of 227 KiB: what follows the product needs some as well
_MULTIPLIES = 1024 * 4  # 16-bit multiply-adds a cycle and multiprocessor, as far as a tile of 128 x 128 reaches it
_BYTES = 64  # from the second-level cache, a cycle and multiprocessor
_START = 1500  # cycles: launch, first loads, the epilogue
_MEMORY_BYTES = 13  # from memory, a cycle and multiprocessor: partial sums of split products
_PARTS = (2, 4, 8, 16, 32, 64)
_LEAST_DEPTH = 128  # of a part
_SIDES = (16, 32, 64, 128, 256)
_LARGEST = 128 * 256


@dataclass(frozen=True)
class DotTile:
    """Block sizes of a product, and how it is run."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


def choose(batch: Dim, rows: Dim, columns: Dim, depth: Dim, dtype: DType) -> DotTile:
    """A tile for a product of these sizes; open sizes are taken as middling ones."""
    b, m, n, k = (max(nominal(d), 1) for d in (batch, rows, columns, depth))
    return _best(b, m, n, k, dtype)[1]


def choose_parts(batch: Dim, rows: Dim, columns: Dim, depth: Dim, dtype: DType) -> int:
    """In how many parts of the depth to compute a product, which a second kernel adds up; 1: in one kernel."""
    b, m, n, k = (max(nominal(d), 1) for d in (batch, rows, columns, depth))
    best, cost = 1, _best(b, m, n, k, dtype)[0]
    for parts in _PARTS:
        if k // parts < _LEAST_DEPTH:
            break
        moved = 4 * b * m * n * (parts + 1) / (_MEMORY_BYTES * MULTIPROCESSORS)
        split = _best(b * parts, m, n, -(-k // parts), dtype)[0] + _START + moved
        if split < cost:
            best, cost = parts, split
    return best


def _best(b: int, m: int, n: int, k: int, dtype: DType) -> tuple[float, DotTile]:
    """Cycles of the best tile, and that tile."""
    best: tuple[float, DotTile] | None = None
    for side_m, side_n in combinations(_SIDES, _SIDES):
        if side_m * side_n > _LARGEST or (side_m > 16 and side_m >= 2 * m) or (side_n > 16 and side_n >= 2 * n):
            continue
        tile = _tile(side_m, side_n, k, dtype)
        cost = _cycles(b, m, n, k, tile, dtype)
        if best is None or cost < best[0]:
            best = cost, tile
    assert best is not None
    return best


def _tile(rows: int, columns: int, depth: int, dtype: DType) -> DotTile:
    block = max(16, 128 // dtype.itemsize)  # 128 bytes: a cache line, and the widest swizzle of shared memory
    while block > 16 and block >= 2 * depth:
        block //= 2
    block = max(block, 32 if dtype.itemsize == 1 else 16)
    stage = (rows + columns) * block * dtype.itemsize
    stages = max(2, min(4, _SHARED_BYTES // stage))
    return DotTile(rows, columns, block, 8 if rows * columns >= 128 * 128 else 4, stages)


def _cycles(b: int, m: int, n: int, k: int, tile: DotTile, dtype: DType) -> float:
    programs = b * -(-m // tile.rows) * -(-n // tile.columns)
    # Small tiles leave tensor cores waiting: Hopper's instructions take 64 rows and up to 256 columns.
    filled = min(tile.rows, 64) / 64 * min(tile.columns, 128) / 128
    # f32 takes three passes at half the rate.
    rate = _MULTIPLIES * max(filled, 0.1) / (6 if dtype.name == "f32" else 1)
    work = tile.rows * tile.columns * k / rate
    moved = (tile.rows + tile.columns) * k * dtype.itemsize / _BYTES
    waves = -(-programs // MULTIPROCESSORS)
    return waves * (_START + max(work, moved))
