"""Reductions at the loop level: sums over axes, matrix products, windows and convolutions as one step of a nest.

These are the general forms: any rank, layout and element type, operands read where they stand. Products and windows
that a schedule of their own covers (register tiles, Winograd, pooling) do not come here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ds_compiler.backends.loops.ir import Condition, Index, Node
from ds_compiler.backends.loops.points import Point, placed
from ds_compiler.ir.dims import Dim, floordiv, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import (
    ArgReduce,
    Conv,
    ConvTranspose,
    ConvWeightGradient,
    DotGeneral,
    DotInteger,
    Reduce,
    ReduceWindow,
)
from ds_compiler.ops.reduction import identity

if TYPE_CHECKING:
    from ds_compiler.backends.loops.lower import Lowering

Reducing = Reduce | ArgReduce | DotGeneral | DotInteger | ReduceWindow | Conv | ConvTranspose | ConvWeightGradient


def reduced_element(lowering: Lowering, op: Reducing, point: Point) -> Node:
    """The node of the result of `op` at `point`; adds the step that computes it."""
    match op:
        case Reduce():
            return _reduce(lowering, op, point)
        case ArgReduce():
            (inner,) = lowering.inner_axes([op.operand.type.shape[op.axis]])
            value = lowering.element(op.operand, (*point[: op.axis], inner, *point[op.axis :]))
            return lowering.step(op.how, value, i64, argument=True, position=inner, last=op.last)
        case DotGeneral() | DotInteger():
            return _product(lowering, op, point)
        case ReduceWindow():
            return _window(lowering, op, point)
        case Conv():
            return _convolution(lowering, op, point)
        case ConvTranspose():
            return _transposed_convolution(lowering, op, point)
        case ConvWeightGradient():
            return _weight_gradient(lowering, op, point)


def _reduce(lowering: Lowering, op: Reduce, point: Point) -> Node:
    extents = [op.operand.type.shape[a] for a in op.axes]
    source = list(point)
    for axis, index in zip(op.axes, lowering.inner_axes(extents), strict=True):
        source.insert(axis, index)
    value = lowering.element(op.operand, tuple(source))
    if op.how == "mean":
        return _mean(lowering, value, product(tuple(extents)))
    return lowering.step(op.how, value, op.result.type.dtype)


def _mean(lowering: Lowering, value: Node, count: Dim) -> Node:
    total = lowering.step("sum", value, value.dtype)
    g = lowering.graph
    if isinstance(count, int):
        if value.dtype.is_float and count:
            return g.node("mul", (total, g.constant(1 / count, value.dtype)), value.dtype)
        divisor = g.constant(float(count) if value.dtype.is_float else count, value.dtype)
    else:
        divisor = lowering.cast(g.size(count), value.dtype)
    return g.node("div", (total, divisor), value.dtype)


def _product(lowering: Lowering, op: DotGeneral | DotInteger, point: Point) -> Node:
    nb, nl = len(op.lhs_batch), len(op.lhs_free)
    inner = lowering.inner_axes([op.lhs.type.shape[a] for a in op.lhs_contract])
    lhs = placed(op.lhs.type.rank, (*op.lhs_batch, *op.lhs_free, *op.lhs_contract), (*point[: nb + nl], *inner))
    rhs = placed(
        op.rhs.type.rank,
        (*op.rhs_batch, *op.rhs_contract, *op.rhs_free),
        (*point[:nb], *inner, *point[nb + nl :]),
    )
    elements = lowering.element(op.lhs, lhs), lowering.element(op.rhs, rhs)
    return _sum_of_products(lowering, *(lowering.cast(x, op.result.type.dtype) for x in elements))


def _sum_of_products(lowering: Lowering, a: Node, b: Node) -> Node:
    return lowering.step("sum", lowering.graph.node("mul", (a, b), a.dtype), a.dtype)


def _window(lowering: Lowering, op: ReduceWindow, point: Point) -> Node:
    g, dtype = lowering.graph, op.result.type.dtype
    inner = lowering.inner_axes(op.window)
    source = list(point)
    conditions: list[Condition] = []
    for position, axis in enumerate(op.axes):
        moved = point[axis].scaled(op.strides[position]) + inner[position].scaled(op.dilations[position])
        moved = moved + op.low[position] * -1
        source[axis] = moved
        if op.low[position] != 0 or op.high[position] != 0:
            conditions.append((moved, op.operand.type.shape[axis]))
    how = "max" if op.how == "max" else "sum"
    neutral = g.constant(np.asarray(identity(how, dtype.numpy)).item(), dtype)
    value = g.guard(tuple(conditions), lowering.element(op.operand, tuple(source)), neutral)
    total = lowering.step(how, value, dtype)
    if op.how == "mean" or (op.how == "mean_valid" and not conditions):
        return g.node("mul", (total, g.constant(1 / int(np.prod(op.window)), dtype)), dtype)
    if op.how == "mean_valid":
        one, zero = g.constant(1.0, dtype), g.constant(0.0, dtype)
        count = lowering.step("sum", g.guard(tuple(conditions), one, zero), dtype)
        return g.node("div", (total, count), dtype)
    return total


def _channels(op: Conv | ConvTranspose | ConvWeightGradient) -> tuple[int, range]:
    """The axis of channels and the spatial axes of input and result."""
    rank = op.input.type.rank
    return (1, range(2, rank)) if op.layout == "nchw" else (rank - 1, range(1, rank - 1))


def _group(
    lowering: Lowering, op: Conv | ConvTranspose | ConvWeightGradient, channel: Index, size: Dim
) -> tuple[Index, Index]:
    """(group, channel within the group) of an output channel; `size` output channels are in each group."""
    if op.groups == 1:
        return Index(), channel
    if size == 1:
        return channel, Index()
    g = lowering.graph
    flat, divisor = g.index(channel), g.size(size)
    quotient, rest = (g.node(kind, (flat, divisor), i64) for kind in ("index_div", "index_mod"))
    return Index(((quotient, 1),)), Index(((rest, 1),))


def _convolution(lowering: Lowering, op: Conv, point: Point) -> Node:
    """The sum over the window and the group's input channels, the input guarded where the window is in the padding."""
    x, w = op.input.type, op.weight.type
    channel_axis, spatial = _channels(op)
    channel, *taps = lowering.inner_axes(w.shape[1:])
    group, _ = _group(lowering, op, point[channel_axis], floordiv(w.shape[0], op.groups))
    source = list(point)
    source[channel_axis] = group.scaled(w.shape[1]) + channel
    conditions: list[Condition] = []
    for n, axis in enumerate(spatial):
        source[axis] = point[axis].scaled(op.strides[n]) + taps[n].scaled(op.dilations[n]) + op.low[n] * -1
        if op.low[n] != 0 or op.high[n] != 0:
            conditions.append((source[axis], x.shape[axis]))
    zero = lowering.graph.constant(0.0, x.dtype)
    value = lowering.graph.guard(tuple(conditions), lowering.element(op.input, tuple(source)), zero)
    weight = lowering.element(op.weight, (point[channel_axis], channel, *taps))
    return _sum_of_products(lowering, value, weight)


def _transposed_convolution(lowering: Lowering, op: ConvTranspose, point: Point) -> Node:
    """Each output gathers the inputs whose windows reach it: those where position - tap is a multiple of the stride."""
    g = lowering.graph
    x, w = op.input.type, op.weight.type
    channel_axis, spatial = _channels(op)
    per_group = floordiv(w.shape[0], op.groups)
    channel, *taps = lowering.inner_axes([per_group, *w.shape[2:]])
    group, out = _group(lowering, op, point[channel_axis], w.shape[1])
    source = list(point)
    source[channel_axis] = group.scaled(per_group) + channel
    conditions: list[Condition] = []
    for n, axis in enumerate(spatial):
        stride = op.strides[n]
        reach = (w.shape[2 + n] - 1) * op.dilations[n]
        # Shifted by a multiple of the stride, so that quotient and remainder are those of a non-negative number.
        shift = floordiv(reach + stride - 1, stride)
        moved = point[axis] + op.low[n] + shift * stride + taps[n].scaled(-op.dilations[n])
        if stride == 1:
            source[axis] = moved + shift * -1
        else:
            flat, divisor = g.index(moved), g.size(stride)
            quotient, rest = (g.node(kind, (flat, divisor), i64) for kind in ("index_div", "index_mod"))
            source[axis] = Index(((quotient, 1),)) + shift * -1
            conditions.append((Index(((rest, 1),)), 1))
        conditions.append((source[axis], x.shape[axis]))
    zero = g.constant(0.0, x.dtype)
    value = g.guard(tuple(conditions), lowering.element(op.input, tuple(source)), zero)
    weight = lowering.element(op.weight, (source[channel_axis], out, *taps))
    return _sum_of_products(lowering, value, weight)


def _weight_gradient(lowering: Lowering, op: ConvWeightGradient, point: Point) -> Node:
    """The sum over batch and windows of what an element of the kernel met, the input guarded as in a convolution."""
    x, gradient = op.input.type, op.gradient.type
    channel_axis, spatial = _channels(op)
    out, channel, *taps = point
    image, *windows = lowering.inner_axes([gradient.shape[0], *(gradient.shape[a] for a in spatial)])
    group, _ = _group(lowering, op, out, floordiv(gradient.shape[channel_axis], op.groups))
    read, met = [image] * x.rank, [image] * x.rank
    read[channel_axis], met[channel_axis] = out, group.scaled(op.result.type.shape[1]) + channel
    conditions: list[Condition] = []
    for n, axis in enumerate(spatial):
        read[axis] = windows[n]
        met[axis] = windows[n].scaled(op.strides[n]) + taps[n].scaled(op.dilations[n]) + op.low[n] * -1
        if op.low[n] != 0 or op.high[n] != 0:
            conditions.append((met[axis], x.shape[axis]))
    zero = lowering.graph.constant(0.0, x.dtype)
    value = lowering.graph.guard(tuple(conditions), lowering.element(op.input, tuple(met)), zero)
    return _sum_of_products(lowering, value, lowering.element(op.gradient, tuple(read)))
