"""Attention at the loop level: operands, the function of the scores, the second result.

The region is Q·Kᵀ, an elementwise function of the scores, softmax, the product with V, elementwise operations. Q, K
and V enter through views (transposes, slices, regrouped or repeated heads), which become loads at their indices.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.loops.ir import Axis, Graph, Index, Node, Store, of_axis
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.points import Point, linear, reshape_point
from ds_compiler.ir import Value
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Binary, DotGeneral, Fusion, Reduce, Reshape, Select, Unary
from ds_compiler.ops.derivatives.attention import Attention


@dataclass
class AttentionParts:
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
    def of(fusion: Fusion) -> AttentionParts:
        """The parts of an ``attention`` fusion, as `passes.attention` outlines it.

        Raises:
            CompileError: the region is not attention, or an operand is no view of an input.
        """
        block = fusion.body.block
        products = [op for op in block if isinstance(op, DotGeneral)]
        reductions = [op for op in block if isinstance(op, Reduce)]
        if len(products) != 2 or len(reductions) != 2:
            raise CompileError("an attention fusion needs two products and a softmax", location=fusion.location)
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
        return AttentionParts(
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
