"""Kernels of attention's derivative: what surrounds `attention_backward.emit_attention_backward` in a fused region.

The region recomputes the weights from Q·Kᵀ and the logarithms of the rows' sums of exponentials, and has four more
products: the cotangent with V, and three that are results (or transposed to be). What lies between them is loop-level
code at (batch, query, key).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ds_compiler.backends.llvm.attention_backward import BackwardOperands, BackwardPlan, emit_attention_backward
from ds_compiler.backends.llvm.attention_kernel import BatchEntries
from ds_compiler.backends.llvm.builder import V, known
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.scalars import compute_type
from ds_compiler.backends.loops.attention import index_of, load_of
from ds_compiler.backends.loops.causal import hides_later_keys
from ds_compiler.backends.loops.ir import Axis, Graph, Index, Node
from ds_compiler.backends.loops.keep import replaced
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.points import Point, linear, placed
from ds_compiler.ir import Value
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import DotGeneral, Transpose


def emit_fused_attention_backward(frame: KernelFrame) -> KernelInfo:
    """An ``attention_backward`` fusion, as `ds_compiler.ops.derivatives.attention` writes it.

    Raises:
        CompileError: the region is something else, or an operand or result has no strides along the axes that are
            walked.
    """
    parts = _Parts.of(frame)
    fb = frame.fb
    element = compute_type(parts.s.dtype)
    head_dim, v_dim = parts.depth.extent, parts.width.extent
    assert isinstance(head_dim, int) and isinstance(v_dim, int)
    batch = BatchEntries(frame, parts.batch)
    q_len, kv_len = frame.size(parts.query.extent), frame.size(parts.key.extent)
    plan = BackwardPlan.of(frame.target, head_dim, v_dim, known(q_len), known(kv_len), element)
    inputs = len(frame.fusion.inputs)
    walked = [(parts.query, parts.depth), (parts.key, parts.depth), (parts.key, parts.width)]
    q, k, v = (batch.matrix(load, *axes) for load, axes in zip(parts.operands, walked, strict=True))
    grad = batch.matrix(parts.grad, parts.query, parts.width)
    results = [
        batch.matrix_at(inputs + n, index, *axes)
        for n, (index, axes) in enumerate(zip(parts.results, walked, strict=True))
    ]
    if any(m.col.ref != "1" for m in results):
        raise CompileError("a gradient of attention has rows that are not contiguous", location=frame.fusion.location)
    body = batch.body
    wanted = [parts.weights, parts.cotangents]

    @contextmanager
    def row(query: V) -> Iterator[None]:
        with body.scope():
            body.axes[parts.query] = query
            body.hoist(wanted, [], frozenset({parts.key}))
            yield

    def elements(column: V, mask: V | None, s: V, dp: V) -> tuple[V, V]:
        body.given = {parts.s: s, parts.dp: dp}
        with body.lanes_at(parts.key, column, plan.lanes, mask):
            weights, cotangents = (body.vectorised(body.emit(node)) for node in wanted)
        return weights, cotangents

    with body.scope():
        emit_attention_backward(
            fb,
            plan,
            BackwardOperands(q, k, v, grad, *results),
            batch_heads=batch.size,
            q_len=q_len,
            kv_len=kv_len,
            entry=batch.enter,
            row=row,
            elements=elements,
            causal=hides_later_keys(parts.scores, parts.s, parts.query, parts.key),
            task=frame.task,
            tasks=frame.tasks,
            scratch=frame.scratch,
        )
    return KernelInfo(scratch_bytes=plan.scratch_bytes)


@dataclass
class _Parts:
    """The region at the loop level.

    Attributes:
        batch, query, key, depth, width: the axes.
        operands, grad: loads of the elements of Q, K, V, and of the result's cotangent.
        s, dp: stand for the products of Q and K, and of the cotangent and V.
        scores, weights, cotangents: functions of them; the last are the cotangents of `s`.
        results: where elements of the gradients lie.
    """

    batch: list[Axis]
    query: Axis
    key: Axis
    depth: Axis
    width: Axis
    operands: tuple[Node, Node, Node]
    grad: Node
    s: Node
    dp: Node
    scores: Node
    weights: Node
    cotangents: Node
    results: list[Index]

    @staticmethod
    def of(frame: KernelFrame) -> _Parts:
        """Raises CompileError: as `emit_fused_attention_backward`."""
        block = frame.fusion.body.block
        of_q, of_k, of_v = (_product_behind(v) for v in block.terminator.operands)
        weights_value, side = _computed(of_v)
        (first,) = _products_in_front_of(weights_value)
        (outer,) = {op for op in block if isinstance(op, DotGeneral)} - {first, of_q, of_k, of_v}
        graph = Graph()
        lowering = Lowering(graph, {a: n for n, a in enumerate(block.arguments)})
        # `outer`, of the result's cotangent and V, has the weights' axes: (batch, query, key).
        axes = [lowering.axis(d) for d in outer.result.type.shape]
        nb = len(outer.lhs_batch)
        batch, (query, key) = axes[:nb], axes[nb:]
        depth = lowering.axis(first.lhs.type.shape[first.lhs_contract[0]])
        width = lowering.axis(outer.lhs.type.shape[outer.lhs_contract[0]])
        lowering.begin([*axes, depth, width], [])
        dtype = first.result.type.dtype
        s, dp = (graph.node("total", (), dtype, payload=name, extra_axes=axes) for name in ("s", "dp"))
        lowering.given.update({first.result: s, outer.result: dp})
        point: Point = tuple(index_of(a) for a in axes)
        # The product for V sums over queries.
        weights_axes = [a for role in ("batch", "contract", "free") for a in _axes_by_role(of_v, side, role)]
        weights_at = placed(len(axes), weights_axes, point)
        weights = lowering.element(weights_value, weights_at)
        at = lowering.visited[first.result]
        cotangents = lowering.element(_computed(of_q)[0], at)
        exponential = weights.operands[2] if weights.op == "select" else weights
        if exponential.op != "exp" or exponential.operands[0].op != "sub":
            raise CompileError(
                "the derivative of attention needs weights exp(scores - x)", location=frame.fusion.location
            )
        bounded = graph.node("exp_nonpositive", exponential.operands, dtype)
        weights, cotangents = (replaced(graph, n, exponential, bounded) for n in (weights, cotangents))
        loads = [
            load_of(lowering, value, axes_of, (*place[:-2], place[which], index_of(walked)))
            for value, axes_of, place, which, walked in (
                (first.lhs, _axes(first, "lhs"), at, -2, depth),
                (first.rhs, _axes(first, "rhs"), at, -1, depth),
                (outer.rhs, _axes(outer, "rhs"), point, -1, width),
                (outer.lhs, _axes(outer, "lhs"), point, -2, width),
            )
        ]
        results = [
            linear(_at_result(v, op, place, index_of(walked)), v.type)
            for v, op, place, walked in zip(
                block.terminator.operands, (of_q, of_k, of_v), (at, at, weights_at), (depth, depth, width), strict=True
            )
        ]
        return _Parts(
            batch, query, key, depth, width, (loads[0], loads[1], loads[2]), loads[3],
            s, dp, exponential.operands[0].operands[0], weights, cotangents, results,
        )  # fmt: skip


def _product_behind(value: Value) -> DotGeneral:
    """The product that a result is a transpose of."""
    op = value.defining_op
    while isinstance(op, Transpose):
        op = op.operand.defining_op
    if not isinstance(op, DotGeneral):
        raise CompileError("a gradient of attention is no product")
    return op


def _products_in_front_of(value: Value) -> set[DotGeneral]:
    """The nearest products that `value` is computed from."""
    op = value.defining_op
    if isinstance(op, DotGeneral):
        return {op}
    return {p for v in (op.operands if op is not None else ()) for p in _products_in_front_of(v)}


def _computed(product: DotGeneral) -> tuple[Value, str]:
    """The operand that is computed from other products, and which one it is."""
    return (product.lhs, "lhs") if _products_in_front_of(product.lhs) else (product.rhs, "rhs")


def _axes(product: DotGeneral, side: str) -> tuple[int, ...]:
    return tuple(a for role in ("batch", "free", "contract") for a in _axes_by_role(product, side, role))


def _at_result(value: Value, product: DotGeneral, at: Point, walked: Index) -> Point:
    """Where `value`, the product or its transpose, is written for an element of the computed operand at `at` and one of
    the other operand at `walked` along its free axis."""
    op = value.defining_op
    if isinstance(op, Transpose):
        inner = _at_result(op.operand, product, at, walked)
        return tuple(inner[a] for a in op.permutation)
    batch, free = ([at[a] for a in _axes_by_role(product, _computed(product)[1], role)] for role in ("batch", "free"))
    return (*batch, *free, walked) if _computed(product)[1] == "lhs" else (*batch, walked, *free)


def _axes_by_role(product: DotGeneral, side: str, role: str) -> tuple[int, ...]:
    """Axes of the ``lhs`` or ``rhs`` that are ``batch``, ``free`` or ``contract``."""
    axes: tuple[int, ...] = getattr(product, f"{side}_{role}")
    return axes
