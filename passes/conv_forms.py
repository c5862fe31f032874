"""Convolutions that no schedule covers, as forms that one does.

A convolution over three spatial axes is a two-dimensional one over stacked slices: for each output plane, the input
planes that its depth taps see are laid side by side as channels. The data is copied once a depth tap, which is
little beside the products. A transposed convolution whose windows neither overlap nor leave gaps is a matrix product
that computes all pixels of a window at once; with few output channels the schedule would leave most of each vector
empty, while the product has the input's pixels in its vectors. The gradient of a weight with three spatial axes is one
matrix product for each element of the kernel.
"""

from __future__ import annotations

import itertools

import numpy as np

from ds_compiler.ir import Builder, Dim, Module, Value
from ds_compiler.ir.dims import floordiv, maximum
from ds_compiler.ops import Concat, Constant, Conv, ConvTranspose, ConvWeightGradient, DotGeneral, Pad, Slice
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant, reshaped, transposed
from ds_compiler.passes.rewriter import PatternSet, Rewrite, rewrite

_FEW_CHANNELS = 2  # output channels up to which vectors along them would be mostly empty

pattern = PatternSet("conv-forms")


@register("conv-forms")
def convolution_forms(module: Module) -> None:
    """Compute a convolution over three spatial axes as one over two, the depth taps being channels.

    %2 = conv %0, %w       %1 = concat of slices of %0 along the depth, one a tap       [n, d, h, w, taps * c]
    (nchw, 3 axes)    →    %2 = conv (reshape %1), %w' (nhwc, 2 axes)                    [n * d, h, w, o]
    """
    rewrite(module, pattern)


@pattern(Conv)
def stacked_depth(op: Conv, builder: Builder) -> Rewrite:
    """The planes under the depth taps become channels, output planes become images."""
    x, kernel = op.input, op.weight.type.shape
    if op.spatial_rank != 3 or x.type.dtype.name not in ("f32", "f64"):
        return None
    out, per_group, *taps = kernel
    if not (isinstance(out, int) and isinstance(per_group, int) and all(isinstance(t, int) for t in taps)):
        return None
    if op.layout == "nchw":
        x = transposed(builder, x, (0, 2, 3, 4, 1))
    count = taps[0]
    assert isinstance(count, int)
    weight = _flattened(builder, op.weight, count)
    planes = op.result.type.shape[2 if op.layout == "nchw" else 1]
    stacked = _stacked(builder, op, x, planes, count, per_group)
    n, _, height, width, channels = stacked.type.shape
    images = reshaped(builder, stacked, (n * planes, height, width, channels))
    flat = builder.emit(
        Conv(images, weight, op.strides[1:], op.low[1:], op.high[1:], op.dilations[1:], op.groups, "nhwc")
    )
    result = reshaped(builder, flat, (n, planes, *flat.type.shape[1:]))
    return transposed(builder, result, (0, 4, 1, 2, 3)) if op.layout == "nchw" else result


def _flattened(builder: Builder, weight: Value, count: int) -> Value:
    """``[o, c, taps, kh, kw]`` as ``[o, taps * c, kh, kw]``."""
    out, per_group, _, rows, columns = weight.type.shape
    shape = (out, per_group * count, rows, columns)
    array, order = constant(weight), (0, 2, 1, 3, 4)
    if array is not None:
        return builder.emit(
            Constant(np.ascontiguousarray(array.transpose(order)).reshape(array.shape[0], -1, *array.shape[3:]))
        )
    return reshaped(builder, transposed(builder, weight, order), shape)


def _stacked(builder: Builder, op: Conv, x: Value, planes: Dim, count: int, per_group: int) -> Value:
    """The planes of ``x: [n, d, h, w, c]`` under each depth tap, side by side in the channels of each group."""
    low, high = op.low[0], op.high[0]
    if low != 0 or high != 0:
        zero = builder.emit(Constant(np.zeros((), x.type.dtype.numpy)))
        x = builder.emit(Pad(x, zero, (0, low, 0, 0, 0), (0, high, 0, 0, 0)))
    n, _, height, width, channels = x.type.shape
    parts: list[Value] = []
    for tap in range(count):
        start, step = tap * op.dilations[0], op.strides[0]
        part = builder.emit(Slice(x, (0, start, 0, 0, 0), (n, planes, height, width, channels), (1, step, 1, 1, 1)))
        parts.append(reshaped(builder, part, (n, planes, height, width, op.groups, per_group)))
    whole = parts[0] if count == 1 else builder.emit(Concat(tuple(parts), 5))
    return reshaped(builder, whole, (n, planes, height, width, op.groups * count * per_group))


@pattern(ConvTranspose)
def separate_windows(op: ConvTranspose, builder: Builder) -> Rewrite:
    """Windows side by side, of few channels or with a weight made at run time: the product of the weight and the
    pixels, interleaved."""
    x, out = op.input, op.weight.type.shape[1]
    kernel = op.weight.type.shape[2:]
    if op.spatial_rank != 2 or op.groups != 1 or x.type.dtype.name not in ("f32", "f64"):
        return None
    if kernel != op.strides or set(op.dilations) != {1}:
        return None
    # With more channels the schedule is as good, but it wants the weight packed ahead.
    if not isinstance(out, int) or (out > _FEW_CHANNELS and constant(op.weight) is not None):
        return None
    first = op.layout == "nchw"
    n, *rest = x.type.shape
    height, width = rest[1:] if first else rest[:2]
    rows, columns = op.strides
    spatial = (height * rows, width * columns)
    shape = (n, out, *spatial) if first else (n, *spatial, out)
    if any(p != 0 for p in (*op.low, *op.high)) or op.result.type.shape != shape:
        return None
    # [c, o, kh, kw] x [n, c, h, w] -> [o, kh, kw, n, h, w]
    product = builder.emit(DotGeneral(op.weight, x, (), (), (0,), (1 if first else 3,)))
    order = (3, 0, 4, 1, 5, 2) if first else (3, 4, 1, 5, 2, 0)
    return reshaped(builder, transposed(builder, product, order), shape)


@pattern(ConvWeightGradient)
def products_by_tap(op: ConvWeightGradient, builder: Builder) -> Rewrite:
    """With three spatial axes: for each element of the kernel, a product over batch and windows of what it met.

    Channels go last: then batch and windows walk as one contracted axis of a matrix product.
    """
    if op.spatial_rank != 3 or op.input.type.dtype.name not in ("f32", "f64"):
        return None
    x, g = op.input, op.gradient
    if op.layout == "nchw":
        x, g = (transposed(builder, v, (0, 2, 3, 4, 1)) for v in (x, g))
    groups, (n, *windows, out) = op.groups, g.type.shape
    channels, missing = x.type.shape[-1], list(op.high)
    for i, (count, stride, extent, dilation) in enumerate(
        zip(windows, op.strides, op.kernel, op.dilations, strict=True)
    ):
        missing[i] = maximum((count - 1) * stride + (extent - 1) * dilation + 1 - op.low[i] - x.type.shape[i + 1], 0)
    zero = builder.emit(Constant(np.zeros((), x.type.dtype.numpy)))
    x = builder.emit(Pad(x, zero, (0, *op.low, 0), (0, *missing, 0)))
    per_group = op.result.type.shape[1]
    summed, group = (0, 1, 2, 3), () if groups == 1 else (4,)
    g = g if groups == 1 else reshaped(builder, g, (n, *windows, groups, floordiv(out, groups)))
    parts: list[Value] = []
    for tap in itertools.product(*map(range, op.kernel)):
        start = (0, *(t * d for t, d in zip(tap, op.dilations, strict=True)), 0)
        met: Value = builder.emit(Slice(x, start, (n, *windows, channels), (1, *op.strides, 1)))
        if groups > 1:
            met = reshaped(builder, met, (n, *windows, groups, per_group))
        product = builder.emit(DotGeneral(g, met, group, group, summed, summed))
        parts.append(reshaped(builder, product, (out, per_group, 1)))
    whole = parts[0] if len(parts) == 1 else builder.emit(Concat(tuple(parts), 2))
    return reshaped(builder, whole, op.result.type.shape)
