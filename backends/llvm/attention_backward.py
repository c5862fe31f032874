"""The derivative of attention, without its matrices in memory (Dao 2023).

For a block of keys and a block of queries the weights P and the scores' cotangents dS are computed again from two
products, S = Q·Kᵀ and dP = dO·Vᵀ, and stay in the second-level cache; three more add to the gradients:
dQ += dS·K in the result's buffer, dK += dSᵀ·Q and dV += Pᵀ·dO in scratch until the block of keys is done.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, known, vector_of
from ds_compiler.backends.llvm.operands import Matrix, each_unit
from ds_compiler.backends.llvm.packing import emit_pack_b
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import accumulate, for_column_tiles, for_row_tiles, tile_shape, zero_tile

Row = Callable[[V], AbstractContextManager[None]]
"""``with row(i):`` emits what `Elements` needs of query i alone."""

Elements = Callable[[V, V | None, V, V], tuple[V, V]]
"""``(column, mask, s, dp) -> (p, ds)``, vectors at keys `column` ... of the current query; with `mask` only its true
lanes exist."""

_QUERIES = 72  # at most this many in a block
_KEYS = 80


@dataclass(frozen=True)
class BackwardPlan:
    """Tile and block sizes, and where things are in scratch (in elements)."""

    element: str
    mr: int
    nv: int
    lanes: int
    head_dim: int
    v_dim: int
    queries: int
    keys: int

    @staticmethod
    def of(
        target: Target, head_dim: int, v_dim: int, q_len: int | None, kv_len: int | None, element: str
    ) -> BackwardPlan:
        """Blocks for lengths that are known, or not (None)."""
        mr, nv = tile_shape(target, None, element)
        lanes = target.lanes(element)
        queries = _block(q_len, _QUERIES, mr)
        keys = _round_up(_block(kv_len, _KEYS, nv * lanes), nv * lanes)
        return BackwardPlan(element, mr, nv, lanes, head_dim, v_dim, queries, keys)

    @property
    def nr(self) -> int:
        return self.nv * self.lanes

    @property
    def score_row(self) -> int:
        return self.keys + 16

    def row(self, dim: int) -> int:
        """Elements of a row of a gradient in scratch."""
        return _round_up(dim, self.nr)

    def transposed_panel(self, dim: int) -> int:
        return _round_up(dim, self.lanes) * self.nr

    def parts(self) -> list[int]:
        """Elements of Kᵀ, Vᵀ, K, Q, dO in panels, P, dS, dK, dV."""
        panels = self.keys // self.nr
        wide, v_wide = self.row(self.head_dim), self.row(self.v_dim)
        queries, keys = _round_up(self.queries, self.lanes), self.keys
        transposed = [panels * self.transposed_panel(d) for d in (self.head_dim, self.v_dim)]
        matrices = [self.queries * self.score_row] * 2
        sizes = [*transposed, keys * wide, queries * wide, queries * v_wide, *matrices, keys * wide, keys * v_wide]
        return [_round_up(size, 16) for size in sizes]

    @property
    def scratch_bytes(self) -> int:
        """Private scratch, 64-byte aligned, that each task needs."""
        return sum(self.parts()) * bytes_of(self.element)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _block(length: int | None, most: int, step: int) -> int:
    """Up to `most`, so that `length` is cut into even blocks; a multiple of `step` unless they are equal."""
    most = max(most // step, 1) * step
    if not length:
        return most
    blocks = -(-length // most)
    return length // blocks if length % blocks == 0 else min(_round_up(-(-length // blocks), step), most)


@dataclass(frozen=True)
class BackwardOperands:
    """Q, K, V and the result's cotangent; the gradients, whose rows are contiguous."""

    q: Matrix
    k: Matrix
    v: Matrix
    grad: Matrix
    dq: Matrix
    dk: Matrix
    dv: Matrix


def emit_attention_backward(
    fb: FunctionBuilder,
    plan: BackwardPlan,
    operands: BackwardOperands,
    *,
    batch_heads: V,
    q_len: V,
    kv_len: V,
    entry: Callable[[V], None],
    row: Row,
    elements: Elements,
    causal: bool,
    task: V,
    tasks: V,
    scratch: V,
) -> None:
    """Emit this task's share of the gradients of attention over `batch_heads` independent entries.

    Args:
        q_len, kv_len: i64, constant or run-time, may be 0.
        entry: called at the beginning of an entry, whose index it gets.
        row, elements: the weights and the scores' cotangents, see `Row` and `Elements`.
        causal: the weights of keys behind the query are 0: they are skipped.
        task, tasks, scratch: as `matmul.emit_matmul`, scratch of ``plan.scratch_bytes``.

    Every element's value is independent of `tasks`.
    """
    emitter = _Backward(fb, plan, operands, q_len, kv_len, row, elements, causal, scratch)

    def unit(index: V, _: V, __: V) -> None:
        entry(index)
        emitter.entry(index)

    each_unit(fb, batch_heads, (fb.i64(1), fb.i64(1)), task, tasks, unit)


class _Backward:
    def __init__(
        self,
        fb: FunctionBuilder,
        plan: BackwardPlan,
        operands: BackwardOperands,
        q_len: V,
        kv_len: V,
        row: Row,
        elements: Elements,
        causal: bool,
        scratch: V,
    ) -> None:
        self.fb, self.p, self.operands, self.q_len, self.kv_len = fb, plan, operands, q_len, kv_len
        self.row, self.elements, self.causal = row, elements, causal
        self.element = plan.element
        self.type = vector_of(plan.element, plan.lanes)
        parts = plan.parts()
        offsets = [sum(parts[:i]) for i in range(len(parts))]
        (
            self.kt,
            self.vt,
            self.k_packed,
            self.q_packed,
            self.grad_packed,
            self.weights,
            self.cotangents,
            self.dk,
            self.dv,
        ) = (self._at(scratch, fb.i64(offset)) for offset in offsets)

    def _at(self, base: V, *offsets: V) -> V:
        for offset in offsets:
            base = self.fb.gep(self.element, base, offset)
        return base

    def entry(self, index: V) -> None:
        """All gradients of one entry."""
        fb, p = self.fb, self.p
        o = self.operands
        (self.q, self.k, self.v, self.grad, self.dq, dk, dv) = (
            m.at(fb, self.element, index) for m in (o.q, o.k, o.v, o.grad, o.dq, o.dk, o.dv)
        )
        if known(self.kv_len) in (None, 0):
            with fb.if_(fb.icmp("eq", self.kv_len, fb.i64(0)), hint="no.keys"):
                self._store_block(None, 0, self.dq, o.dq.row, self.q_len, p.head_dim)
        with fb.loop(fb.i64(0), self.kv_len, p.keys, hint="keys") as block:
            self.key0 = block.index
            self.keys = _count(fb, self.kv_len, block.index, p.keys)
            self._clear(self.dk, p.row(p.head_dim))
            self._clear(self.dv, p.row(p.v_dim))
            self._pack_keys()
            # With causal masks, rows in front of the block's first key see none of its keys.
            first = fb.mul(fb.sdiv(self.key0, fb.i64(p.queries)), fb.i64(p.queries)) if self.causal else fb.i64(0)
            with fb.loop(first, self.q_len, p.queries, hint="queries") as rows:
                self._queries(rows.index)
            self._store_block(
                self.dk, p.row(p.head_dim), self._at(dk, fb.mul(self.key0, o.dk.row)), o.dk.row, self.keys, p.head_dim
            )
            self._store_block(
                self.dv, p.row(p.v_dim), self._at(dv, fb.mul(self.key0, o.dv.row)), o.dv.row, self.keys, p.v_dim
            )

    # -- blocks -------------------------------------------------------------------------------
    def _clear(self, block: V, row: int) -> None:
        with self.fb.loop(self.fb.i64(0), self.fb.mul(self.keys, self.fb.i64(row)), self.p.lanes, hint="clear") as at:
            self.fb.store(self.fb.const(self.type, 0.0), self._at(block, at.index))

    def _store_block(self, source: V | None, source_row: int, to: V, to_row: V, rows: V, dim: int) -> None:
        """Copy rows of scratch (zeros for None) to a result."""
        fb, p = self.fb, self.p

        def value(at: V | None, column: V) -> V:
            return fb.const(self.type, 0.0) if at is None else fb.load(self.type, self._at(at, column))

        rest = dim % p.lanes
        with fb.loop(fb.i64(0), rows, hint="store") as row:
            at = None if source is None else self._at(source, fb.mul(row.index, fb.i64(source_row)))
            target = self._at(to, fb.mul(row.index, to_row))
            with fb.loop(fb.i64(0), fb.i64(dim - rest), p.lanes, hint="store.columns") as column:
                fb.store(value(at, column.index), self._at(target, column.index))
            if rest:
                tail = fb.i64(dim - rest)
                fb.masked_store(value(at, tail), self._at(target, tail), fb.lane_mask(fb.i64(rest), p.lanes))

    def _pack_keys(self) -> None:
        """The block's K and V transposed, and K, in panels."""
        o, p = self.operands, self.p
        k = self._at(self.k, self.fb.mul(self.key0, o.k.row))
        v = self._at(self.v, self.fb.mul(self.key0, o.v.row))
        self._pack(self.kt, k, o.k.col, o.k.row, self.fb.i64(p.head_dim), self.keys, p.transposed_panel(p.head_dim))
        self._pack(self.vt, v, o.v.col, o.v.row, self.fb.i64(p.v_dim), self.keys, p.transposed_panel(p.v_dim))
        self._pack(self.k_packed, k, o.k.row, o.k.col, self.keys, self.fb.i64(p.head_dim), p.keys * p.nr)

    def _pack(self, to: V, source: V, row: V, column: V, depth: V, width: V, panel: int) -> None:
        p, fb = self.p, self.fb
        emit_pack_b(fb, self.element, p.lanes, p.nv, to, source, row, column, depth, width, fb.i64(panel))

    def _queries(self, row0: V) -> None:
        """What a block of queries adds to the gradients."""
        fb, p, o = self.fb, self.p, self.operands
        self.row0, self.rows = row0, _count(fb, self.q_len, row0, p.queries)
        self.q_rows = self._at(self.q, fb.mul(row0, o.q.row))
        self.grad_rows = self._at(self.grad, fb.mul(row0, o.grad.row))
        padded = _round_up(p.queries, p.lanes)
        self._pack(self.q_packed, self.q_rows, o.q.row, o.q.col, self.rows, fb.i64(p.head_dim), padded * p.nr)
        self._pack(self.grad_packed, self.grad_rows, o.grad.row, o.grad.col, self.rows, fb.i64(p.v_dim), padded * p.nr)
        for_row_tiles(fb, self.rows, p.mr, self._query_tile)
        for_row_tiles(fb, self.keys, p.mr, self._key_tile)

    # -- tiles --------------------------------------------------------------------------------
    def _query_tile(self, row: V, height: int) -> None:
        """P and dS of `height` queries from `row` of the block on, and what they add to dQ."""
        fb, p = self.fb, self.p
        if not self.causal:
            self._weights(row, height, self.keys)
            self._add_to_dq(row, height, self.keys)
            return
        end = fb.sub(fb.add(fb.add(self.row0, row), fb.i64(height)), self.key0)  # of the keys that the tile sees
        with fb.if_(fb.icmp("sgt", end, fb.i64(0)), hint="visible"):
            # A tile of keys that begins at the last query reads weights of keys behind it: they must be there, as 0.
            vectors = fb.sdiv(fb.add(end, fb.i64(p.mr + p.lanes - 1)), fb.i64(p.lanes))
            self._weights(row, height, fb.smin(self.keys, fb.mul(vectors, fb.i64(p.lanes))))
            self._add_to_dq(row, height, fb.smin(self.keys, end))

    def _weights(self, row: V, height: int, keys: V) -> None:
        """P and dS of the first `keys` keys; what is behind them up to a whole panel holds anything."""
        fb, p, o = self.fb, self.p, self.operands
        first = fb.mul(row, fb.i64(p.score_row))
        products = [
            (self.weights, self.q_rows, o.q, self.kt, p.head_dim),
            (self.cotangents, self.grad_rows, o.grad, self.vt, p.v_dim),
        ]
        with fb.loop(fb.i64(0), keys, p.nr, hint="scores") as column:
            panel = fb.sdiv(column.index, fb.i64(p.nr))
            for to, rows, matrix, packed, depth in products:
                b = self._at(packed, fb.mul(panel, fb.i64(p.transposed_panel(depth))))
                a = [self._at(rows, fb.mul(fb.add(row, fb.i64(i)), matrix.row)) for i in range(height)]
                acc = zero_tile(fb, self.element, height, p.nv, p.lanes)
                acc = accumulate(fb, acc, a, matrix.col, b, p.nr, fb.i64(depth), lanes=p.lanes)
                at = self._at(to, first, column.index)
                for i, values in enumerate(acc):
                    for j, value in enumerate(values):
                        fb.store(value, self._at(at, fb.i64(i * p.score_row + j * p.lanes)))
        rest = fb.srem(self.keys, fb.i64(p.lanes))
        if rest.ref != "0":
            rest = fb.srem(keys, fb.i64(p.lanes))
        main = fb.sub(keys, rest)
        with fb.loop(fb.i64(0), fb.i64(height), hint="row") as line:
            own = fb.add(row, line.index)
            offset = fb.mul(own, fb.i64(p.score_row))
            s_at, dp_at = self._at(self.weights, offset), self._at(self.cotangents, offset)

            def vector(column: V, mask: V | None, s_at: V = s_at, dp_at: V = dp_at) -> None:
                at = [self._at(base, column) for base in (s_at, dp_at)]
                s, dp = (fb.load(self.type, address) for address in at)
                for value, address in zip(self.elements(fb.add(self.key0, column), mask, s, dp), at, strict=True):
                    fb.store(value, address)

            with self.row(fb.add(self.row0, own)):
                with fb.loop(fb.i64(0), main, p.lanes, hint="elements") as column:
                    vector(column.index, None)
                if known(rest) is None:
                    with fb.if_(fb.icmp("ne", rest, fb.i64(0)), hint="tail"):
                        vector(main, fb.lane_mask(rest, p.lanes))
                elif known(rest):
                    vector(main, fb.lane_mask(rest, p.lanes))

    def _add_to_dq(self, row: V, height: int, keys: V) -> None:
        """dQ += dS·K; the first block of keys, which every query sees, stores."""
        fb, p, o = self.fb, self.p, self.operands
        rows = [self._at(self.cotangents, fb.mul(fb.add(row, fb.i64(i)), fb.i64(p.score_row))) for i in range(height)]
        to = [self._at(self.dq, fb.mul(fb.add(fb.add(self.row0, row), fb.i64(i)), o.dq.row)) for i in range(height)]
        begins = fb.icmp("eq", self.key0, fb.i64(0))
        zero = fb.const(self.type, 0.0)

        def tile(column: V, vectors: int, tail: V | None) -> None:
            spots = [[self._at(t, column, fb.i64(j * p.lanes)) for j in range(vectors)] for t in to]
            masks = [tail if j == vectors - 1 else None for j in range(vectors)]

            def old(spot: V, mask: V | None) -> V:
                value = fb.load(self.type, spot) if mask is None else fb.masked_load(self.type, spot, mask)
                return fb.select(begins, zero, value)

            acc = [[old(s, m) for s, m in zip(line, masks, strict=True)] for line in spots]
            b = self._at(self.k_packed, fb.mul(fb.sdiv(column, fb.i64(p.nr)), fb.i64(p.keys * p.nr)))
            acc = accumulate(fb, acc, rows, 1, b, p.nr, keys, lanes=p.lanes)
            for line, values in zip(spots, acc, strict=True):
                for spot, value, mask in zip(line, values, masks, strict=True):
                    if mask is None:
                        fb.store(value, spot)
                    else:
                        fb.masked_store(value, spot, mask)

        for_column_tiles(fb, fb.i64(p.head_dim), p.nv, p.lanes, tile)

    def _key_tile(self, key: V, height: int) -> None:
        """What the block of queries adds to dV and dK of `height` keys from `key` of the block on."""
        fb, p = self.fb, self.p
        first, rows = fb.i64(0), self.rows
        if self.causal:  # only queries from the first of these keys on see any of them
            first = fb.smin(fb.smax(fb.sub(fb.add(self.key0, key), self.row0), first), rows)
            rows = fb.sub(rows, first)
        skipped = fb.mul(first, fb.i64(p.score_row))
        padded = _round_up(p.queries, p.lanes)
        products = [
            (self.dv, self.weights, self.grad_packed, p.v_dim),
            (self.dk, self.cotangents, self.q_packed, p.head_dim),
        ]
        for to, matrix, packed, dim in products:
            a = [self._at(matrix, skipped, key, fb.i64(i)) for i in range(height)]
            base = self._at(to, fb.mul(key, fb.i64(p.row(dim))))
            source = self._at(packed, fb.mul(first, fb.i64(p.nr)))

            def tile(
                column: V, vectors: int, _: V | None, a: list[V] = a, base: V = base, source: V = source, dim: int = dim
            ) -> None:
                spots = [
                    [self._at(base, column, fb.i64(i * p.row(dim) + j * p.lanes)) for j in range(vectors)]
                    for i in range(height)
                ]
                acc = [[fb.load(self.type, spot) for spot in line] for line in spots]
                b = self._at(source, fb.mul(fb.sdiv(column, fb.i64(p.nr)), fb.i64(padded * p.nr)))
                acc = accumulate(fb, acc, a, p.score_row, b, p.nr, rows, lanes=p.lanes)
                for line, values in zip(spots, acc, strict=True):
                    for spot, value in zip(line, values, strict=True):
                        fb.store(value, spot)

            for_column_tiles(fb, fb.i64(dim), p.nv, p.lanes, tile)


def _count(fb: FunctionBuilder, length: V, start: V, block: int) -> V:
    """Items of the block at `start`; a constant where all blocks are full."""
    size = known(length)
    if size is not None and (size <= block or size % block == 0):
        return fb.i64(min(size, block))
    return fb.smin(fb.sub(length, start), fb.i64(block))
