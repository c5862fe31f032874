"""Slice: bounds known, in symbols, or computed at run time."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import Extent, entries, known_numbers
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv, is_non_negative, maximum, minimum
from ds_compiler.ops import Slice
from ds_compiler.ops.shape import slice_size

UNBOUNDED = 2**31 - 1
"""A bound from here on (INT_MAX, INT64_MAX: exporters write both) means the end."""


@onnx_op("Slice")
def slice_attributes(e: Emitter, n: Node) -> Value:
    starts, ends = list(n.ints("starts")), list(n.ints("ends"))
    axes = n.ints("axes", range(len(starts)))
    return slices(e, n, n.input(0), starts, ends, axes, [1] * len(starts))


@onnx_op("Slice", since=10)
def slice_inputs(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    starts, ends = entries(e, n, n.input(1), "the list of starts"), entries(e, n, n.input(2), "the list of ends")
    axes, steps = n.optional(3), n.optional(4)
    return slices(
        e,
        n,
        x,
        starts,
        ends,
        range(len(starts)) if axes is None else known_numbers(e, n, axes, "the list of axes"),
        [1] * len(starts) if steps is None else known_numbers(e, n, steps, "the list of steps"),
    )


def slices(
    e: Emitter,
    n: Node,
    x: Value,
    starts: Sequence[Extent],
    stops: Sequence[Extent],
    axes: Sequence[int],
    steps: Sequence[int],
) -> Value:
    """``x[start:stop:step, …]`` with ONNX's clamping.

    Raises:
        CompileError: the lists differ in length, an axis is wrong, a step is 0.
    """
    if not len(starts) == len(stops) == len(axes) == len(steps):
        n.fail(f"{len(starts)} starts, {len(stops)} ends, {len(axes)} axes and {len(steps)} steps")
    if 0 in steps:
        n.fail("a step is 0")
    n.axes(axes, x.type.rank)
    first: list[Dim] = [0] * x.type.rank
    sizes = list(x.type.shape)
    strides = [1] * x.type.rank
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        axis = n.axis(axis, x.type.rank)
        first[axis], sizes[axis] = window(e, start, stop, step, x.type.shape[axis])
        strides[axis] = step
    if sizes == list(x.type.shape) and all(f == 0 for f in first) and all(s == 1 for s in strides):
        return x
    return e.emit(Slice(x, tuple(first), tuple(sizes), tuple(strides)))


def window(e: Emitter, start: Extent, stop: Extent, step: int, extent: Dim) -> tuple[Dim, Dim]:
    """The first index and the number of indices that ``start:stop:step`` selects from `extent`.

    A slice of the first or the last element alone has size 1: it must not be empty.
    """
    if step == 1 and start == 0 and stop == 1 and extent != 0:
        return 0, 1
    if step == 1 and start == -1 and isinstance(stop, int) and stop >= UNBOUNDED and extent != 0:
        return extent - 1, 1
    if step > 0:
        first = _bound(e, start, extent, 0, extent, clamp_high=step != 1)
        last = _bound(e, stop, extent, 0, extent)
    else:
        first = _bound(e, start, extent, 0, extent - 1)
        last = _bound(e, stop, extent, -1, extent - 1)
    if isinstance(first, int) and isinstance(extent, int) and first >= extent:
        return 0, 0  # nothing is read, from a place that exists
    return first, slice_size(first, last, step)


def _bound(e: Emitter, position: Extent, extent: Dim, low: int, high: Dim, clamp_high: bool = True) -> Dim:
    """`position`, counted from the end if negative, clamped. Without `clamp_high` a start that is too large stays:
    the slice is empty then."""
    if isinstance(position, Value):
        size = e.size(extent)
        position = e.select(e.compare("lt", position, 0), e.binary("add", position, size), position)
        position = e.binary("min", e.binary("max", position, low), e.size(high))
        return e.bind(e.binary("sub", position, low), "bound") + low  # a bound symbol is not negative
    if isinstance(position, int):
        if position >= UNBOUNDED:
            return high
        if position <= -UNBOUNDED:
            return _clamp(low, low, high)
    if is_non_negative(position):
        return minimum(position, high) if clamp_high or isinstance(high, int) else position
    if is_non_negative(-position - 1):
        return _clamp(position + extent, low, high)
    if position == extent - 1:  # negative only where the extent is 0, and then it is clamped all the same
        return _clamp(position, low, high)
    # ⌊position / 2^62⌋ is -1 below 0, else 0.
    return _clamp(position - extent * floordiv(position, 1 << 62), low, high)


def _clamp(position: Dim, low: int, high: Dim) -> Dim:
    if is_non_negative(high - position) and is_non_negative(high - low):
        return maximum(position, low)
    return minimum(maximum(position, low), high)
