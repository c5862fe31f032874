"""Pooling over windows, and its derivatives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ds_compiler.frontends.torch.emitter import Emitter
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Predicate, ReduceWindow, ScatterElements
from ds_compiler.ops.reduction import identity


def _each(values: Sequence[int] | int, rank: int, default: Sequence[int] = ()) -> tuple[int, ...]:
    values = (values,) if isinstance(values, int) else tuple(values) or tuple(default)
    return values * rank if len(values) == 1 else values


def _high(
    e: Emitter,
    extents: Sequence[Dim],
    sizes: Sequence[Dim],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    steps: Sequence[int],
) -> list[Dim]:
    """Padding behind each axis such that there are `sizes` windows (ceil mode reaches beyond)."""
    result: list[Dim] = []
    for n, size, k, s, p, d in zip(extents, sizes, window, strides, pads, steps, strict=True):
        beyond = (size - 1) * s + (k - 1) * d + 1 - n - p
        result.append(beyond if isinstance(beyond, int) and beyond > p else p)
    return result


@aten("aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def max_pool(
    e: Emitter,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    ceil_mode: bool = False,
) -> tuple[Value, Value]:
    """(maxima, their i64 positions in the flattened spatial axes)"""
    rank = 2 if "pool2d" in e.location.kind else 3
    window = _each(kernel_size, rank)
    strides, pads, steps = _each(stride, rank, window), _each(padding, rank), _each(dilation, rank)
    lead = x.type.rank - rank
    extents, sizes = x.type.shape[lead:], e.result.shape[lead:]
    high = _high(e, extents, sizes, window, strides, pads, steps)
    axes = tuple(range(lead, lead + rank))
    values = e.emit(ReduceWindow(x, axes, window, strides, pads, tuple(high), steps, "max"))
    values = e.conform(values, e.result)

    lowest = identity("max", x.type.dtype.numpy)
    before, behind = (0,) * lead, (0,) * lead
    padded = e.pad(x, (*before, *pads), (*behind, *high), lowest)
    best: Value | None = None
    found = e.full(0, e.result.with_dtype(i64))
    for tap in itertools.product(*(range(k) for k in window)):
        part, position = padded, e.full(0, found.type)
        inside: Value | None = None
        for index, axis in enumerate(axes):
            first = tap[index] * steps[index]
            last = first + (sizes[index] - 1) * strides[index] + 1
            part = e.slice(part, axis, first, last, strides[index])
            place = e.binary(
                "add", e.binary("mul", e.iota(found.type.shape, axis), strides[index]), first - pads[index]
            )
            position = e.binary("add", e.binary("mul", position, extents[index]), place)
            if pads[index] or high[index] != 0:
                fits = e.binary("and", e.compare("ge", place, 0), e.compare("lt", place, extents[index]))
                inside = fits if inside is None else e.binary("and", inside, fits)
        better = e.compare("gt", part, best) if best is not None else None
        if better is not None and best is not None and x.type.dtype.is_float:
            better = e.binary("or", better, e.emit(Predicate(part, "isnan")))
        if better is None:
            # The first tap inside wins over nothing, even with the lowest value.
            best, found = part, position
            started = inside
            continue
        assert best is not None
        if started is not None:
            better = e.binary("or", better, e.unary("not", started))
            started = started if inside is None else e.binary("or", started, inside)
        if inside is not None:
            better = e.binary("and", better, inside)
        best, found = e.select(better, part, best), e.select(better, position, found)
    return values, found


@aten("aten.max_pool2d_with_indices_backward.default", "aten.max_pool3d_with_indices_backward.default")
def max_pool_backward(e: Emitter, grad: Value, x: Value, *arguments: object) -> Value:
    """Each gradient goes to the position of its maximum."""
    indices = arguments[-1]
    assert isinstance(indices, Value)
    rank = 2 if "pool2d" in e.location.kind else 3
    lead = x.type.rank - rank
    rows = product(x.type.shape[:lead])
    flat = x.type.with_shape((rows, product(x.type.shape[lead:])))
    places = (rows, product(grad.type.shape[lead:]))
    result = e.emit(ScatterElements(e.full(0, flat), e.reshape(indices, places), e.reshape(grad, places), 1, "add"))
    return e.reshape(result, x.type.shape)


@aten("aten.avg_pool2d.default", "aten.avg_pool3d.default")
def avg_pool(
    e: Emitter,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    rank = 2 if "pool2d" in e.location.kind else 3
    window = _each(kernel_size, rank)
    strides, pads, ones = _each(stride, rank, window), _each(padding, rank), (1,) * rank
    lead = x.type.rank - rank
    axes = tuple(range(lead, lead + rank))
    high = tuple(_high(e, x.type.shape[lead:], e.result.shape[lead:], window, strides, pads, ones))
    total = e.emit(ReduceWindow(e.wide(x), axes, window, strides, pads, high, ones, "sum"))
    total = e.conform(total, e.result.with_dtype(total.type.dtype))
    divisor = _divisor(e, total, x.type.shape[lead:], window, strides, pads, count_include_pad, divisor_override)
    return e.cast(e.binary("div", total, divisor), x.type.dtype)


def _divisor(
    e: Emitter,
    like: Value,
    extents: Sequence[Dim],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    count_include_pad: bool,
    override: int | None,
) -> Value | float:
    """How many elements each window counts: PyTorch counts padding, but not what ceil mode reaches beyond it."""
    if override:
        return float(override)
    rank = len(window)
    result: Value | None = None
    shape = like.type.shape
    for index in range(rank):
        axis = like.type.rank - rank + index
        first = e.binary("sub", e.binary("mul", e.iota(shape, axis), strides[index]), pads[index])
        edge = extents[index] + (pads[index] if count_include_pad else 0)
        last = e.binary("min", e.binary("add", first, window[index]), edge)
        if not count_include_pad:
            first = e.binary("max", first, 0)
        count = e.binary("sub", last, first)
        result = count if result is None else e.binary("mul", result, count)
    assert result is not None
    return e.cast(result, like.type.dtype)


@aten("aten.avg_pool2d_backward.default", "aten.avg_pool3d_backward.default")
def avg_pool_backward(
    e: Emitter,
    grad: Value,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Value:
    """Spread each gradient over its window: a sum over windows of the gradients, set apart by the stride."""
    rank = 2 if "pool2d" in e.location.kind else 3
    window = _each(kernel_size, rank)
    strides, pads, ones = _each(stride, rank, window), _each(padding, rank), (1,) * rank
    lead = x.type.rank - rank
    extents = x.type.shape[lead:]
    wide = e.wide(grad)
    divisor = _divisor(e, wide, extents, window, strides, pads, count_include_pad, divisor_override)
    share = e.binary("div", wide, divisor)
    low: list[Dim] = []
    high: list[Dim] = []
    for index in range(rank):
        axis, s = lead + index, strides[index]
        size = share.type.shape[axis]
        if s > 1:
            apart = e.reshape(share, (*share.type.shape[: axis + 1], 1, *share.type.shape[axis + 1 :]))
            zeros = [0] * apart.type.rank
            behind: list[Dim] = list(zeros)
            behind[axis + 1] = s - 1
            apart = e.pad(apart, zeros, behind)
            joined = (*share.type.shape[:axis], size * s, *share.type.shape[axis + 1 :])
            share = e.slice(e.reshape(apart, joined), axis, 0, (size - 1) * s + 1)
        low.append(window[index] - 1 - pads[index])
        # windows: extent = length + low + high - window + 1
        high.append(extents[index] + pads[index] - share.type.shape[axis])
    zero: list[Dim] = [0] * lead
    before: list[Dim] = []
    for index, (a, b) in enumerate(zip(low, high, strict=True)):
        axis = lead + index
        if isinstance(a, int) and a < 0:  # wider padding than windows: the first ones lie outside
            share, a = e.slice(share, axis, -a, share.type.shape[axis]), 0
        if isinstance(b, int) and b < 0:
            share, b = e.slice(share, axis, 0, share.type.shape[axis] + b), 0
        before.append(a)
        high[index] = b
    padded = e.pad(share, (*zero, *before), (*zero, *high))
    axes = tuple(range(lead, lead + rank))
    nothing = (0,) * rank
    result = e.emit(ReduceWindow(padded, axes, window, ones, nothing, nothing, ones, "sum"))
    return e.cast(e.conform(result, x.type.with_dtype(result.type.dtype)), x.type.dtype)


@aten("aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default")
def adaptive_avg_pool(e: Emitter, x: Value, output_size: Sequence[Dim]) -> Value:
    """Windows of unequal size as a product with a matrix of shares along each axis."""
    axes = _pooled(e, x)
    if all(d == 1 for d in output_size):
        return e.reduce(x, axes, "mean", True)
    result = e.wide(x)
    for axis in axes:
        result = _averaged(e, result, axis, e.result.shape[axis], x.type.shape[axis], False)
    return e.cast(result, x.type.dtype)


def _pooled(e: Emitter, x: Value) -> tuple[int, ...]:
    """The spatial axes of the current operator."""
    return tuple(range(x.type.rank - (2 if "pool2d" in e.location.kind else 3), x.type.rank))


@aten("aten._adaptive_avg_pool2d_backward.default", "aten._adaptive_avg_pool3d_backward.default")
def adaptive_avg_pool_backward(e: Emitter, grad: Value, x: Value) -> Value:
    result = e.wide(grad)
    for axis in _pooled(e, x):
        out = grad.type.shape[axis]
        if out == 1:
            result = e.binary(
                "div",
                e.broadcast_to(result, _with(result, axis, x.type.shape[axis])),
                e.scalar(x.type.shape[axis], result.type.dtype),
            )
        else:
            result = _averaged(e, result, axis, out, x.type.shape[axis], True)
    return e.cast(result, x.type.dtype)


def _with(value: Value, axis: int, size: Dim) -> tuple[Dim, ...]:
    return tuple(size if a == axis else d for a, d in enumerate(value.type.shape))


def _averaged(e: Emitter, x: Value, axis: int, out: Dim, extent: Dim, transposed: bool) -> Value:
    """Means over ``[floor(i*extent/out), ceil((i+1)*extent/out))`` along an axis, or the transpose of that map."""
    shape = (out, extent)
    row, column = e.iota(shape, 0), e.iota(shape, 1)
    first = e.binary("div", e.binary("mul", row, extent), out)
    last = e.binary("div", e.binary("add", e.binary("mul", e.binary("add", row, 1), extent), out - 1), out)
    inside = e.binary("and", e.compare("ge", column, first), e.compare("lt", column, last))
    dtype = x.type.dtype
    shares = e.binary("div", e.cast(inside, dtype), e.cast(e.binary("sub", last, first), dtype))
    last_axis = x.type.rank - 1
    order = [*(a for a in range(x.type.rank) if a != axis), axis]
    moved = e.transpose(x, order)
    result = e.product(moved, shares, (), (last_axis, 0 if transposed else 1))
    return e.transpose(result, [order.index(a) for a in range(x.type.rank)])
