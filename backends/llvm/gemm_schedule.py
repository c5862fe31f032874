"""How a matrix product is cut up: the register tile, the cache blocks, and which operands are copied.

The model is small because the kernel is insensitive: KC of 256 to 512 and MC of 72 to 192 are within
noise of each other. What counts is that a panel of B (kc x nr) lives in the first-level cache while the
rows of an A block (mc x kc) pass through from the second level.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, known
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import split_rows, tile_shape

_MOST_PACKED = 4 << 20  # bytes of B that are packed at once, so that row blocks share them
_PAD = 16  # elements added to a copied row, so that rows don't fall on the same cache sets


@dataclass(frozen=True)
class Schedule:
    """Choices for one product. Counts of tiles and panels are upper bounds of a block.

    Attributes:
        mr, nv, lanes: the register tile, mr rows of nv vectors.
        kc: longest run of k that one pass adds up; 0 means all of k, however long.
        mc, nc: row tiles and column panels in a block.
        copy_a: rows of A are copied to scratch before use (strided A, or many reuses of a long row).
        pack_b: B is packed into panels in scratch; else it is read where it is.
        depth: rows of a packed panel: all of k where row blocks share the panels, else those of one pass.
        partial: sums wait in scratch between passes over k.
        small_m: up to this many rows take the matrix-vector path (0: none do).
        prefetch: tiles prefetch the next panel of a packed B.
        inline_epilogue: unroll the epilogue over the tile; else loop over the tile's rows.
    """

    mr: int
    nv: int
    lanes: int
    kc: int
    mc: int
    nc: int
    copy_a: bool
    pack_b: bool
    depth: int
    partial: bool
    small_m: int
    prefetch: bool
    inline_epilogue: bool
    element: str

    @property
    def nr(self) -> int:
        """Columns of a panel."""
        return self.nv * self.lanes

    @property
    def k_capacity(self) -> int:
        """kc rounded up to whole vectors."""
        return _round_up(self.kc, self.lanes)

    @property
    def pack_once(self) -> bool:
        """Panels of B are packed in front of all passes and row blocks."""
        return self.pack_b and (not self.partial or self.depth > self.k_capacity)

    @property
    def a_row(self) -> int:
        """Elements between copied rows of A."""
        return self.k_capacity + _PAD

    def scratch_parts(self) -> tuple[int, int, int]:
        """Elements of scratch for A's rows, partial sums and B's panels, each a multiple of 64 bytes."""
        rows = _round_up(self.mc * self.mr, self.lanes)
        a = rows * self.a_row if self.copy_a else 0
        c = self.mc * self.nc * self.mr * self.nr if self.partial else 0
        b = self.nc * self.nr * self.depth if self.pack_b else 0
        return _round_up(a, 16), _round_up(c, 16), _round_up(b, 16)

    @property
    def scratch_bytes(self) -> int:
        """Scratch one task needs, independent of run-time sizes."""
        return sum(self.scratch_parts()) * bytes_of(self.element)


def packed_width(target: Target, n: int | None, element: str = "float") -> int:
    """Columns of a panel (`nr`) that `emit_matmul` expects of a packed B with n columns (None: run-time n)."""
    return tile_shape(target, n, element)[1] * target.lanes(element)


def choose_schedule(
    target: Target,
    element: str,
    m: int | None,
    n: int | None,
    k: int | None,
    *,
    b_layout: str,
    a_layout: str = "rows",
    scratch: bool = True,
) -> Schedule:
    """Pick the blocks for one product; None is an extent known only at run time.

    Args:
        b_layout: ``packed`` (panels, made ahead), ``rows`` (elements of a row adjacent), ``columns`` or ``strided``.
        a_layout: ``rows``, ``columns`` or ``strided``.
        scratch: whether scratch may be used; without it nothing is copied and k is not blocked.

    Raises:
        ValueError: B has to be packed, and there is no scratch.
    """
    lanes, size = target.lanes(element), bytes_of(element)
    mr, nv = tile_shape(target, n, element)
    nr = nv * lanes
    if not scratch and b_layout not in ("packed", "rows"):
        raise ValueError(f"a product with B in {b_layout} needs scratch to pack it")
    small_m = mr // 2 if b_layout != "strided" and (m is None or m <= mr // 2) else 0
    # A narrow panel would let more of k pass, but one sum over all of that is less exact.
    longest = min(384, target.l1_bytes * 3 // 4 // (nr * size))
    kc = 0
    if scratch:
        kc = longest if k is None else _even_block(k, longest)
    partial = scratch and (k is None or k > kc)
    rows_of_a = target.l2_bytes // 2 // (max(kc, 1) * size)
    mc = max(4, rows_of_a // mr)
    tiles = blocks = 0
    if m is not None:
        tiles = sum(times for _, times in split_rows(m, mr))
        blocks = max(1, -(-tiles // mc))
        mc = max(1, -(-tiles // blocks))
    pack_b = scratch and b_layout != "packed"
    nc = 64 if partial or pack_b else 1 << 20
    if n is not None:
        panels = max(1, -(-n // nr))
        nc = -(-panels // -(-panels // nc))
    depth = _round_up(kc, lanes)
    if pack_b and partial and k is not None and blocks > 1 and nc * nr * k * size <= _MOST_PACKED:
        depth = _round_up(k, lanes)
        if nc * nr * kc * size <= target.l2_bytes:  # a pass over B stays there beside half as much of A
            mc = -(-tiles // (2 * blocks))
    reused = n is None or n >= 4 * nr
    long = n is not None and k is not None and n >= 768 and k >= 512
    copy_a = scratch and ((a_layout == "columns" and reused) or (a_layout == "rows" and long))
    return Schedule(
        mr=mr,
        nv=nv,
        lanes=lanes,
        kc=kc,
        mc=mc,
        nc=nc,
        copy_a=copy_a,
        pack_b=pack_b,
        depth=depth,
        partial=partial,
        small_m=small_m,
        prefetch=b_layout == "packed" and n is not None and k is not None and n * k * size > target.l2_bytes // 2,
        inline_epilogue=k is not None and k <= 128 and m is not None and n is not None,
        element=element,
    )


def _even_block(k: int, longest: int) -> int:
    """A block length near `longest` that divides k evenly where possible (a constant inner trip count)."""
    if k <= longest * 3 // 2:
        return max(k, 1)
    blocks = -(-k // longest)
    for count in (blocks, blocks + 1, blocks + 2):
        if k % count == 0:
            return k // count
    return _round_up(-(-k // blocks), 8)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


@dataclass(frozen=True)
class RowSegment:
    """Row tiles `first` ... `first + count` - 1, all `height` rows tall, starting at row `row`.

    `clamped`: the last tile may stick out over the last row; it then recomputes that row and stores less.
    """

    height: int
    first: V
    count: V
    row: V
    clamped: bool


def row_segments(fb: FunctionBuilder, m: V, mr: int) -> tuple[list[RowSegment], V]:
    """Cut m rows into segments of equal tiles, and the number of tiles.

    A constant m gets exact heights. A run-time m gets two: mr, and the shorter tile that the fused
    multiply-add units need to stay busy (4 of 6), chosen so that as few rows as possible are computed twice.
    """
    extent = known(m)
    segments = []
    if extent is not None:
        tile, top = 0, 0
        for height, times in split_rows(extent, mr):
            segments.append(RowSegment(height, fb.i64(tile), fb.i64(times), fb.i64(top), False))
            tile, top = tile + times, top + height * times
        return segments, fb.i64(tile)
    low = (mr + 2) // 2
    whole, rest = fb.sdiv(m, fb.i64(mr)), fb.srem(m, fb.i64(mr))
    zero, one = fb.i64(0), fb.i64(1)
    exact = fb.icmp("eq", rest, zero)
    two_low = fb.binary(
        "and", fb.icmp("sle", rest, fb.i64(2 * low - mr)), fb.icmp("sgt", whole, zero)
    )  # mr + rest rows as two short tiles
    one_low = fb.icmp("sle", rest, fb.i64(low))
    full = fb.select(two_low, fb.sub(whole, one), fb.select(one_low, whole, fb.add(whole, one)))
    short = fb.select(two_low, fb.i64(2), fb.select(one_low, one, zero))
    full, short = fb.select(exact, whole, full), fb.select(exact, zero, short)
    row = fb.mul(full, fb.i64(mr))
    return [
        RowSegment(mr, zero, full, zero, True),
        RowSegment(low, full, short, row, True),
    ], fb.add(full, short)


def task_grid(fb: FunctionBuilder, batch: V, tiles: V, panels: V, mr: int, nr: int, tasks: V) -> tuple[V, V]:
    """Parts to cut rows and columns of each batch entry into, so that `tasks` tasks have equal work.

    One part where whole entries spread evenly; else `tasks` parts, as square as halving makes them.
    """
    one = fb.i64(1)
    if known(tasks) == 1:
        return one, one
    even = fb.icmp("eq", fb.srem(batch, tasks), fb.i64(0))
    many = fb.icmp("sge", batch, fb.mul(tasks, fb.i64(16)))
    parts = fb.select(fb.binary("or", even, many), one, tasks)
    height, width = fb.mul(tiles, fb.i64(mr)), fb.mul(panels, fb.i64(nr))
    tall = fb.icmp("sgt", height, width)
    long, short = fb.select(tall, height, width), fb.select(tall, width, height)
    along, across = parts, one
    for _ in range(5):
        is_even = fb.icmp("eq", fb.srem(along, fb.i64(2)), fb.i64(0))
        # Halve while a part would still be longer than wide: long / along < short / across.
        thin = fb.icmp("slt", fb.mul(long, across), fb.mul(short, along))
        halve = fb.binary("and", is_even, thin)
        along = fb.select(halve, fb.sdiv(along, fb.i64(2)), along)
        across = fb.select(halve, fb.mul(across, fb.i64(2)), across)
    return fb.select(tall, along, across), fb.select(tall, across, along)
