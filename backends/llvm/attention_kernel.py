"""Kernels of attention: what surrounds `attention.emit_attention` in a fused region.

The region is Q·Kᵀ, an elementwise function of the scores, softmax, the product with V, elementwise operations. Q, K
and V enter through views (transposes, slices, regrouped or repeated heads) that become strides here; the function of
the scores is ordinary loop-level code at (batch, query, key).
"""

from __future__ import annotations

import math

from ds_compiler.backends.llvm.attention import Bias, RowSums, attention_scratch_bytes, emit_attention
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.contraction import EpilogueEmitter
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.operands import Matrix
from ds_compiler.backends.llvm.scalars import compute_type
from ds_compiler.backends.loops.attention import AttentionParts
from ds_compiler.backends.loops.causal import hides_later_keys
from ds_compiler.backends.loops.contraction import lower_epilogue
from ds_compiler.backends.loops.ir import Axis, Index, Node
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Predicate


def emit_fused_attention(frame: KernelFrame) -> KernelInfo:
    """An ``attention`` fusion, as `passes.attention` outlines it, with the logarithms of the rows' sums of exponentials
    as second result or without.

    Raises:
        CompileError: the region is not attention, or an operand has no strides along the axes that are walked.
    """
    parts = AttentionParts.of(frame.fusion)
    fb, target, element = frame.fb, frame.target, compute_type(parts.product.result.type.dtype)
    head_dim, v_dim = parts.depth.extent, parts.width.extent
    assert isinstance(head_dim, int) and isinstance(v_dim, int)
    batch = BatchEntries(frame, parts.batch)
    epilogue = EpilogueEmitter(frame, lower_epilogue(frame.fusion, parts.product.result, parts.result_parts, [0]))

    def store(fb: FunctionBuilder, index: V, row: V, column: V, lanes: int, mask: V | None, value: V) -> None:
        epilogue((index, row, column), lanes, mask, value)

    emit_attention(
        fb,
        target,
        batch_heads=batch.size,
        q_len=frame.size(parts.query.extent),
        kv_len=frame.size(parts.key.extent),
        head_dim=head_dim,
        v_dim=v_dim,
        q=batch.matrix(parts.q, parts.query, parts.depth),
        k=batch.matrix(parts.k, parts.key, parts.depth),
        v=batch.matrix(parts.v, parts.key, parts.width),
        scale=1.0,
        bias=_function_of_scores(parts, batch),
        task=frame.task,
        tasks=frame.tasks,
        scratch=frame.scratch,
        store=store,
        element=element,
        nan_rows_are_zero=any(isinstance(op, Predicate) for op in frame.fusion.body.block),
        hidden_rows_are_zero=parts.safe,
        causal=hides_later_keys(parts.scores, parts.total, parts.query, parts.key),
        store_sums=_store_of_sums(parts, batch),
    )
    return KernelInfo(scratch_bytes=attention_scratch_bytes(target, head_dim, v_dim, element))


class BatchEntries:
    """The entries of attention's batch: their flat index, and `body`, which emits code at one of them."""

    def __init__(self, frame: KernelFrame, axes: list[Axis]) -> None:
        self.frame, self.body = frame, frame.body()
        self.axes = [a for a in axes if a.extent != 1]
        self.extents = [frame.size(a.extent) for a in self.axes]
        self.size = frame.fb.i64(1)
        for extent in self.extents:
            self.size = frame.fb.mul(self.size, extent)

    def enter(self, index: V) -> None:
        """Let the axes stand at entry `index`."""
        fb = self.frame.fb
        for position in reversed(range(len(self.axes))):
            outermost = position == 0
            self.body.axes[self.axes[position]] = index if outermost else fb.srem(index, self.extents[position])
            index = index if outermost else fb.sdiv(index, self.extents[position])

    def matrix(self, load: Node, row: Axis, column: Axis) -> Matrix:
        """Where an operand lies, whose elements `load` reads."""
        assert load.index is not None
        return self.matrix_at(load.payload, load.index, row, column)

    def matrix_at(self, buffer: int, index: Index, row: Axis, column: Axis) -> Matrix:
        """The elements at `index` of a buffer: strides along `row` and `column`, the entry from the rest of the index.

        Raises:
            CompileError: there are no such strides.
        """
        frame, body = self.frame, self.body
        if any(isinstance(a, Node) and a.axes & {row, column} for a, _ in index.terms):
            raise CompileError("an operand of attention has no stride along its rows or columns")
        rest = Index(tuple((a, c) for a, c in index.terms if a not in (row, column)), index.offset)
        base = frame.pointers[buffer]
        element = compute_type(body.buffers[buffer][1])

        def entry(fb: FunctionBuilder, at: V) -> V:
            with body.scope():
                self.enter(at)
                return fb.gep(element, base, body.index_value(rest))

        # A stride along an axis of one element is never used: 1 lets that axis be loaded as vectors.
        strides = [frame.size(1 if a.extent == 1 else index.coefficient(a)) for a in (row, column)]
        return Matrix(base, strides[0], strides[1], entry)


def _function_of_scores(parts: AttentionParts, batch: BatchEntries) -> Bias | None:
    """What happens to the product of Q and K in front of the softmax; None for nothing."""
    if parts.scores is parts.total:
        return None
    body = batch.body

    def function(fb: FunctionBuilder, index: V, row: V, column: V, lanes: int, mask: V | None, scores: V) -> V:
        body.given = {parts.total: scores}
        with body.scope():
            batch.enter(index)
            body.axes[parts.query] = row
            with body.lanes_at(parts.key, column, lanes, mask):
                return body.vectorised(body.emit(parts.scores))

    return function


def _store_of_sums(parts: AttentionParts, batch: BatchEntries) -> RowSums | None:
    """How the second result is stored, if there is one."""
    if parts.log_sums is None:
        return None
    body, step = batch.body, parts.log_sums

    def store(fb: FunctionBuilder, index: V, row: V, maximum: V, total: V) -> None:
        # Where every score is -inf, exponentials of their difference are NaN.
        if not parts.safe:
            nothing = fb.fcmp("oeq", maximum, fb.const(maximum.type, -math.inf))
            total = fb.select(nothing, fb.const(total.type, math.nan), total)
        body.given = {parts.row_max: maximum, parts.row_sum: total}
        with body.scope():
            batch.enter(index)
            body.axes[parts.query] = row
            body.store(step)

    return store
