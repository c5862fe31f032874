"""Derivatives of pooling."""

from __future__ import annotations

import itertools

from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.derivatives.movement import place
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms
from ds_compiler.ops.reduction import ReduceWindow, identity
from ds_compiler.ops.shape import Constant, Pad


@derivative(ReduceWindow)
def reduce_window(b: Terms, op: ReduceWindow, g: Value) -> Cotangents:
    """A sum spreads over its window; a maximum goes to the first of the largest elements in row-major order."""
    match op.how:
        case "max":
            return [_to_the_first(b, op, g)]
        case "mean":
            window = 1
            for extent in op.window:
                window *= extent
            g = b.div(g, window)
        case "mean_valid":
            spatial = TensorType(tuple(op.operand.type.shape[a] for a in op.axes), g.type.dtype)
            count = b.emit(
                ReduceWindow(
                    b.full(spatial, 1),
                    tuple(range(len(op.axes))),
                    op.window,
                    op.strides,
                    op.low,
                    op.high,
                    op.dilations,
                    "sum",
                )
            )
            g = b.div(g, b.broadcast(count, g.type.shape, op.axes))
    total: Value | None = None
    padded = _padded_shape(op)
    for starts, steps in _taps(op):
        part = place(b, g, starts, steps, padded)
        total = part if total is None else b.add(total, part)
    assert total is not None
    return [_without_padding(b, op, total)]


def _padded_shape(op: ReduceWindow) -> tuple[Dim, ...]:
    """The operand's shape with its padding, and behind it what the last window touches."""
    shape = list(op.operand.type.shape)
    for i, axis in enumerate(op.axes):
        touched = (op.result.type.shape[axis] - 1) * op.strides[i] + (op.window[i] - 1) * op.dilations[i] + 1
        shape[axis] = maximum(op.low[i] + shape[axis], touched)
    return tuple(shape)


def _taps(op: ReduceWindow) -> list[tuple[list[Dim], list[int]]]:
    """Where in the padded operand each element of the window is read: (starts, steps) of a slice."""
    taps = []
    for tap in itertools.product(*map(range, op.window)):
        starts: list[Dim] = [0] * op.operand.type.rank
        steps = [1] * op.operand.type.rank
        for i, axis in enumerate(op.axes):
            starts[axis], steps[axis] = tap[i] * op.dilations[i], op.strides[i]
        taps.append((starts, steps))
    return taps


def _without_padding(b: Terms, op: ReduceWindow, x: Value) -> Value:
    starts: list[Dim] = [0] * op.operand.type.rank
    for i, axis in enumerate(op.axes):
        starts[axis] = op.low[i]
    return b.slice(x, starts, op.operand.type.shape)


def _to_the_first(b: Terms, op: ReduceWindow, g: Value) -> Value:
    x, y = op.operand, op.result
    padded = _padded_shape(op)
    low: list[Dim] = [0] * x.type.rank
    for i, axis in enumerate(op.axes):
        low[axis] = op.low[i]
    high = tuple(n - a - m for n, a, m in zip(padded, low, x.type.shape, strict=True))
    around = x
    if any(w != 0 for w in (*low, *high)):
        lowest = b.emit(Constant(identity("max", x.type.dtype.numpy).reshape(())))
        around = b.emit(Pad(x, lowest, tuple(low), high))
    total: Value | None = None
    for starts, steps in _taps(op):
        here = b.compare("eq", b.slice(around, starts, y.type.shape, steps), y)
        part = place(b, b.where(here, g), starts, steps, padded)
        total = part if total is None else b.add(total, part)
        g = b.unless(here, g)  # taken: nothing is left for the elements behind
    assert total is not None
    return _without_padding(b, op, total)
