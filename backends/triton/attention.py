"""Attention in one kernel, as flash attention does it: keys in blocks, the softmax corrected as larger scores come.

A program has a block of queries of one batch entry. For each block of keys it multiplies, applies the scores' function
(scale, mask, bias: loop-level code on [queries, keys] blocks), and adds to the sums; scores never reach memory.
Source: Dao, "FlashAttention-2" (arXiv:2307.08691).
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.loops.attention import AttentionParts
from ds_compiler.backends.loops.causal import hides_later_keys
from ds_compiler.backends.loops.contraction import lower_epilogue
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.body import Block, Body, Buffer
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.tile import Grid, along, power_of_two, program_index, whole
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import ceildiv, product
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Fusion, Predicate

_QUERIES, _KEYS = {2: 128, 4: 64}, 64  # by the element's size: accumulators and operands fit a multiprocessor
_LEAST = 16  # what tl.dot takes
_ROWS, _COLUMNS = frozenset([0]), frozenset([0, 1])


def emit_attention(writer: Writer, buffers: Sequence[Buffer], fusion: Fusion, *, wide: bool) -> Grid:
    """Write the body of the kernel of an ``attention`` fusion.

    Raises:
        CompileError: the region is not attention, or of an element type that tensor cores don't take.
    """
    return _Attention(writer, buffers, fusion, wide=wide).run()


class _Attention:
    def __init__(self, writer: Writer, buffers: Sequence[Buffer], fusion: Fusion, *, wide: bool) -> None:
        self.writer, self.fusion = writer, fusion
        self.parts = parts = AttentionParts.of(fusion)
        depth, width = parts.depth.extent, parts.width.extent
        self.dtype = parts.product.result.type.dtype
        if not isinstance(depth, int) or not isinstance(width, int) or self.dtype.itemsize not in _QUERIES:
            raise CompileError(f"attention of {self.dtype} heads of size {depth}, {width} has no GPU kernel")
        self.queries = _QUERIES[self.dtype.itemsize]
        if isinstance(parts.query.extent, int):
            self.queries = max(_LEAST, min(self.queries, power_of_two(parts.query.extent)))
        inner, outer = (max(_LEAST, power_of_two(n)) for n in (depth, width))
        self.inner, self.outer = inner, outer
        shapes = ((self.queries, inner), (inner, _KEYS), (self.queries, _KEYS), (_KEYS, outer), (self.queries, outer))
        self.q, self.k, self.scores, self.v, self.result = (Body(writer, buffers, s, wide=wide) for s in shapes)
        self.wide = wide

    def run(self) -> Grid:
        writer, parts = self.writer, self.parts
        batch = [a for a in parts.batch if a.extent != 1]
        entries = product(tuple(a.extent for a in batch))
        counts = [entries, ceildiv(parts.query.extent, self.queries)]
        entry, block = program_index(writer, counts, wide=self.wide)
        self.q.place(batch, Block(entry))
        for body in (self.k, self.scores, self.v, self.result):
            body.axes.update(self.q.axes)
        start = "" if block == "0" else f"{block} * {self.queries}"
        for body in (self.q, self.scores, self.result):
            along(body, 0, parts.query, start, "query")
        along(self.q, 1, parts.depth, "", "d")
        along(self.k, 0, parts.depth, "", "d")
        along(self.v, 1, parts.width, "", "d")
        for body in (self.q, self.k, self.v):
            body.narrow = True
        q = whole(self.q, parts.q)
        top = writer.assign("top", f'tl.full([{self.queries}, 1], float("-inf"), tl.float32)')
        total = writer.assign("total", f"tl.zeros([{self.queries}, 1], tl.float32)")
        out = writer.assign("acc", f"tl.zeros([{self.queries}, {self.outer}], tl.float32)")
        end = size_text(parts.key.extent)
        if hides_later_keys(parts.scores, parts.total, parts.query, parts.key):
            end = f"tl.minimum({end}, {block} * {self.queries} + {self.queries})"
        first = writer.fresh("start")
        with writer.block(f"for {first} in range(0, {end}, {_KEYS})"):
            self._step(q, first, top, total, out)
        self._finish(top, total, out, entry, block, start)
        return Grid(product(tuple(counts)), 8 if self.queries * self.outer >= 128 * 128 else 4, 2)

    def _step(self, q: str, first: str, top: str, total: str, out: str) -> None:
        """One block of keys."""
        writer, parts = self.writer, self.parts
        precision = writer.target.precision(self.dtype)
        with self.k.scope(), self.scores.scope(), self.v.scope():
            along(self.k, 1, parts.key, first, "key")
            k = whole(self.k, parts.k)
            zeros = f"tl.zeros([{self.queries}, {_KEYS}], tl.float32)"
            scores = writer.assign("scores", f'tl.dot({q}, {k}, {zeros}, input_precision="{precision}")')
            along(self.scores, 1, parts.key, first, "key")
            self.scores.given[parts.total] = Block(scores, _COLUMNS)
            value = self.scores.emit(parts.scores).text
            if 1 in self.scores.masks:
                value = writer.assign("valid", f'tl.where({self.scores.masks[1]}, {value}, float("-inf"))')
            largest = f"tl.reduce({value}, 1, library.maximum, keep_dims=True)"
            new = writer.assign("new_top", f"library.maximum({top}, {largest})")
            # A row of nothing but -inf so far must not become NaN.
            base = writer.assign("base", f'tl.where({new} == float("-inf"), 0.0, {new})')
            weights = writer.assign("weights", f"tl.exp({value} - {base})")
            shrink = writer.assign("shrink", f"tl.exp({top} - {base})")
            writer.line(f"{total} = {total} * {shrink} + tl.sum({weights}, axis=1, keep_dims=True)")
            along(self.v, 0, parts.key, first, "key")
            v = whole(self.v, parts.v)
            narrow = f"{weights}.to({scalars.triton_type(self.dtype)})"
            writer.line(f'{out} = tl.dot({narrow}, {v}, {out} * {shrink}, input_precision="{precision}")')
            writer.line(f"{top} = {new}")

    def _finish(self, top: str, total: str, out: str, entry: str, block: str, start: str) -> None:
        """Divide by the rows' sums and store both results."""
        writer, parts, body = self.writer, self.parts, self.result
        zero = parts.safe or any(isinstance(op, Predicate) for op in self.fusion.body.block)
        if parts.safe:
            writer.line(f"{total} = tl.where({total} == 0.0, 1.0, {total})")
            writer.line(f'{top} = tl.where({top} == float("-inf"), 0.0, {top})')
        quotient = f"{out} / {total}"
        if zero:
            quotient = f"tl.where(({total} > 0.0), {quotient}, 0.0)"
        result = writer.assign("result", quotient)
        epilogue = lower_epilogue(self.fusion, parts.product.result, parts.result_parts, [0])
        along(body, 1, parts.width, "", "d")
        body.given[epilogue.total] = Block(result, _COLUMNS)
        flat_batch, row, column = epilogue.parts
        body.axes.update({flat_batch: Block(entry), row: body.axes[parts.query], column: body.axes[parts.width]})
        for step in epilogue.stores:
            body.store(step)
        if parts.log_sums is not None:
            if not parts.safe:
                total = writer.assign("sums", f'tl.where({top} == float("-inf"), float("nan"), {total})')
            body.given[parts.row_max], body.given[parts.row_sum] = Block(top, _ROWS), Block(total, _ROWS)
            body.store(parts.log_sums)
