"""Operators that move elements: views, joins, pads, repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds_compiler.frontends.torch.emitter import Emitter, Operand, axes_of, axis_of
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Expr, Value
from ds_compiler.ir.dims import maximum, minimum, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Broadcast, Gather, ScatterElements, Slice


@aten("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
def view(e: Emitter, x: Value, shape: Sequence[Dim]) -> Value:
    return e.reshape(x, e.result.shape)


@aten("aten.unsqueeze.default", "aten.squeeze.dims", "aten.squeeze.dim", "aten.squeeze.default")
def squeeze(e: Emitter, x: Value, *_: object) -> Value:
    return e.reshape(x, e.result.shape)


@aten("aten.permute.default")
def permute(e: Emitter, x: Value, axes: Sequence[int]) -> Value:
    return e.transpose(x, [axis_of(a, x.type.rank) for a in axes])


@aten("aten.expand.default")
def expand(e: Emitter, x: Value, shape: Sequence[Dim], implicit: bool = False) -> Value:
    return e.broadcast_to(x, e.result.shape)


def bound(position: Dim | None, extent: Dim, default: Dim) -> Dim:
    """A bound of a slice counted from the front and clamped into the axis."""
    if position is None:
        return default
    if isinstance(position, int):
        if position < 0:
            return maximum(extent + position, 0)
        if position >= 2**62:
            return extent
        if isinstance(extent, Expr) and position == 0:
            return 0
    return minimum(position, extent)


@aten("aten.slice.Tensor")
def slice_(
    e: Emitter, x: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    axis = axis_of(dim, x.type.rank)
    extent = x.type.shape[axis]
    first = bound(start, extent, 0)
    return e.slice(x, axis, first, maximum(bound(end, extent, extent), first), step)


@aten("aten.select.int")
def select(e: Emitter, x: Value, dim: int, index: Dim) -> Value:
    axis = axis_of(dim, x.type.rank)
    first = x.type.shape[axis] + index if isinstance(index, int) and index < 0 else index
    return e.reshape(e.slice(x, axis, first, first + 1), e.result.shape)


@aten("aten.slice_scatter.default")
def slice_scatter(
    e: Emitter, x: Value, source: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    axis = axis_of(dim, x.type.rank)
    extent = x.type.shape[axis]
    first = bound(start, extent, 0)
    last = maximum(bound(end, extent, extent), first)
    if step == 1:
        before, after = e.slice(x, axis, 0, first), e.slice(x, axis, last, extent)
        parts = [p for p in (before, e.cast(source, x.type.dtype), after) if p.type.shape[axis] != 0]
        return e.concat(parts, axis)
    # Each element is followed by step - 1 others; a mask tells which are written.
    index = e.binary("add", e.binary("mul", e.iota(source.type.shape, axis), step), first)
    return e.emit(ScatterElements(x, index, e.cast(source, x.type.dtype), axis, "set"))


@aten("aten.select_scatter.default")
def select_scatter(e: Emitter, x: Value, source: Value, dim: int, index: Dim) -> Value:
    axis = axis_of(dim, x.type.rank)
    first = x.type.shape[axis] + index if isinstance(index, int) and index < 0 else index
    shape = [1 if a == axis else d for a, d in enumerate(x.type.shape)]
    return slice_scatter(e, x, e.reshape(source, shape), axis, first, first + 1)


@aten("aten.cat.default")
def cat(e: Emitter, tensors: Sequence[Value], dim: int = 0) -> Value:
    rank = e.result.rank
    axis = axis_of(dim, rank)
    parts = [t for t in tensors if not (t.type.shape == (0,) and rank != 1)]  # PyTorch lets [0] pass with any rank
    return e.concat([e.cast(t, e.result.dtype) for t in parts], axis)


@aten("aten.split_with_sizes.default")
def split_with_sizes(e: Emitter, x: Value, sizes: Sequence[Dim], dim: int = 0) -> list[Value]:
    axis = axis_of(dim, x.type.rank)
    parts: list[Value] = []
    start: Dim = 0
    for count in sizes:
        parts.append(e.slice(x, axis, start, start + count))
        start = start + count
    return parts


@aten("aten.constant_pad_nd.default")
def constant_pad_nd(e: Emitter, x: Value, pad: Sequence[Dim], value: Operand = 0) -> Value:
    rank = x.type.rank
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for index in range(len(pad) // 2):
        axis = rank - 1 - index
        before, after = pad[2 * index], pad[2 * index + 1]
        if isinstance(before, int) and before < 0:
            x, before = e.slice(x, axis, -before, x.type.shape[axis]), 0
        if isinstance(after, int) and after < 0:
            x, after = e.slice(x, axis, 0, x.type.shape[axis] + after), 0
        low[axis], high[axis] = before, after
    return e.pad(x, low, high, value)


@aten("aten.repeat.default")
def repeat(e: Emitter, x: Value, repeats: Sequence[Dim]) -> Value:
    new = len(repeats) - x.type.rank
    shape: list[Dim] = []
    axes: list[int] = []
    for axis, count in enumerate(repeats):
        shape.append(count)
        if axis >= new:
            axes.append(len(shape))
            shape.append(x.type.shape[axis - new])
    return e.reshape(e.emit(Broadcast(x, tuple(shape), tuple(axes))), e.result.shape)


@aten("aten.flip.default", "prims.rev.default")
def flip(e: Emitter, x: Value, dims: Sequence[int]) -> Value:
    axes = axes_of(list(dims), x.type.rank) if dims else ()
    starts = tuple(d - 1 if a in axes else 0 for a, d in enumerate(x.type.shape))
    return e.emit(Slice(x, starts, x.type.shape, tuple(-1 if a in axes else 1 for a in range(x.type.rank))))


@aten("aten.diagonal.default")
def diagonal(e: Emitter, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The two axes become one at the end."""
    first, second = axis_of(dim1, x.type.rank), axis_of(dim2, x.type.rank)
    others = [a for a in range(x.type.rank) if a not in (first, second)]
    x = e.transpose(x, (*others, first, second))
    length = e.result.shape[-1]
    rank = x.type.rank
    x = e.slice(x, rank - 2, max(-offset, 0), max(-offset, 0) + length)
    x = e.slice(x, rank - 1, max(offset, 0), max(offset, 0) + length)
    shape = x.type.shape
    same = e.compare("eq", e.iota(shape, rank - 2), e.iota(shape, rank - 1))
    if x.type.dtype.kind == "b":
        return e.reduce(e.binary("and", x, same), (rank - 1,), "any")
    return e.reduce(e.select(same, x, e.full(0, x.type)), (rank - 1,), "sum")


def _row_major(node: Any) -> bool:
    return bool(node.args[0].meta["val"].is_contiguous())


@aten("aten.as_strided.default", when=_row_major)
def as_strided(
    e: Emitter, x: Value, size: Sequence[Dim], stride: Sequence[Dim], storage_offset: Dim | None = None
) -> Value:
    """Elements at computed places of the operand's memory."""
    shape = tuple(size)
    steps: list[Dim] = [1]
    for extent in reversed(shape[1:]):
        steps.insert(0, steps[0] * extent)
    if storage_offset in (None, 0) and list(stride) == steps[: len(shape)] and product(shape) == x.type.elements:
        return e.reshape(x, shape)
    place = e.full(storage_offset or 0, x.type.with_shape(shape).with_dtype(i64))
    for axis, step in enumerate(stride):
        place = e.binary("add", place, e.binary("mul", e.iota(shape, axis), step))
    return e.emit(Gather(e.reshape(x, (x.type.elements,)), place, 0))


@aten("aten.unfold.default")
def unfold(e: Emitter, x: Value, dimension: int, size: int, step: int) -> Value:
    """Windows along an axis; their elements become a new last axis."""
    if not x.type.rank:
        return e.reshape(x, e.result.shape) if size else e.full(0, e.result)
    axis = axis_of(dimension, x.type.rank)
    count = e.result.shape[axis]
    starts = e.binary("mul", e.iota((count, size), 0), step)
    gathered = e.emit(Gather(x, e.binary("add", starts, e.iota((count, size), 1)), axis))
    order = [a for a in range(gathered.type.rank) if a != axis + 1]
    return e.transpose(gathered, (*order, axis + 1))
