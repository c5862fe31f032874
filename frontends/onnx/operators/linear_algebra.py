"""Det: determinants by elimination."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Region, TensorType, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import ArgReduce, Gather, GatherElements, Iota, Scan, Yield


@onnx_op("Det", since=11)
def det(e: Emitter, n: Node) -> Value:
    """Of the matrices in the last two axes: the product of the pivots of Gauss's elimination with row exchanges."""
    x = n.input(0)
    if x.type.rank < 2 or not x.type.dtype.is_float:
        n.fail(f"takes square matrices, got {x.type}")
    *outer, rows, columns = x.type.shape
    e.assume(rows, columns, f"{n.op_type}: takes square matrices, got {x.type}")
    batch = product(tuple(outer))
    matrices = e.reshape(e.wide(x), (batch, rows, rows))
    one = e.full(1, TensorType((batch,), matrices.type.dtype))
    body = Block([matrices.type, one.type, TensorType((), i64)])
    with e.into(body):
        e.insert(Yield(tuple(_eliminated(e, *body.arguments))))
    steps = e.emit(Iota((rows,), 0, i64))
    result = e.insert(Scan((matrices, one), (steps,), rows, Region(body)))[1]
    return e.cast(e.reshape(result, outer), x.type.dtype)


def _eliminated(e: Emitter, matrices: Value, determinant: Value, step: Value) -> tuple[Value, Value]:
    """Column `step` cleared below the diagonal, and the determinant's next factor."""
    batch, size, _ = matrices.type.shape
    zero = e.scalar(0, matrices.type.dtype)
    column = e.reshape(e.emit(Gather(matrices, e.reshape(step, (1,)), 2)), (batch, size))
    row = e.emit(Iota((batch, size), 1, i64))
    magnitude = e.select(e.compare("ge", row, step), e.unary("abs", column), e.scalar(-1, matrices.type.dtype))
    pivot = e.emit(ArgReduce(magnitude, 1, "max"))
    wide = e.broadcast(pivot, (batch, size), (0,))
    source = e.select(e.compare("eq", row, step), wide, e.select(e.compare("eq", row, wide), step, row))
    index = e.broadcast(source, matrices.type.shape, (0, 1))
    moved = e.emit(GatherElements(matrices, index, 1))
    lead = e.emit(Gather(moved, e.reshape(step, (1,)), 1))  # [batch, 1, size]
    column = e.emit(Gather(moved, e.reshape(step, (1,)), 2))  # [batch, size, 1]
    value = e.reshape(e.emit(Gather(lead, e.reshape(step, (1,)), 2)), (batch,))
    divisor = e.reshape(e.select(e.compare("eq", value, 0), e.full(1, value.type), value), (batch, 1, 1))
    below = e.reshape(e.compare("gt", row, step), (batch, size, 1))
    factor = e.select(below, e.binary("div", column, divisor), zero)
    following = e.binary("sub", moved, e.binary("mul", factor, lead))
    exchanged = e.compare("ne", pivot, e.broadcast_to(step, (batch,)))
    signed = e.select(exchanged, e.unary("neg", value), value)
    return following, e.binary("mul", determinant, signed)
