"""Attention, softmax(Q·Kᵀ * scale + bias)·V, without the score matrix in memory.

For a register tile of query rows and a block of keys, scores, softmax and the product with V follow each
other while the scores (a few rows x a block of keys) are in the first-level cache. Blocks of keys
are joined by the online softmax (Milakov and Gimelshein, 2018): each row keeps its largest score so far and the sum of
exponentials, and rescales its output when the maximum moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, known, vector_of
from ds_compiler.backends.llvm.gemm_schedule import RowSegment, Schedule, choose_schedule, row_segments
from ds_compiler.backends.llvm.math_exp import exp_nonpositive
from ds_compiler.backends.llvm.matvec import emit_few_rows
from ds_compiler.backends.llvm.operands import Epilogue, Matrix, each_unit, share
from ds_compiler.backends.llvm.packing import emit_pack_b
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import accumulate, tile_shape, zero_tile

Bias = Callable[[FunctionBuilder, V, V, V, int, V | None, V], V]
"""``(fb, batch-head, row, column, lanes, mask, scores) -> scores``: add a bias or mask to scaled scores.

`scores` are those of query `row` and keys `column` ... `column` + lanes - 1; with `mask` only its true lanes exist and
may be loaded. -inf excludes a key.
"""

RowSums = Callable[[FunctionBuilder, V, V, V, V], None]
"""``(fb, batch-head, row, maximum, sum)``: a row's largest score and the sum of exponentials against it."""

_INF = float("inf")
_ROWS = 384  # query rows that share a packed block of keys
_FEW = 3  # up to this many queries, packing the keys costs more than it saves


@dataclass(frozen=True)
class _Plan:
    """Tile and block sizes, and where things are in scratch (in elements)."""

    element: str
    mr: int
    nv: int
    lanes: int
    head_dim: int
    v_dim: int
    keys: int  # keys in a block

    @property
    def nr(self) -> int:
        return self.nv * self.lanes

    @property
    def score_row(self) -> int:
        return self.keys + 16

    @property
    def rows(self) -> int:
        """Query rows in a block, whole tiles."""
        return self.tiles * self.mr

    @property
    def tiles(self) -> int:
        return _ROWS // self.mr

    @property
    def k_panel(self) -> int:
        return _round_up(self.head_dim, self.lanes) * self.nr

    @property
    def v_panel(self) -> int:
        return self.keys * self.nr

    @property
    def out_row(self) -> int:
        return _round_up(self.v_dim, self.nr)

    def parts(self) -> list[int]:
        """Elements of packed K, packed V, scores, outputs, maxima, sums, rescaling factors."""
        k = self.keys // self.nr * self.k_panel
        v = self.out_row // self.nr * self.v_panel
        sizes = [k, v, self.mr * self.score_row, self.rows * self.out_row, self.rows, self.rows, self.mr]
        return [_round_up(size, 16) for size in sizes]


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _plan(target: Target, head_dim: int, v_dim: int, element: str) -> _Plan:
    mr, nv = tile_shape(target, None, element)
    lanes, size = target.lanes(element), bytes_of(element)
    nr = nv * lanes
    # K and V of a block take half of the second-level cache; a tile's scores a third of the first-level one.
    most = min(target.l2_bytes // 2 // (max(head_dim + v_dim, 1) * size), target.l1_bytes // 3 // (mr * size), 512)
    return _Plan(element, mr, nv, lanes, head_dim, v_dim, max(nr, most // nr * nr))


def attention_scratch_bytes(target: Target, head_dim: int, v_dim: int, element: str = "float") -> int:
    """Bytes of private scratch, 64-byte aligned, that each task of `emit_attention` needs, for any lengths."""
    return sum(_plan(target, head_dim, v_dim, element).parts()) * bytes_of(element)


def emit_attention(
    fb: FunctionBuilder,
    target: Target,
    *,
    batch_heads: V,
    q_len: V,
    kv_len: V,
    head_dim: int,
    v_dim: int,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    scale: float,
    bias: Bias | None,
    task: V,
    tasks: V,
    scratch: V,
    store: Epilogue,
    element: str = "float",
    nan_rows_are_zero: bool = False,
    hidden_rows_are_zero: bool = False,
    causal: bool = False,
    store_sums: RowSums | None = None,
) -> None:
    """Emit this task's share of attention over `batch_heads` independent entries.

    Args:
        q_len, kv_len: i64, constant or run-time, may be 0.
        head_dim, v_dim: width of Q and K, and of V and the output.
        q, k, v: q_len x head_dim, kv_len x head_dim, kv_len x v_dim; any strides, so [batch, seq, heads, dim] is
            read in place (`Matrix.batch` may be a callback).
        scale: factor of Q·Kᵀ.
        bias: see `Bias`; None adds nothing.
        task, tasks, scratch: as `matmul.emit_matmul`, scratch of `attention_scratch_bytes`.
        store: receives the output rows; see `operands.Epilogue`.
        nan_rows_are_zero: whether the weights of a row whose every score is -inf, or with a score that is NaN or
            +inf, are taken as 0 rather than the NaN that softmax gives.
        hidden_rows_are_zero: the same, only of a row whose every score is -inf.
        causal: `bias` excludes keys behind the query: they are skipped.
        store_sums: receives each row's largest score and sum of exponentials.

    Every element's value is independent of `tasks`. With kv_len 0 the output is 0, the empty sum.
    """
    plan = _plan(target, head_dim, v_dim, element)
    few = choose_schedule(target, element, 1, None, None, b_layout="rows", scratch=False)
    emitter = _Attention(fb, plan, few, q_len, kv_len, (q, k, v), scale, bias, scratch, store, nan_rows_are_zero)
    emitter.hidden_rows_are_zero, emitter.causal, emitter.store_sums = hidden_rows_are_zero, causal, store_sums
    emitter.emit(batch_heads, task, tasks)


class _Attention:
    def __init__(
        self,
        fb: FunctionBuilder,
        plan: _Plan,
        few_schedule: Schedule,
        q_len: V,
        kv_len: V,
        operands: tuple[Matrix, Matrix, Matrix],
        scale: float,
        bias: Bias | None,
        scratch: V,
        store: Epilogue,
        nan_rows_are_zero: bool,
    ) -> None:
        self.fb, self.p, self.few_schedule, self.q_len, self.kv_len = fb, plan, few_schedule, q_len, kv_len
        self.q, self.k, self.v = operands
        self.scale, self.bias, self.store_rows = scale, bias, store
        self.nan_rows_are_zero = nan_rows_are_zero
        self.hidden_rows_are_zero = self.causal = False
        self.store_sums: RowSums | None = None
        self.element = plan.element
        self.type = vector_of(plan.element, plan.lanes)
        self.segments, self.tiles = row_segments(fb, q_len, plan.mr)
        offsets = [sum(plan.parts()[:i]) for i in range(7)]
        (self.k_packed, self.v_packed, self.scores, self.out, self.maxima, self.sums, self.factors) = (
            fb.gep(self.element, scratch, fb.i64(offset)) for offset in offsets
        )

    def emit(self, batch_heads: V, task: V, tasks: V) -> None:
        """Choose between packing keys for tiles of queries and reading keys in place for a few queries."""
        fb, few = self.fb, self.fb.i64(_FEW)
        count = known(self.q_len)
        if "strided" in (self.k.layout, self.v.layout) or (count is not None and count > _FEW):
            self._units(batch_heads, task, tasks, self.tiles, self.p.tiles, self._queries)
        elif count is not None:
            self._units(batch_heads, task, tasks, self.q_len, _FEW, self._few_queries)
        else:
            branch = fb.if_else(fb.icmp("sle", self.q_len, few))
            with branch.then():
                self._units(batch_heads, task, tasks, self.q_len, _FEW, self._few_queries)
            with branch.otherwise():
                self._units(batch_heads, task, tasks, self.tiles, self.p.tiles, self._queries)
            branch.results()

    def _units(self, batch_heads: V, task: V, tasks: V, count: V, step: int, body: Callable[[V, V], None]) -> None:
        """``body(first, last)`` for this task's share of `count` rows or tiles of each entry, `step` at a time."""
        fb, one = self.fb, self.fb.i64(1)
        parts = one
        if known(tasks) != 1:
            even = fb.icmp("eq", fb.srem(batch_heads, tasks), fb.i64(0))
            many = fb.icmp("sge", batch_heads, fb.mul(tasks, fb.i64(16)))
            parts = fb.select(fb.binary("or", even, many), one, tasks)

        def unit(index: V, row_part: V, _: V) -> None:
            self.index = index
            self.q_base, self.k_base, self.v_base = (x.at(fb, self.element, index) for x in (self.q, self.k, self.v))
            first, last = share(fb, count, row_part, parts)
            with fb.loop(first, last, step, hint="queries") as block:
                body(block.index, fb.smin(fb.add(block.index, fb.i64(step)), last))

        each_unit(fb, batch_heads, (parts, one), task, tasks, unit)

    # -- blocks -------------------------------------------------------------------------------
    def _queries(self, tile0: V, tile1: V) -> None:
        """All keys for the query tiles tile0 ... tile1 - 1, then their output."""
        fb, p = self.fb, self.p
        row0, row1 = self._first_row(tile0), self._first_row(tile1)
        self._reset(fb.mul(fb.sub(tile1, tile0), fb.i64(p.mr)))
        with self._key_blocks(fb.smin(self.kv_len, row1) if self.causal else self.kv_len):
            self._pack()
            with fb.loop(tile0, tile1, hint="tile") as tile:
                row = self._first_row(tile.index)
                end = self._first_row(fb.add(tile.index, fb.i64(1)))
                with self._visible_keys(end):
                    self._by_height(tile.index, lambda segment: self._scores(segment, row))
                    with fb.loop(fb.i64(0), fb.sub(end, row), hint="softmax") as i:
                        self._softmax(fb.add(row, i.index), fb.sub(fb.add(row, i.index), row0), i.index)
                    self._by_height(tile.index, lambda segment: self._weigh(segment, fb.sub(row, row0)))
        with fb.loop(row0, fb.smin(row1, self.q_len), hint="output") as row_loop:
            self._output(row_loop.index, fb.sub(row_loop.index, row0))

    def _few_queries(self, row0: V, row1: V) -> None:
        """All keys for the queries row0 ... row1 - 1: K and V are read where they are."""
        fb, p, one, zero = self.fb, self.p, self.fb.i64(1), self.fb.i64(0)
        self._reset(fb.sub(row1, row0))
        with self._key_blocks(self.kv_len), fb.loop(row0, row1, hint="query") as row_loop:
            slot = fb.sub(row_loop.index, row0)
            query = Matrix(fb.gep(self.element, self.q_base, fb.mul(row_loop.index, self.q.row)), one, self.q.col)
            keys = fb.gep(self.element, self.k_base, fb.mul(self.key0, self.k.row))
            values = fb.gep(self.element, self.v_base, fb.mul(self.key0, self.v.row))

            def product(n: V, k: V, a: Matrix, b: Matrix, epilogue: Epilogue) -> None:
                emit_few_rows(fb, self.few_schedule, one, one, n, k, a, b, zero, one, epilogue)

            head_dim, v_dim = fb.i64(p.head_dim), fb.i64(p.v_dim)
            product(self.keys, head_dim, query, Matrix(keys, self.k.col, self.k.row), self._put_scores)
            self._softmax(row_loop.index, slot, zero)
            factor = fb.splat(fb.load(self.element, self.factors), p.lanes)
            out = fb.gep(self.element, self.out, fb.mul(slot, fb.i64(p.out_row)))

            def add(fb: FunctionBuilder, _: V, __: V, column: V, lanes: int, mask: V | None, value: V) -> None:
                at = fb.gep(self.element, out, column)  # lanes past v_dim exist in scratch
                fb.store(fb.intrinsic("fmuladd", fb.load(self.type, at), factor, value), at)

            weights = Matrix(self.scores, one, one)
            product(v_dim, self.keys, weights, Matrix(values, self.v.row, self.v.col), add)
        with fb.loop(row0, row1, hint="output") as row_loop:
            self._output(row_loop.index, fb.sub(row_loop.index, row0))

    def _put_scores(self, fb: FunctionBuilder, _: V, row: V, column: V, lanes: int, mask: V | None, value: V) -> None:
        fb.store(value, fb.gep(self.element, self.scores, column))  # lanes past the last key exist in scratch

    @contextmanager
    def _key_blocks(self, stop: V) -> Iterator[None]:
        """The loop over blocks of the keys in front of `stop`: `keys` of them from `key0`."""
        fb, p = self.fb, self.p
        with fb.loop(fb.i64(0), stop, p.keys, hint="keys") as block:
            self.key0 = block.index
            self.keys = self.visible = fb.smin(fb.sub(self.kv_len, block.index), fb.i64(p.keys))
            self.rest = fb.srem(self.keys, fb.i64(p.lanes))
            yield

    @contextmanager
    def _visible_keys(self, end: V) -> Iterator[None]:
        """The first `visible` keys of the block, with all that queries in front of row `end` read; nothing if none."""
        if not self.causal:
            yield
            return
        fb, lanes = self.fb, self.fb.i64(self.p.lanes)
        vectors = fb.sdiv(fb.add(fb.sub(end, self.key0), fb.i64(self.p.lanes - 1)), lanes)
        self.visible = fb.smin(self.keys, fb.mul(vectors, lanes))
        if self.rest.ref != "0":
            self.rest = fb.srem(self.visible, lanes)
        with fb.if_(fb.icmp("sgt", end, self.key0), hint="visible"):
            yield

    def _reset(self, slots: V) -> None:
        """No keys seen yet by the rows of the block."""
        fb, p = self.fb, self.p
        with fb.loop(fb.i64(0), slots, hint="reset") as slot:
            fb.store(fb.const(self.element, -_INF), fb.gep(self.element, self.maxima, slot.index))
            fb.store(fb.const(self.element, 0.0), fb.gep(self.element, self.sums, slot.index))
            at = fb.gep(self.element, self.out, fb.mul(slot.index, fb.i64(p.out_row)))
            with fb.loop(fb.i64(0), fb.i64(p.out_row), p.lanes, hint="reset.columns") as column:
                fb.store(fb.const(self.type, 0.0), fb.gep(self.element, at, column.index))

    def _first_row(self, tile: V) -> V:
        """The query row at which a tile starts; past the last row after the last tile."""
        fb = self.fb
        row = fb.i64(0)
        for segment in self.segments:
            inside = fb.smin(fb.smax(fb.sub(tile, segment.first), fb.i64(0)), segment.count)
            row = fb.add(row, fb.mul(inside, fb.i64(segment.height)))
        return row

    def _by_height(self, tile: V, body: Callable[[RowSegment], None]) -> None:
        """``body`` for the segment that the tile belongs to."""
        fb = self.fb
        if len(self.segments) == 1:
            body(self.segments[0])
            return
        for segment in self.segments:
            begins = fb.icmp("sge", tile, segment.first)
            ends = fb.icmp("slt", tile, fb.add(segment.first, segment.count))
            with fb.if_(fb.binary("and", begins, ends), hint=f"height{segment.height}"):
                body(segment)

    def _pack(self) -> None:
        """The block's keys, transposed, and values, in panels."""
        fb, p, k, v = self.fb, self.p, self.k, self.v
        source = fb.gep(self.element, self.k_base, fb.mul(self.key0, k.row))
        emit_pack_b(
            fb, self.element, p.lanes, p.nv, self.k_packed, source, k.col, k.row, fb.i64(p.head_dim), self.keys,
            fb.i64(p.k_panel),
        )  # fmt: skip
        source = fb.gep(self.element, self.v_base, fb.mul(self.key0, v.row))
        emit_pack_b(
            fb, self.element, p.lanes, p.nv, self.v_packed, source, v.row, v.col, self.keys, fb.i64(p.v_dim),
            fb.i64(p.v_panel),
        )  # fmt: skip

    # -- one tile of rows ---------------------------------------------------------------------
    def _scores(self, segment: RowSegment, row: V) -> None:
        """Q·Kᵀ of the tile and the block of keys; columns past the last key hold anything."""
        fb, p = self.fb, self.p
        last = fb.sub(self.q_len, fb.i64(1))
        rows = [fb.smin(fb.add(row, fb.i64(i)), last) for i in range(segment.height)]
        q_rows = [fb.gep(self.element, self.q_base, fb.mul(r, self.q.row)) for r in rows]
        with fb.loop(fb.i64(0), self.visible, p.nr, hint="scores") as column:
            panel = fb.mul(fb.sdiv(column.index, fb.i64(p.nr)), fb.i64(p.k_panel))
            acc = accumulate(
                fb,
                zero_tile(fb, self.element, segment.height, p.nv, p.lanes),
                q_rows,
                self.q.col,
                fb.gep(self.element, self.k_packed, panel),
                p.nr,
                fb.i64(p.head_dim),
                lanes=p.lanes,
            )
            at = fb.gep(self.element, self.scores, column.index)
            for i, values in enumerate(acc):
                for j, value in enumerate(values):
                    fb.store(value, fb.gep(self.element, at, fb.i64(i * p.score_row + j * p.lanes)))

    def _softmax(self, row: V, slot: V, i: V) -> None:
        """Scale and bias row i of the scores, and turn them into exponentials against the running maximum."""
        fb, p = self.fb, self.p
        at = fb.gep(self.element, self.scores, fb.mul(i, fb.i64(p.score_row)))
        query = fb.smin(row, fb.sub(self.q_len, fb.i64(1)))
        rest = self.rest
        main = fb.sub(self.visible, rest)
        scale, lowest = fb.const(self.type, self.scale), fb.const(self.type, -_INF)

        def larger(most: V, column: V, mask: V | None) -> V:
            address = fb.gep(self.element, at, column)
            score = fb.fmul(fb.load(self.type, address), scale)
            if self.bias is not None:
                score = self.bias(fb, self.index, query, fb.add(self.key0, column), p.lanes, mask, score)
            if mask is not None:
                score = fb.select(mask, score, lowest)
            fb.store(score, address)
            # One instruction, unlike maxnum; a NaN score leaves the maximum alone and returns in the exponential.
            return fb.select(fb.fcmp("ogt", score, most), score, most)

        with fb.loop(fb.i64(0), main, p.lanes, carried=[lowest], hint="max") as loop:
            loop.carry(larger(loop.carried[0], loop.index, None))
        branch = fb.if_else(fb.icmp("ne", rest, fb.i64(0)))
        with branch.then():
            branch.give(larger(loop.results[0], main, fb.lane_mask(rest, p.lanes)))
        with branch.otherwise():
            branch.give(loop.results[0])
        block_max = self._reduce("fmax", branch.results()[0])

        max_at, sum_at = (fb.gep(self.element, x, slot) for x in (self.maxima, self.sums))
        old = fb.load(self.element, max_at)
        new = fb.select(fb.fcmp("ogt", block_max, old), block_max, old)
        fb.store(new, max_at)
        # With every score -inf so far, subtract 0: exp(-inf) = 0, not exp(-inf + inf) = NaN.
        nothing = fb.fcmp("oeq", new, fb.const(self.element, -_INF))
        reference = fb.select(nothing, fb.const(self.element, 0.0), new)
        splat = fb.splat(reference, p.lanes)
        end = fb.mul(fb.sdiv(fb.add(self.visible, fb.i64(p.lanes - 1)), fb.i64(p.lanes)), fb.i64(p.lanes))
        with fb.loop(fb.i64(0), end, p.lanes, carried=[fb.const(self.type, 0.0)], hint="exp") as loop:
            address = fb.gep(self.element, at, loop.index)
            weight = exp_nonpositive(fb, fb.fsub(fb.load(self.type, address), splat))
            fb.store(weight, address)
            loop.carry(fb.fadd(loop.carried[0], weight))
        total = self._reduce("fadd", loop.results[0])
        factor = exp_nonpositive(fb, fb.fsub(old, reference))
        fb.store(factor, fb.gep(self.element, self.factors, i))
        fb.store(fb.intrinsic("fmuladd", fb.load(self.element, sum_at), factor, total), sum_at)

    def _reduce(self, kind: str, vector: V) -> V:
        """Combine the lanes pairwise, the halves first."""
        fb = self.fb
        lanes = vector.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (fb.shuffle(vector, vector, range(start, start + lanes)) for start in (0, lanes))
            vector = fb.intrinsic("maxnum", low, high) if kind == "fmax" else fb.fadd(low, high)
        return fb.extract(vector, 0)

    def _weigh(self, segment: RowSegment, slot: V) -> None:
        """out = out * factor + weights·V, one panel of V at a time."""
        fb, p = self.fb, self.p
        rows = [fb.gep(self.element, self.scores, fb.i64(i * p.score_row)) for i in range(segment.height)]
        factors = [
            fb.splat(fb.load(self.element, fb.gep(self.element, self.factors, fb.i64(i))), p.lanes)
            for i in range(segment.height)
        ]
        base = fb.gep(self.element, self.out, fb.mul(slot, fb.i64(p.out_row)))

        def panels(first: int, stop: int, nv: int) -> None:
            with fb.loop(fb.i64(first), fb.i64(stop), hint="values") as panel:
                at = fb.gep(self.element, base, fb.mul(panel.index, fb.i64(p.nr)))
                spots = [
                    [fb.gep(self.element, at, fb.i64(i * p.out_row + j * p.lanes)) for j in range(nv)]
                    for i in range(segment.height)
                ]
                acc = [
                    [fb.fmul(fb.load(self.type, spot), factor) for spot in line]
                    for line, factor in zip(spots, factors, strict=True)
                ]
                b = fb.gep(self.element, self.v_packed, fb.mul(panel.index, fb.i64(p.v_panel)))
                acc = accumulate(fb, acc, rows, 1, b, p.nr, self.visible, lanes=p.lanes)
                for line, values in zip(spots, acc, strict=True):
                    for spot, value in zip(line, values, strict=True):
                        fb.store(value, spot)

        whole, rest = divmod(p.v_dim, p.nr)
        if whole:
            panels(0, whole, p.nv)
        if rest:
            panels(whole, whole + 1, -(-rest // p.lanes))

    def _output(self, row: V, slot: V) -> None:
        """Divide a row by its sum and hand it over."""
        fb, p = self.fb, self.p
        total = fb.load(self.element, fb.gep(self.element, self.sums, slot))
        if self.store_sums is not None:
            self.store_sums(fb, self.index, row, fb.load(self.element, fb.gep(self.element, self.maxima, slot)), total)
        inverse = fb.splat(fb.fdiv(fb.const(self.element, 1.0), total), p.lanes)
        zero: V | None = None  # rows that are 0 whatever was summed up
        if self.nan_rows_are_zero:
            zero = fb.fcmp("ueq", total, fb.const(self.element, 0.0))
        elif self.hidden_rows_are_zero:
            zero = fb.fcmp("oeq", total, fb.const(self.element, 0.0))
        elif not known(self.kv_len):
            zero = fb.icmp("eq", self.kv_len, fb.i64(0))
        at = fb.gep(self.element, self.out, fb.mul(slot, fb.i64(p.out_row)))

        def vector(column: V, mask: V | None) -> None:
            value = fb.fmul(fb.load(self.type, fb.gep(self.element, at, column)), inverse)
            if zero is not None:
                value = fb.select(zero, fb.const(self.type, 0.0), value)
            self.store_rows(fb, self.index, row, column, p.lanes, mask, value)

        rest = p.v_dim % p.lanes
        with fb.loop(fb.i64(0), fb.i64(p.v_dim - rest), p.lanes, hint="output.columns") as column:
            vector(column.index, None)
        if rest:
            vector(fb.i64(p.v_dim - rest), fb.lane_mask(fb.i64(rest), p.lanes))
