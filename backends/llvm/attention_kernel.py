"""Kernels of attention: what surrounds `attention.emit_attention` in a fused region.

The region is Q·Kᵀ, an elementwise function of the scores, softmax, the product with V, elementwise operations. Q, K
and V enter through views (transposes, slices, regrouped or repeated heads) that become strides here; the function of
the scores is ordinary loop-level code at (batch, query, key).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ds_compiler.backends.llvm.attention import Bias, RowSums, attention_scratch_bytes, emit_attention
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.contraction import EpilogueEmitter
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.operands import Matrix
from ds_compiler.backends.llvm.scalars import compute_type
from ds_compiler.backends.loops.causal import hides_later_keys
from ds_compiler.backends.loops.contraction import lower_epilogue
from ds_compiler.backends.loops.ir import Axis, Graph, Index, Node, Store, of_axis
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.points import Point, linear, reshape_point
from ds_compiler.ir import Value
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Binary, DotGeneral, Predicate, Reduce, Reshape, Select, Unary
from ds_compiler.ops.derivatives.attention import Attention


def emit_fused_attention(frame: KernelFrame) -> KernelInfo:
    """An ``attention`` fusion, as `passes.attention` outlines it, with the logarithms of the rows' sums of exponentials
    as second result or without.

    Raises:
        CompileError: the region is not attention, or an operand has no strides along the axes that are walked.
    """
    parts = _Parts.of(frame)
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


@dataclass
class _Parts:
    """The region at the loop level.

    Attributes:
        batch, query, key, depth, width: the axes (of extent 1 where the region has none).
        q, k, v: loads of the operands' elements.
        scores: the softmax's argument as a function of `total`, the product of Q and K.
        row_max, row_sum: of a row, the largest score and the sum of exponentials.
        safe: a row of -inf has the maximum 0 and the sum 1, hence weights that are 0.
        log_sums: stores the second result, a function of them.
        result_parts: which axes of the product with V are batch, row, column.
    """

    product: DotGeneral
    batch: list[Axis]
    query: Axis
    key: Axis
    depth: Axis
    width: Axis
    q: Node
    k: Node
    v: Node
    scores: Node
    total: Node
    row_max: Node
    row_sum: Node
    safe: bool
    log_sums: Store | None
    result_parts: list[tuple[int, ...]]

    @staticmethod
    def of(frame: KernelFrame) -> _Parts:
        """Raises CompileError: as `emit_fused_attention`."""
        block = frame.fusion.body.block
        products = [op for op in block if isinstance(op, DotGeneral)]
        reductions = [op for op in block if isinstance(op, Reduce)]
        if len(products) != 2 or len(reductions) != 2:
            raise CompileError("an attention fusion needs two products and a softmax", location=frame.fusion.location)
        (first, product), (top, sums) = products, reductions
        graph = Graph()
        lowering = Lowering(graph, {a: n for n, a in enumerate(block.arguments)})
        rank = product.lhs.type.rank
        axes = [lowering.axis(d) for d in product.lhs.type.shape]
        batch = [axes[a] for a in product.lhs_batch]
        (query,), key = [axes[a] for a in product.lhs_free], axes[rank - 1]
        width = lowering.axis(product.rhs.type.shape[product.rhs_free[0]])
        lowering.begin([*axes, width], [])
        weights: Point = tuple(index_of(a) for a in axes)
        dtype = first.result.type.dtype
        total, row_max, row_sum = (
            graph.node(name, (), dtype, payload=name, extra_axes=axes) for name in ("total", "row_max", "row_sum")
        )
        lowering.given.update({first.result: total, top.result: row_max, sums.result: row_sum})
        scores_at = _point_of(lowering, product.lhs, weights, top.operand)
        scores = lowering.element(top.operand, scores_at)
        at = lowering.visited[first.result]
        log_sums: Store | None = None
        for output in block.terminator.operands[1:]:
            row = scores_at[:-1]
            number = len(block.arguments) + 1
            log_sums = Store(number, linear(row, output.type), lowering.element(output, row), inner=False)
        nb = len(first.lhs_batch)
        depth = lowering.axis(first.lhs.type.shape[first.lhs_contract[0]])
        q = (*at[:nb], at[nb], index_of(depth))
        k = (*at[:nb], at[nb + 1], index_of(depth))
        v = (*(index_of(a) for a in batch), index_of(width), index_of(key))
        return _Parts(
            product, batch, query, key, depth, width,
            load_of(lowering, first.lhs, (*first.lhs_batch, *first.lhs_free, *first.lhs_contract), q),
            load_of(lowering, first.rhs, (*first.rhs_batch, *first.rhs_free, *first.rhs_contract), k),
            load_of(lowering, product.rhs, (*product.rhs_batch, *product.rhs_free, *product.rhs_contract), v),
            scores, total, row_max, row_sum, Attention.of(block).safe, log_sums,
            [tuple(range(rank - 2)), (rank - 2,), (rank - 1,)],
        )  # fmt: skip


def index_of(axis: Axis) -> Index:
    """The place along an axis; 0 where it has one element."""
    return Index() if axis.extent == 1 else of_axis(axis)


def load_of(lowering: Lowering, operand: Value, axes: tuple[int, ...], indices: Point) -> Node:
    """The element of `operand` whose axis ``axes[i]`` stands at ``indices[i]``: a load."""
    point = [Index()] * len(axes)
    for axis, index in zip(axes, indices, strict=True):
        point[axis] = index
    node = lowering.element(operand, tuple(point))
    if node.op != "load":
        raise CompileError("an operand of attention is not a view of an input")
    return node


def _point_of(lowering: Lowering, value: Value, point: Point, wanted: Value) -> Point:
    """Where `wanted`, the softmax's argument, stands when `value`, computed from it, stands at `point`."""
    while value is not wanted:
        op = value.defining_op
        match op:
            case Reshape():
                point = reshape_point(lowering.graph, op.operand.type, op.result.type, point)
                value = op.operand
            case Select():
                value = op.on_false
            case Binary():
                value = op.lhs
            case Unary():
                value = op.operand
            case _:
                raise CompileError("the attention weights do not come from the softmax")
    return point


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


def _function_of_scores(parts: _Parts, batch: BatchEntries) -> Bias | None:
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


def _store_of_sums(parts: _Parts, batch: BatchEntries) -> RowSums | None:
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
