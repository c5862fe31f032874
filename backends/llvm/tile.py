"""The register tile: an outer-product accumulator of mr x nv vectors held in SSA values.

Matrix multiplication, convolution and attention all spend their time in `accumulate`. The tile is
plain values and loop phis, so that the register allocator keeps it in registers; 6x2 vectors of 8
(12 accumulators) reaches 95 % of the FMA peak with AVX2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, known, vector_of
from ds_compiler.backends.llvm.target import Target

Tile = list[list[V]]

LONGEST_SUM = 512
"""Products that one accumulator adds up where that can be chosen: rounding errors grow with their number."""

_MULTIPLY_ADD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
"""By lanes of the result: products of i16, of which neighbours are added. Exact but for four times -32768."""


def tile_shape(target: Target, n: int | None = None, element: str = "float") -> tuple[int, int]:
    """Rows and vectors a row, (mr, nv), of the largest tile that `target`'s registers hold.

    Args:
        n: columns of the product when they are known; one vector or less gets a taller tile.
        element: ``float`` or ``double`` (decides how many lanes a vector has).

    Of `target.vector_registers`, nv hold a row of B and one the broadcast element of A.
    """
    narrow = n is not None and n <= target.lanes(element)
    if target.vector_registers >= 32:
        return (24, 1) if narrow else (14, 2)
    return (12, 1) if narrow else (6, 2)


def zero_tile(fb: FunctionBuilder, element: str, mr: int, nv: int, lanes: int) -> Tile:
    """An mr x nv tile of zero vectors; `lanes` 0 makes it a tile of scalars."""
    zero = constant(vector_of(element, lanes), 0 if element == "i32" else 0.0)
    return [[zero] * nv for _ in range(mr)]


def accumulate(
    fb: FunctionBuilder,
    acc: Tile,
    a_rows: Sequence[V],
    a_step: V | int,
    b: V | Sequence[V],
    b_row: V | int,
    k: V,
    *,
    lanes: int,
    unroll: int = 4,
    last_mask: V | None = None,
) -> Tile:
    """Add A·B to a tile: ``acc[i][j] += a_rows[i][kk * a_step] * b[kk * b_row + j * lanes ...]`` for kk < k.

    Args:
        acc: mr rows of nv values ``<lanes x element>`` (scalars when `lanes` is 0); element float, double, or i32:
            elements of A and B are then pairs of i16, and a step adds two products.
        a_rows: mr pointers, one to the first element of each row of A.
        a_step: elements from one kk to the next in A (1 for rows in place, mr for a packed panel).
        b: pointer to the first row of B; a row's nv vectors lie next to each other. Or several pointers to
            panels that share the nv vectors evenly.
        b_row: elements from one row of B to the next.
        k: how many products to add, i64 (constant or run-time, may be 0).
        unroll: steps in a loop iteration where k is constant (the remainder follows the loop).
        last_mask: lanes of each panel's last vector that may be read (the others count as zero), for a B that
            ends there; None reads all, which a zero-padded packed B allows.

    Returns:
        The new tile. The order of additions is the order of kk, whatever the unrolling.
    """
    element = acc[0][0].element
    width = max(lanes, 1)
    type_ = vector_of(element, lanes)
    mr, nv = len(acc), len(acc[0])
    a_step_v = fb.i64(a_step) if isinstance(a_step, int) else a_step
    b_row_v = fb.i64(b_row) if isinstance(b_row, int) else b_row

    panels = [b] if isinstance(b, V) else list(b)
    each = nv // len(panels)

    def step(tile: Tile, rows: Sequence[V], b_at: Sequence[V]) -> Tile:
        vectors = []
        for panel in b_at:
            for j in range(each):
                address = fb.gep(element, panel, fb.i64(j * width))
                if last_mask is not None and j == each - 1:
                    vectors.append(fb.masked_load(type_, address, last_mask))
                else:
                    vectors.append(fb.load(type_, address))
        result = []
        for i in range(mr):
            scalar = fb.splat(fb.load(element, rows[i]), lanes)
            result.append([_multiplied(fb, scalar, vectors[j], tile[i][j]) for j in range(nv)])
        return result

    def steps(tile: Tile, index: V, count: int) -> Tile:
        rows = [fb.gep(element, row, fb.mul(index, a_step_v)) for row in a_rows]
        offset = fb.mul(index, b_row_v)
        b_at = [fb.gep(element, panel, offset) for panel in panels]
        for u in range(count):
            at = [fb.gep(element, row, fb.mul(fb.i64(u), a_step_v)) for row in rows]
            tile = step(tile, at, [fb.gep(element, panel, fb.mul(fb.i64(u), b_row_v)) for panel in b_at])
        return tile

    def looped(tile: Tile, start: V, stop: V, count: int) -> Tile:
        with fb.loop(start, stop, count, carried=[v for row in tile for v in row], hint="k") as loop:
            inner = [loop.carried[i * nv : (i + 1) * nv] for i in range(mr)]
            loop.carry(*(v for row in steps(inner, loop.index, count) for v in row))
        return [loop.results[i * nv : (i + 1) * nv] for i in range(mr)]

    known = int(k.ref) if k.ref.isdigit() else None
    if known is not None:
        main = known - known % unroll
        if main > unroll:
            acc = looped(acc, fb.i64(0), fb.i64(main), unroll)
        elif main:
            acc = steps(acc, fb.i64(0), unroll)
        return steps(acc, fb.i64(main), known - main) if known > main else acc
    # A second, unrolled loop gains nothing measurable and doubles the time to compile the tile.
    return looped(acc, fb.i64(0), k, 1)


def accumulate_in_blocks(
    fb: FunctionBuilder, a_rows: Sequence[V], a_step: V | int, b: Sequence[V], b_row: V | int, k: V, nv: int,
    *, element: str, lanes: int, last_mask: V | None = None,
) -> Tile:  # fmt: skip
    """The tile A·B, arguments as `accumulate`; a long k goes in blocks that are summed apart, which is more exact."""
    mr = len(a_rows)
    zero = zero_tile(fb, element, mr, nv, lanes)
    extent = known(k)
    if (extent is not None and extent <= LONGEST_SUM) or element == "i32":
        return accumulate(fb, zero, a_rows, a_step, b, b_row, k, lanes=lanes, last_mask=last_mask)
    block = LONGEST_SUM // 2
    a_step_v, b_row_v = (fb.i64(s) if isinstance(s, int) else s for s in (a_step, b_row))

    def part(first: V, count: V, total: Sequence[V]) -> list[V]:
        rows = [fb.gep(element, row, fb.mul(first, a_step_v)) for row in a_rows]
        panels = [fb.gep(element, panel, fb.mul(first, b_row_v)) for panel in b]
        tile = accumulate(fb, zero, rows, a_step_v, panels, b_row_v, count, lanes=lanes, last_mask=last_mask)
        return [fb.binary("fadd", t, v) for t, v in zip(total, (v for row in tile for v in row), strict=True)]

    # The last block is the loop's too unless its length is known: code is emitted once.
    start = [v for row in zero for v in row]
    whole = fb.i64(extent - extent % block) if extent is not None else k
    with fb.loop(fb.i64(0), whole, block, carried=start, hint="sums") as loop:
        count = fb.i64(block) if extent is not None else fb.smin(fb.sub(k, loop.index), fb.i64(block))
        loop.carry(*part(loop.index, count, loop.carried))
    total = list(loop.results)
    if extent is not None and extent % block:
        total = part(whole, fb.i64(extent % block), total)
    return [total[i * nv : (i + 1) * nv] for i in range(mr)]


def _multiplied(fb: FunctionBuilder, a: V, b: V, total: V) -> V:
    """``a * b + total``; an i32 is a pair of i16 whose two products are added."""
    if a.element != "i32":
        # fmuladd, not fma: a target without the instruction must not call fmaf lane by lane.
        return fb.intrinsic("fmuladd", a, b, total)
    narrow = vector_of("i16", 2 * a.lanes)
    x, y = (fb.cast("bitcast", v, narrow) for v in (a, b))
    if fb.module.x86 and a.lanes in _MULTIPLY_ADD:  # with VNNI it becomes vpdpwssd, together with the addition
        name = fb.module.declare(_MULTIPLY_ADD[a.lanes], total.type, [narrow, narrow])
        return fb.binary("add", total, fb.call(name, total.type, x, y))
    wide = vector_of("i32", 2 * a.lanes)
    products = fb.binary("mul", fb.cast("sext", x, wide), fb.cast("sext", y, wide))
    even, odd = (fb.shuffle(products, products, range(i, 2 * a.lanes, 2)) for i in (0, 1))
    return fb.binary("add", total, fb.binary("add", even, odd))


def split_rows(count: int, mr: int) -> list[tuple[int, int]]:
    """Cover `count` rows by tiles of at most `mr`: (height, how many) pairs, in order.

    A short last tile wastes the FMA units (2 rows have 4 chains, and 8 are needed), so the last full tile and the
    rest are halved: 128 rows of 6 are 20 tiles of 6 and 2 of 4, not 21 of 6 and one of 2.
    """
    full, rest = divmod(count, mr)
    if not rest:
        return [(mr, full)] if full else []
    if not full or 2 * rest > mr:
        return [(mr, full), (rest, 1)] if full else [(rest, 1)]
    high = (mr + rest + 1) // 2
    low = mr + rest - high
    heads = [(mr, full - 1)] if full > 1 else []
    return [*heads, (high, 2)] if high == low else [*heads, (high, 1), (low, 1)]


def for_row_tiles(fb: FunctionBuilder, count: V, mr: int, body: Callable[[V, int], None]) -> None:
    """Emit ``body(first_row, rows)`` for tiles that cover rows 0 ... count-1, each row once.

    `rows` is a Python int: the body is emitted once for each height. A constant count gets exact heights
    (`split_rows`); a run-time count a loop of `mr` rows, then tails of falling powers of two.
    """
    if count.ref.isdigit():
        first = 0
        for height, times in split_rows(int(count.ref), mr):
            if times == 1:
                body(fb.i64(first), height)
            else:
                with fb.loop(fb.i64(first), fb.i64(first + height * times), height, hint="rows") as loop:
                    body(loop.index, height)
            first += height * times
        return
    rest = fb.srem(count, fb.i64(mr))
    main = fb.sub(count, rest)
    with fb.loop(fb.i64(0), main, mr, hint="rows") as loop:
        body(loop.index, mr)
    height = (1 << (mr - 1).bit_length()) >> 1
    while height:
        bit = fb.binary("and", rest, fb.i64(height))
        with fb.if_(fb.icmp("ne", bit, fb.i64(0)), hint=f"rows{height}"):
            # The rows already done: all whole tiles and the tails taller than this one.
            done = fb.binary("and", rest, fb.i64(-2 * height))
            body(fb.add(main, done), height)
        height >>= 1


def for_column_tiles(
    fb: FunctionBuilder, count: V, nv: int, lanes: int, body: Callable[[V, int, V | None], None]
) -> None:
    """Emit ``body(first_column, vectors, tail)`` for tiles that cover columns 0 ... count-1, each column once.

    `vectors` is a Python int, the body is emitted once for each; `tail` is None when all vectors are full, else the
    mask ``<lanes x i1>`` of the columns that exist in the last vector. The B panel read must be readable (and
    zero) up to the last vector's end, or read with `accumulate`'s `last_mask`.
    """
    width = nv * lanes
    if count.ref.isdigit():
        full, rest = divmod(int(count.ref), width)
        if full == 1:
            body(fb.i64(0), nv, None)
        elif full:
            with fb.loop(fb.i64(0), fb.i64(full * width), width, hint="columns") as loop:
                body(loop.index, nv, None)
        if rest:
            tail = rest % lanes
            mask = fb.lane_mask(fb.i64(tail), lanes) if tail else None
            body(fb.i64(full * width), -(-rest // lanes), mask)
        return
    rest_v = fb.srem(count, fb.i64(width))
    main = fb.sub(count, rest_v)
    with fb.loop(fb.i64(0), main, width, hint="columns") as loop:
        body(loop.index, nv, None)
    for vectors in range(1, nv + 1):
        below = fb.icmp("sgt", rest_v, fb.i64((vectors - 1) * lanes))
        above = fb.icmp("sle", rest_v, fb.i64(vectors * lanes))
        with fb.if_(fb.binary("and", below, above), hint=f"columns{vectors}"):
            left = fb.sub(rest_v, fb.i64((vectors - 1) * lanes))
            body(main, vectors, fb.lane_mask(left, lanes))
