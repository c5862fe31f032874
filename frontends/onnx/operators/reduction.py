"""Reductions along axes."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import bool_, f32
from ds_compiler.ops import Predicate

_PLAIN = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod"}
_COMPOSED = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")


def reduction_axes(e: Emitter, n: Node, rank: int) -> tuple[int, ...]:
    """Axes from the input (later opsets) or the attribute; none given means all, or none with
    ``noop_with_empty_axes``."""
    given = n.optional(1)
    values = n.ints("axes")
    if given is not None:
        known = e.array(given)
        if known is None and given.type.elements != 0:
            n.needed(e, given, "axes")
        values = () if known is None else tuple(int(a) for a in known.reshape(-1))
    if values:
        return n.axes(values, rank)
    return () if n.int("noop_with_empty_axes", 0) else tuple(range(rank))


def log_sum_exp(e: Emitter, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """``log(sum(exp(x)))``, without overflow; an infinite maximum is left in place instead of taken out."""
    top = e.reduce(x, axes, "max", keepdims=True)
    top = e.select(e.emit(Predicate(top, "isfinite")), top, e.full(0, top.type))
    total = e.unary("log", e.reduce(e.unary("exp", e.binary("sub", x, top)), axes, "sum", keepdims=True))
    result = e.binary("add", total, top)
    return result if keepdims else e.reshape(result, [d for a, d in enumerate(x.type.shape) if a not in axes])


@onnx_op(*_PLAIN)
def reduce_plain(e: Emitter, n: Node) -> Value:
    x, how = n.input(0), _PLAIN[n.op_type]
    if x.type.dtype == bool_:
        how = {"max": "any", "min": "all"}.get(how, how)
    return e.reduce(x, reduction_axes(e, n, x.type.rank), how, bool(n.int("keepdims", 1)))


@onnx_op(*_COMPOSED)
def reduce_composed(e: Emitter, n: Node) -> Value:
    """Integers go through f32 where a root or logarithm is taken."""
    x, keepdims = n.input(0), bool(n.int("keepdims", 1))
    axes = reduction_axes(e, n, x.type.rank)
    wide = e.wide(x)
    if n.op_type not in ("ReduceL1", "ReduceSumSquare") and not x.type.dtype.is_float:
        wide = e.cast(x, f32)
    match n.op_type:
        case "ReduceL1":
            magnitude = wide if x.type.dtype.kind == "u" else e.unary("abs", wide)
            result = e.reduce(magnitude, axes, "sum", keepdims)
        case "ReduceL2":
            result = e.unary("sqrt", e.reduce(e.binary("mul", wide, wide), axes, "sum", keepdims))
        case "ReduceLogSum":
            result = e.unary("log", e.reduce(wide, axes, "sum", keepdims))
        case "ReduceLogSumExp":
            result = log_sum_exp(e, wide, axes, keepdims)
        case _:
            result = e.reduce(e.binary("mul", wide, wide), axes, "sum", keepdims)
    return e.cast(result, x.type.dtype)
