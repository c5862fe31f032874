"""Derivatives of operations that move elements: the cotangent moves back."""

from __future__ import annotations

from ds_compiler.ir import Block, Dim, Region, Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ir.dtypes import i64
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.control import If, Yield
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms, inverse
from ds_compiler.ops.elementwise import Binary
from ds_compiler.ops.indexing import Gather
from ds_compiler.ops.shape import Broadcast, Concat, Constant, DynamicSlice, Pad, Reshape, Size, Slice, Transpose


@derivative(Reshape)
def reshape(b: Terms, op: Reshape, g: Value) -> Cotangents:
    return [b.reshape(g, op.operand.type.shape)]


@derivative(Transpose)
def transpose(b: Terms, op: Transpose, g: Value) -> Cotangents:
    return [b.transpose(g, inverse(op.permutation))]


@derivative(Broadcast)
def broadcast(b: Terms, op: Broadcast, g: Value) -> Cotangents:
    """Sum over what was repeated. Whether an axis was is known at run time alone when sizes are symbolic."""
    source, shape = op.operand.type, op.shape
    repeated = [a for i, a in enumerate(op.axes) if source.shape[i] == 1 and shape[a] != 1]
    g = b.sum(g, [a for a in range(len(shape)) if a not in op.axes or a in repeated])
    g = b.reshape(g, [1 if a in repeated else shape[a] for a in op.axes])
    for index, axis in enumerate(op.axes):
        if source.shape[index] != shape[axis] and source.shape[index] != 1:
            g = _sum_if_repeated(b, g, index, source.shape[index])
    return [g]


def _sum_if_repeated(b: Terms, g: Value, axis: int, size: Dim) -> Value:
    """The axis at the size of the operand: summed if that is 1, as it is otherwise."""
    shape = [*g.type.shape[:axis], size, *g.type.shape[axis + 1 :]]
    if isinstance(size, int):
        return b.reshape(g, shape)
    one = b.compare("eq", b.emit(Size(size)), 1)
    summed, kept = Block(), Block()
    inside = Terms(summed, location=b.location)
    inside.insert(Yield((inside.reshape(inside.sum(g, [axis]), shape),)))
    inside = Terms(kept, location=b.location)
    inside.insert(Yield((inside.reshape(g, shape),)))
    return b.insert(If(one, Region(summed), Region(kept))).results[0]


@derivative(Slice)
def slice_(b: Terms, op: Slice, g: Value) -> Cotangents:
    """The elements back at their places, zeros between and around them."""
    starts = [
        start if step > 0 else start + (size - 1) * step
        for start, size, step in zip(op.starts, op.sizes, op.steps, strict=True)
    ]
    if any(size == 0 for size in op.sizes):
        return [b.zeros(op.operand.type)]
    g = b.flip(g, [a for a, step in enumerate(op.steps) if step < 0])
    steps = [abs(step) if size != 1 else 1 for step, size in zip(op.steps, op.sizes, strict=True)]
    return [place(b, g, starts, steps, op.operand.type.shape)]


def place(b: Terms, g: Value, starts: list[Dim], steps: list[int], shape: tuple[Dim, ...]) -> Value:
    """A tensor of `shape` with `g` at every ``steps[i]``-th place from ``starts[i]``, and zeros."""
    spaced = b.spaced(g, steps)
    high = [
        n - start - size if step == 1 else maximum(n - start - size, 0)
        for n, start, size, step in zip(shape, starts, spaced.type.shape, steps, strict=True)
    ]
    return b.slice(b.pad(spaced, starts, high), [0] * len(shape), shape)


@derivative(DynamicSlice)
def dynamic_slice(b: Terms, op: DynamicSlice, g: Value) -> Cotangents:
    """Each place of the operand reads the cotangent at its distance from the corner, where that is inside."""
    shape = op.operand.type.shape
    for axis, (start, size, extent) in enumerate(zip(op.starts, op.sizes, shape, strict=True)):
        if size == extent:
            continue
        room = b.emit(Size(extent - size))
        corner = b.binary("max", b.emit(Binary(start, room, "min")), 0)
        place_type = TensorType((extent,), i64)
        distance = b.sub(b.iota((extent,), 0, i64), b.broadcast(corner, place_type.shape, ()))
        last = b.broadcast(b.sub(b.emit(Size(size)), 1), place_type.shape, ())
        clamped = b.binary("max", b.emit(Binary(distance, last, "min")), 0)
        inside = b.compare("eq", distance, clamped)
        g = b.emit(Gather(g, clamped, axis))
        g = b.where(b.broadcast(inside, g.type.shape, (axis,)), g)
    return [g, *[None] * len(op.starts)]


@derivative(Pad)
def pad(b: Terms, op: Pad, g: Value) -> Cotangents:
    inner = b.slice(g, op.low, op.operand.type.shape)
    if isinstance(op.value.defining_op, Constant):
        return [inner, None]
    outside = b.sub(g, b.pad(inner, op.low, op.high))
    return [inner, b.sum(outside, range(g.type.rank))]


@derivative(Concat)
def concat(b: Terms, op: Concat, g: Value) -> Cotangents:
    parts: list[Value | None] = []
    start: Dim = 0
    for value in op.inputs:
        starts: list[Dim] = [0] * g.type.rank
        starts[op.axis] = start
        parts.append(b.slice(g, starts, value.type.shape))
        start = start + value.type.shape[op.axis]
    return parts
