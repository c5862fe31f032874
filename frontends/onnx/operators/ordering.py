"""Extrema with their positions, and running totals."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import as_size, entries, known_numbers
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ops import ArgReduce, Cumulative, TopK


@onnx_op("ArgMax", "ArgMin")
def arg_reduce(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    how = "max" if n.op_type == "ArgMax" else "min"
    result = e.emit(ArgReduce(x, axis, how, bool(n.int("select_last_index", 0))))
    if not n.int("keepdims", 1):
        return result
    return e.reshape(result, [1 if a == axis else d for a, d in enumerate(x.type.shape)])


@onnx_op("TopK")
def top_k_attribute(e: Emitter, n: Node) -> list[Value | None]:
    return top_k(e, n, int(n.required("k")))


@onnx_op("TopK", since=10)
def top_k_input(e: Emitter, n: Node) -> list[Value | None]:
    count = entries(e, n, n.input(1), "k")
    if len(count) != 1:
        n.fail(f"k has {len(count)} elements")
    return top_k(e, n, as_size(e, count[0], "k"))


def top_k(e: Emitter, n: Node, k: Dim) -> list[Value | None]:
    """Values and positions, always sorted (ONNX leaves the order open where ``sorted`` is 0)."""
    x = n.input(0)
    rank = x.type.rank
    axis = n.axis(n.int("axis", -1), rank)
    extent = x.type.shape[axis]
    if isinstance(k, int) and (k < 0 or (isinstance(extent, int) and k > extent)):
        n.fail(f"k is {k}, axis {axis} of {x.type} has {extent} elements")
    last = [*(a for a in range(rank) if a != axis), axis]
    back = [last.index(a) for a in range(rank)]
    results = e.insert(TopK(e.transpose(x, last), k, bool(n.int("largest", 1))))
    return [e.transpose(r, back) for r in results]


@onnx_op("CumSum", since=11)
@onnx_op("CumProd", since=26)
def cumulative(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    (axis,) = known_numbers(e, n, n.input(1), "the axis")
    how = "sum" if n.op_type == "CumSum" else "prod"
    options = bool(n.int("exclusive", 0)), bool(n.int("reverse", 0))
    return e.emit(Cumulative(x, n.axis(axis, x.type.rank), how, *options))
