"""Softmax and its kin, as the chain of reductions that fuses into one kernel over rows."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import ArgReduce, Iota


def shifted(e: Emitter, x: Value, axes: Sequence[int]) -> Value:
    """``x`` minus its largest element along `axes`."""
    return e.binary("sub", x, e.reduce(x, axes, "max", keepdims=True))


def softmax(e: Emitter, x: Value, axes: Sequence[int]) -> Value:
    """``exp(x) / sum(exp(x))`` along `axes` together, without overflow; computed in f32 at least."""
    powers = e.unary("exp", shifted(e, e.wide(x), axes))
    return e.cast(e.binary("div", powers, e.reduce(powers, axes, "sum", keepdims=True)), x.type.dtype)


def log_softmax(e: Emitter, x: Value, axes: Sequence[int]) -> Value:
    """The logarithm of `softmax`."""
    rows = shifted(e, e.wide(x), axes)
    total = e.reduce(e.unary("exp", rows), axes, "sum", keepdims=True)
    return e.cast(e.binary("sub", rows, e.unary("log", total)), x.type.dtype)


def _axes(n: Node, x: Value) -> tuple[int, ...]:
    """Before opset 13 the operators work on matrices: all axes from `axis` on are one."""
    if n.opset >= 13:
        return (n.axis(n.int("axis", -1), x.type.rank),)
    return tuple(range(n.axis(n.int("axis", 1), x.type.rank), x.type.rank))


@onnx_op("Softmax")
def softmax_node(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return softmax(e, x, _axes(n, x))


@onnx_op("LogSoftmax")
def log_softmax_node(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return log_softmax(e, x, _axes(n, x))


@onnx_op("Hardmax")
def hardmax(e: Emitter, n: Node) -> Value:
    """One at the first largest element, zero elsewhere."""
    x = n.input(0)
    axes = _axes(n, x)
    shape = x.type.shape
    first = axes[0]
    flat = x if len(axes) == 1 else e.reshape(x, (*shape[:first], x.type.with_shape(shape[first:]).elements))
    best = e.emit(ArgReduce(flat, first, "max"))
    kept = [a for a in range(flat.type.rank) if a != first]
    position = e.emit(Iota(flat.type.shape, first, i64))
    hot = e.compare("eq", position, e.broadcast(best, flat.type.shape, kept))
    return e.reshape(e.cast(hot, x.type.dtype), shape)
