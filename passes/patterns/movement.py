"""Simplification of operations that move elements: reshape, transpose, broadcast, slice, concat, pad, gather."""

from __future__ import annotations

import itertools

from ds_compiler.ir import Builder, Dim, Value
from ds_compiler.ir.dims import is_non_negative
from ds_compiler.ops import Broadcast, Concat, DynamicSlice, Gather, Pad, Reduce, Reshape, Size, Slice, Transpose
from ds_compiler.passes.matching import constant, defined_by, groups, inverse, reshaped, transposed
from ds_compiler.passes.patterns.canonical import pattern
from ds_compiler.passes.rewriter import Rewrite


@pattern(Reshape)
def redundant_reshape(op: Reshape, builder: Builder) -> Rewrite:
    """A reshape to the same shape is nothing; of two reshapes the first goes."""
    if op.shape == op.operand.type.shape:
        return op.operand
    inner = defined_by(op.operand, Reshape)
    return None if inner is None else reshaped(builder, inner.operand, op.shape)


@pattern(Transpose)
def redundant_transpose(op: Transpose, builder: Builder) -> Rewrite:
    """Identity: nothing. Two in a row: one. Moving only axes of size 1: a reshape (free)."""
    if op.permutation == tuple(range(len(op.permutation))):
        return op.operand
    inner = defined_by(op.operand, Transpose)
    if inner is not None:
        return transposed(builder, inner.operand, [inner.permutation[a] for a in op.permutation])
    moved = [a for a in op.permutation if op.operand.type.shape[a] != 1]
    if moved == sorted(moved):
        return reshaped(builder, op.operand, op.result.type.shape)
    return None


@pattern(Transpose)
def transpose_of_reshape_with_units(op: Transpose, builder: Builder) -> Rewrite:
    """Axes of size 1 that a reshape inserted below a transpose are inserted above it instead."""
    inner = defined_by(op.operand, Reshape)
    if inner is None or inner.operand.type.rank >= inner.result.type.rank:
        return None
    after = inner.shape
    kept = [a for a in range(len(after)) if after[a] != 1]
    if tuple(after[a] for a in kept) != inner.operand.type.shape:
        return None
    order = [kept.index(a) for a in op.permutation if a in kept]
    return reshaped(builder, transposed(builder, inner.operand, order), op.result.type.shape)


@pattern(Broadcast)
def redundant_broadcast(op: Broadcast, builder: Builder) -> Rewrite:
    """To the same shape: nothing. Only new axes of size 1: a reshape. Of a broadcast: one broadcast."""
    source = op.operand.type.shape
    if all(source[i] == op.shape[axis] for i, axis in enumerate(op.axes)) and all(
        d == 1 for axis, d in enumerate(op.shape) if axis not in op.axes
    ):
        return reshaped(builder, op.operand, op.shape)
    inner = defined_by(op.operand, Broadcast)
    if inner is None:
        return None
    return builder.emit(Broadcast(inner.operand, op.shape, tuple(op.axes[a] for a in inner.axes)))


@pattern(Broadcast)
def broadcast_of_unit_axes(op: Broadcast, builder: Builder) -> Rewrite:
    """Operand axes of size 1 are dropped: the broadcast makes them anew."""
    source = op.operand.type.shape
    kept = [i for i, d in enumerate(source) if d != 1]
    if len(kept) == len(source):
        return None
    operand = reshaped(builder, op.operand, [source[i] for i in kept])
    return builder.emit(Broadcast(operand, op.shape, tuple(op.axes[i] for i in kept)))


@pattern(Transpose)
def transpose_of_broadcast(op: Transpose, builder: Builder) -> Rewrite:
    """Transpose the small operand, if at all, and broadcast to the transposed shape."""
    inner = defined_by(op.operand, Broadcast)
    if inner is None:
        return None
    position = inverse(op.permutation)
    axes = [position[a] for a in inner.axes]
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    operand = transposed(builder, inner.operand, order)
    return builder.emit(Broadcast(operand, op.result.type.shape, tuple(axes[i] for i in order)))


@pattern(Reshape)
def reshape_of_broadcast(op: Reshape, builder: Builder) -> Rewrite:
    """Broadcast to the new shape at once, where each regrouped set of axes is either repeated or carried over whole."""
    inner = defined_by(op.operand, Broadcast)
    if inner is None:
        return None
    if inner.operand.type.rank == 0:
        return builder.emit(Broadcast(inner.operand, op.shape, ()))
    regrouped = groups(inner.shape, op.shape)
    if regrouped is None:
        return None
    source = inner.operand.type.shape
    shape: list[Dim] = []
    axes: list[int] = []
    for before, after in regrouped:
        carried = [inner.axes.index(a) for a in before if a in inner.axes]
        if not carried:
            continue
        rest = [a for a in before if a not in inner.axes]
        if any(inner.shape[a] != 1 for a in rest) or any(source[i] != inner.shape[inner.axes[i]] for i in carried):
            return None
        shape.extend(op.shape[a] for a in after)
        axes.extend(after)
    return builder.emit(Broadcast(reshaped(builder, inner.operand, shape), op.shape, tuple(axes)))


@pattern(Slice)
def redundant_slice(op: Slice, builder: Builder) -> Rewrite:
    """The whole tensor: nothing. Of a slice: one slice. Of a broadcast: a smaller broadcast."""
    if op.sizes == op.operand.type.shape and all(s == 0 for s in op.starts) and all(s == 1 for s in op.steps):
        return op.operand
    inner = op.operand.defining_op
    if isinstance(inner, Slice):
        starts = tuple(a + b * s for a, b, s in zip(inner.starts, op.starts, inner.steps, strict=True))
        steps = tuple(a * b for a, b in zip(inner.steps, op.steps, strict=True))
        return builder.emit(Slice(inner.operand, starts, op.sizes, steps))
    if isinstance(inner, Broadcast):
        source = inner.operand.type.shape
        pieces = [(op.starts[a], op.sizes[a], op.steps[a], inner.shape[a]) for a in inner.axes]
        if any(source[i] not in (1, extent) for i, (_, _, _, extent) in enumerate(pieces)):
            return None
        window = [(0, 1, 1) if source[i] == 1 else piece[:3] for i, piece in enumerate(pieces)]
        operand = sliced(builder, inner.operand, *zip(*window, strict=True)) if window else inner.operand
        return builder.emit(Broadcast(operand, op.sizes, inner.axes))
    return None


def sliced(
    builder: Builder, value: Value, starts: tuple[Dim, ...], sizes: tuple[Dim, ...], steps: tuple[int, ...]
) -> Value:
    """A slice of `value` (itself for the whole)."""
    if sizes == value.type.shape and all(s == 0 for s in starts) and all(s == 1 for s in steps):
        return value
    return builder.emit(Slice(value, starts, sizes, steps))


@pattern(Slice)
def slice_of_concat(op: Slice, builder: Builder) -> Rewrite:
    """A slice that lies in some of the joined tensors reads only those."""
    inner = defined_by(op.operand, Concat)
    if inner is None or op.steps[inner.axis] != 1:
        return None
    axis = inner.axis
    first, size = op.starts[axis], op.sizes[axis]
    covering: list[Value] = []
    offset: Dim = 0
    start: Dim = 0
    for value in inner.inputs:
        end = offset + value.type.shape[axis]
        if is_non_negative(first - end):  # ends before the slice
            offset = end
            continue
        if not covering:
            if not is_non_negative(first - offset):
                return None
            start = first - offset
        covering.append(value)
        offset = end
        if is_non_negative(end - (first + size)):
            break
    else:
        return None
    if len(covering) == len(inner.inputs):
        return None
    joined = covering[0] if len(covering) == 1 else builder.emit(Concat(tuple(covering), axis))
    if joined.type.rank != op.result.type.rank:
        return None
    starts = (*op.starts[:axis], start, *op.starts[axis + 1 :])
    return sliced(builder, joined, starts, op.sizes, op.steps)


@pattern(Concat)
def flat_concat(op: Concat, builder: Builder) -> Rewrite:
    """One input: itself. Inputs that are concats along the axis are spliced in, empty ones dropped."""
    inputs: list[Value] = []
    for value in op.inputs:
        inner = defined_by(value, Concat)
        if inner is not None and inner.axis == op.axis:
            inputs.extend(inner.inputs)
        elif value.type.shape[op.axis] != 0:
            inputs.append(value)
    if not inputs or tuple(inputs) == op.inputs:
        return op.inputs[0] if len(op.inputs) == 1 and op.inputs[0].type == op.result.type else None
    joined = Concat(tuple(inputs), op.axis)
    if joined.result.type != op.result.type:
        joined.drop()
        return None
    return builder.emit(joined)


@pattern(Concat)
def concat_of_adjacent_slices(op: Concat, builder: Builder) -> Rewrite:
    """Neighbouring slices of one tensor are one slice."""
    inputs: list[Value] = list(op.inputs)
    for index in range(len(inputs) - 1):
        a, b = defined_by(inputs[index], Slice), defined_by(inputs[index + 1], Slice)
        if a is None or b is None or a.operand is not b.operand or a.steps != b.steps:
            continue
        axis = op.axis
        same = all(a.starts[i] == b.starts[i] and a.sizes[i] == b.sizes[i] for i in range(len(a.starts)) if i != axis)
        if not same or a.starts[axis] + a.sizes[axis] * a.steps[axis] != b.starts[axis]:
            continue
        sizes = tuple(s + b.sizes[i] if i == axis else s for i, s in enumerate(a.sizes))
        merged = sliced(builder, a.operand, a.starts, sizes, a.steps)
        inputs[index : index + 2] = [merged]
        result = inputs[0] if len(inputs) == 1 else builder.emit(Concat(tuple(inputs), axis))
        return result if result.type == op.result.type else None
    return None


@pattern(Pad)
def empty_pad(op: Pad, builder: Builder) -> Rewrite:
    """Padding by nothing is nothing."""
    return op.operand if all(w == 0 for w in (*op.low, *op.high)) else None


@pattern(DynamicSlice)
def static_corner(op: DynamicSlice, builder: Builder) -> Rewrite:
    """A window with a corner known now, and known to need no clamping, is a slice."""
    starts: list[Dim] = []
    for value, size, extent in zip(op.starts, op.sizes, op.operand.type.shape, strict=True):
        array = constant(value)
        known = defined_by(value, Size)
        start: Dim | None = known.dim if known is not None else None if array is None else int(array)
        if size == extent:
            start = 0
        if start is None or not is_non_negative(start) or not is_non_negative(extent - size - start):
            return None
        starts.append(start)
    return sliced(builder, op.operand, tuple(starts), op.sizes, (1,) * len(starts))


@pattern(Gather)
def gather_of_known_index(op: Gather, builder: Builder) -> Rewrite:
    """A gather with one constant index, or evenly spaced constant ones, is a slice."""
    indices = constant(op.indices)
    extent = op.operand.type.shape[op.axis]
    if indices is None or indices.ndim > 1 or indices.size == 0:
        return None
    flat = [int(i) for i in indices.reshape(-1)]
    start: Dim = flat[0]
    if flat[0] < 0:
        start = extent + flat[0]
    elif not isinstance(extent, int) and flat[0] != 0:
        return None
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if step == 0 or any(b - a != step for a, b in itertools.pairwise(flat)) or (flat[0] < 0) != (flat[-1] < 0):
        return None
    if isinstance(extent, int) and not all(-extent <= i < extent for i in flat):
        return None  # a run-time error; not for this pattern to hide
    if not isinstance(extent, int) and len(flat) > 1:
        return None
    shape = op.operand.type.shape
    starts = tuple(start if a == op.axis else 0 for a in range(len(shape)))
    sizes = tuple(len(flat) if a == op.axis else d for a, d in enumerate(shape))
    steps = tuple(step if a == op.axis else 1 for a in range(len(shape)))
    return reshaped(builder, sliced(builder, op.operand, starts, sizes, steps), op.result.type.shape)


@pattern(Reduce)
def simple_reduce(op: Reduce, builder: Builder) -> Rewrite:
    """Over no axes or axes of size 1: a reshape. Of the same reduction: one. Of a transpose: without it."""
    source = op.operand.type.shape
    if all(source[a] == 1 for a in op.axes):
        return reshaped(builder, op.operand, op.result.type.shape)
    inner = op.operand.defining_op
    if isinstance(inner, Reduce) and inner.how == op.how and len(inner.result.uses) == 1:
        left = [a for a in range(inner.operand.type.rank) if a not in inner.axes]
        axes = tuple(sorted((*inner.axes, *(left[a] for a in op.axes))))
        return builder.emit(Reduce(inner.operand, axes, op.how))
    if isinstance(inner, Transpose):
        axes = tuple(sorted(inner.permutation[a] for a in op.axes))
        reduced = builder.emit(Reduce(inner.operand, axes, op.how))
        left = [a for a in range(len(source)) if a not in axes]
        order = [left.index(p) for i, p in enumerate(inner.permutation) if i not in op.axes]
        return transposed(builder, reduced, order)
    if isinstance(inner, Broadcast) and op.how in ("mean", "max", "min") and op.operand.type.dtype.is_float:
        new = [a for a in op.axes if a not in inner.axes and isinstance(source[a], int) and source[a] != 0]
        if len(new) != len(op.axes):
            return None
        left = [a for a in range(len(source)) if a not in new]
        shape = tuple(source[a] for a in left)
        return builder.emit(Broadcast(inner.operand, shape, tuple(left.index(a) for a in inner.axes)))
    return None
