"""Pad: with a constant, or with elements of the tensor itself."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import Extent, as_size, entries, known_numbers
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Gather, Iota, Pad, Slice

_MODES = ("constant", "reflect", "edge", "wrap")


@onnx_op("Pad", since=2)
def pad_attributes(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return pad(e, n, x, list(n.ints("pads")), range(x.type.rank), e.scalar(n.float("value", 0.0), x.type.dtype))


@onnx_op("Pad", since=11)
def pad_inputs(e: Emitter, n: Node) -> Value:
    x, value, axes = n.input(0), n.optional(2), n.optional(3)
    return pad(
        e,
        n,
        x,
        entries(e, n, n.input(1), "the list of pads"),
        range(x.type.rank) if axes is None else known_numbers(e, n, axes, "the list of axes"),
        e.scalar(0, x.type.dtype) if value is None else e.reshape(value, ()),
    )


def pad(e: Emitter, n: Node, x: Value, pads: Sequence[Extent], axes: Sequence[int], value: Value) -> Value:
    """`pads`: what to add before each of `axes`, then what to add after each; negative amounts are cut off."""
    mode = n.choice("mode", "constant", _MODES)
    if len(pads) != 2 * len(axes):
        n.fail(f"{len(pads)} pads for {len(axes)} axes")
    n.axes(axes, x.type.rank)
    low: list[Dim] = [0] * x.type.rank
    high, cut_low, cut_high = list(low), list(low), list(low)
    for index, axis in enumerate(axes):
        axis = n.axis(axis, x.type.rank)
        low[axis], cut_low[axis] = _both_ways(e, pads[index])
        high[axis], cut_high[axis] = _both_ways(e, pads[index + len(axes)])
    if any(c != 0 for c in (*cut_low, *cut_high)):
        left = [d - a - b for d, a, b in zip(x.type.shape, cut_low, cut_high, strict=True)]
        if any(isinstance(d, int) and d < 0 for d in left):
            n.fail(f"cuts more off {x.type} than it has")
        sizes = [maximum(d, 0) for d in left]
        x = e.emit(Slice(x, tuple(cut_low), tuple(sizes), (1,) * x.type.rank))
    if mode == "constant":
        if all(p == 0 for p in (*low, *high)):
            return x
        return e.emit(Pad(x, value, tuple(low), tuple(high)))
    for axis in range(x.type.rank):
        if low[axis] != 0 or high[axis] != 0:
            x = e.emit(Gather(x, _sources(e, mode, x.type.shape[axis], low[axis], high[axis]), axis))
    return x


def _both_ways(e: Emitter, amount: Extent) -> tuple[Dim, Dim]:
    """(elements to add, elements to cut off)."""
    if isinstance(amount, Value):
        return as_size(e, amount, "pad"), as_size(e, e.unary("neg", amount), "cut")
    return maximum(amount, 0), maximum(-amount, 0)


def _sources(e: Emitter, mode: str, extent: Dim, low: Dim, high: Dim) -> Value:
    """For each place along the padded axis, the index of the element that it shows."""
    place = e.emit(Iota((low + extent + high,), 0, i64))
    index = e.binary("sub", place, e.size(low))
    last = e.size(extent - 1)
    if mode == "edge":
        return e.binary("min", e.binary("max", index, 0), last)
    if mode == "wrap":
        return e.binary("mod", index, e.size(extent))
    period = e.size(maximum(2 * (extent - 1), 1))  # there and back, both ends once
    index = e.binary("mod", index, period)
    return e.binary("min", index, e.binary("sub", period, index)) if extent != 1 else e.binary("mul", index, 0)
