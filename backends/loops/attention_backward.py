"""Attention's derivative at the loop level: operands, what lies between its five products, where results go.

The region recomputes the weights from Q·Kᵀ and the logarithms of the rows' sums of exponentials, and has four more
products: the cotangent with V, and three that are results (or transposed to be). What lies between them is loop-level
code at (batch, query, key).
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.loops.attention import index_of, load_of
from ds_compiler.backends.loops.causal import hides_later_keys
from ds_compiler.backends.loops.ir import Axis, Graph, Index, Node
from ds_compiler.backends.loops.keep import replaced
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.points import Point, linear, placed
from ds_compiler.ir import Value
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import DotGeneral, Fusion, Transpose


@dataclass
class AttentionBackwardParts:
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

    @property
    def causal(self) -> bool:
        """Whether the weights of all keys behind the query are 0."""
        return hides_later_keys(self.scores, self.s, self.query, self.key)

    @staticmethod
    def of(fusion: Fusion) -> AttentionBackwardParts:
        """The parts of an ``attention_backward`` fusion.

        Raises:
            CompileError: the region is something else, or an operand is no view of an input.
        """
        block = fusion.body.block
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
        exponential = _uncast(weights)  # of narrow floats it is computed in f32
        if exponential.op == "select":
            exponential = exponential.operands[2]
        if exponential.op != "exp" or exponential.operands[0].op != "sub":
            raise CompileError("the derivative of attention needs weights exp(scores - x)", location=fusion.location)
        bounded = graph.node("exp_nonpositive", exponential.operands, exponential.dtype)
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
        return AttentionBackwardParts(
            batch, query, key, depth, width, (loads[0], loads[1], loads[2]), loads[3],
            s, dp, _uncast(exponential.operands[0].operands[0]), weights, cotangents, results,
        )  # fmt: skip


def _uncast(node: Node) -> Node:
    return node.operands[0] if node.op == "cast" else node


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
