"""Images as columns of their windows, and back: Col2Im, DeformConv."""

from __future__ import annotations

import itertools

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import as_size, entries, known_numbers
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.windows import explicit_pads, per_axis
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, TensorType, Value
from ds_compiler.ir.dims import floordiv, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import DotGeneral, Gather, Iota, ScatterElements, Slice


@onnx_op("Col2Im", since=18)
def col2im(e: Emitter, n: Node) -> Value:
    """Columns [batch, channels * window, positions] added up where their windows lie in the image."""
    x = n.input(0)
    image = [as_size(e, d) for d in entries(e, n, n.input(1), "the image's shape")]
    window = known_numbers(e, n, n.input(2), "the window's shape")
    rank = len(image)
    if x.type.rank != 3 or len(window) != rank or not rank or min(window) < 1:
        n.fail(f"columns {x.type}, an image of {rank} axes, windows {list(window)}")
    strides, dilations, pads = per_axis(n, "strides", rank), per_axis(n, "dilations", rank), explicit_pads(n, rank)
    low, high = pads[:rank], pads[rank:]
    taps = int(np.prod(window))
    batch, depth, positions = x.type.shape
    channels = floordiv(depth, taps)
    e.assume(depth, channels * taps, f"{n.op_type}: {depth} rows are no multiple of the window's {taps} elements")
    padded = [size + a + b for size, a, b in zip(image, low, high, strict=True)]
    counts = [
        floordiv(size - (k - 1) * d - 1, s) + 1
        for size, k, d, s in zip(padded, window, dilations, strides, strict=True)
    ]
    e.assume(positions, product(tuple(counts)), f"{n.op_type}: {positions} columns do not cover the image {image}")
    place = _window_positions(e, window, counts, strides, dilations, padded)
    planes = product((batch, channels))
    updates = e.reshape(x, (planes, product((taps, *counts))))
    index = e.broadcast(e.reshape(place, updates.type.shape[1:]), updates.type.shape, (1,))
    zeros = e.full(0, TensorType((planes, product(tuple(padded))), x.type.dtype))
    total = e.reshape(e.emit(ScatterElements(zeros, index, updates, 1, "add")), (batch, channels, *padded))
    if not any(pads):
        return total
    return e.emit(Slice(total, (0, 0, *low), (batch, channels, *image), (1,) * (rank + 2)))


def _window_positions(
    e: Emitter,
    window: tuple[int, ...],
    counts: list[Dim],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padded: list[Dim],
) -> Value:
    """Where in the flattened padded image each tap of each window lies: [*window, *counts]."""
    shape = (*window, *counts)
    rank = len(window)
    total: Value | None = None
    for axis in range(rank):
        tap = e.binary("mul", e.emit(Iota(shape, axis, i64)), dilations[axis])
        at = e.binary("add", tap, e.binary("mul", e.emit(Iota(shape, rank + axis, i64)), strides[axis]))
        total = at if total is None else e.binary("add", e.binary("mul", total, e.size(padded[axis])), at)
    assert total is not None
    return total


@onnx_op("DeformConv", since=19)
def deform_conv(e: Emitter, n: Node) -> Value:
    """A convolution whose taps are displaced by `offset`, read bilinearly, and weighed by `mask`: a matrix product over
    the columns that are read so."""
    x, weight, offset = n.input(0), n.input(1), n.input(2)
    if x.type.rank != 4 or weight.type.rank != 4 or offset.type.rank != 4:
        n.fail(f"takes images [batch, channels, height, width], got {x.type}, {weight.type}, {offset.type}")
    kernel = weight.type.shape[2:]
    if not all(isinstance(k, int) for k in kernel):
        n.fail(f"the kernel {weight.type} must have known sizes")
    kh, kw = (int(str(k)) for k in kernel)
    taps = kh * kw
    strides, dilations, pads = per_axis(n, "strides", 2), per_axis(n, "dilations", 2), explicit_pads(n, 2)
    groups, shared = n.int("group", 1), n.int("offset_group", 1)
    batch, channels, height, width = x.type.shape
    wide = e.wide(x)
    out = tuple(
        floordiv(size + pads[a] + pads[a + 2] - (k - 1) * dilations[a] - 1, strides[a]) + 1
        for a, (size, k) in enumerate(zip((height, width), (kh, kw), strict=True))
    )
    for what, found, wanted in zip(
        ("batch", "rows", "height", "width"), offset.type.shape, (batch, 2 * taps * shared, *out), strict=True
    ):
        e.assume(found, wanted, f"{n.op_type}: the offset's {what} is {found}, expected {wanted}")
    moved = e.reshape(e.cast(offset, wide.type.dtype), (batch, shared, taps, 2, *out))
    lanes = (batch, shared, taps, *out)
    places = []
    for axis in (0, 1):
        tap = e.emit(Iota((taps,), 0, i64))
        tap = e.binary("mod", tap, kw) if axis else e.binary("div", tap, kw)
        fixed = e.binary("mul", e.emit(Iota(out, axis, i64)), strides[axis])
        fixed = e.binary("sub", fixed, pads[axis])
        base = e.binary(
            "add", e.broadcast(fixed, lanes, (3, 4)), e.broadcast(e.binary("mul", tap, dilations[axis]), lanes, (2,))
        )
        shift = e.reshape(e.slice(moved, 3, axis, axis + 1), lanes)
        places.append(e.binary("add", e.cast(base, wide.type.dtype), shift))
    columns = _sampled(e, wide, places, shared)
    mask = n.optional(4)
    if mask is not None:
        weights = e.reshape(e.cast(mask, wide.type.dtype), lanes)
        columns = e.binary("mul", columns, e.broadcast(weights, columns.type.shape, (0, 1, 3, 4, 5)))
    depth, positions = floordiv(channels, groups) * taps, product(out)
    columns = e.reshape(columns, (batch, groups, depth, positions))
    filters = e.reshape(e.wide(weight), (groups, floordiv(weight.type.shape[0], groups), depth))
    result = e.emit(DotGeneral(filters, columns, (0,), (1,), (2,), (2,)))  # [groups, filters, batch, positions]
    result = e.reshape(e.transpose(result, (2, 0, 1, 3)), (batch, weight.type.shape[0], *out))
    bias = n.optional(3)
    if bias is not None:
        result = e.binary("add", result, e.broadcast(e.wide(bias), result.type.shape, (1,)))
    return e.cast(result, x.type.dtype)


def _sampled(e: Emitter, x: Value, places: list[Value], shared: int) -> Value:
    """Pixels of [batch, channels, height, width] at rows and columns [batch, groups, taps, *out] between pixels, zero
    outside: [batch, groups, channels of a group, taps, *out]."""
    batch, channels, height, width = x.type.shape
    _, _, taps, *out = places[0].type.shape
    each = floordiv(channels, shared)
    shape = (batch, shared, each, taps, *out)
    plane = e.reshape(e.emit(Iota((product((batch, channels)),), 0, i64)), shape[:3])
    flat = e.reshape(x, (x.type.elements,))
    axes = []
    for place, extent in zip(places, (height, width), strict=True):
        first = e.unary("floor", place)
        fraction = e.binary("sub", place, first)
        pair = []
        for step in (0, 1):
            at = e.binary("add", first, step)
            inside = e.binary("and", e.compare("ge", at, 0), e.compare("lt", at, e.cast(e.size(extent), at.type.dtype)))
            share = fraction if step else e.binary("sub", e.full(1, fraction.type), fraction)
            weight = e.select(inside, share, e.scalar(0, share.type.dtype))
            index = e.binary("min", e.binary("max", e.cast(at, i64), 0), e.size(extent - 1))
            pair.append((index, weight))
        axes.append(pair)
    total: Value | None = None
    for (row, up), (column, left) in itertools.product(*axes):
        at = e.binary("mul", e.broadcast(plane, shape, (0, 1, 2)), e.size(height))
        at = e.binary("mul", e.binary("add", at, e.broadcast(row, shape, (0, 1, 3, 4, 5))), e.size(width))
        at = e.binary("add", at, e.broadcast(column, shape, (0, 1, 3, 4, 5)))
        weight = e.broadcast(e.binary("mul", up, left), shape, (0, 1, 3, 4, 5))
        part = e.binary("mul", e.emit(Gather(flat, at, 0)), weight)
        total = part if total is None else e.binary("add", total, part)
    assert total is not None
    return total
