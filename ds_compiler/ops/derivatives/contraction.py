"""Derivatives of matrix products and convolutions, as matrix products and convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ops.contraction import Conv, ConvTranspose, DotGeneral
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms, inverse

# Below this, one product over all elements of the kernel at once, instead of one each: a matrix product of few columns
# is slow. Above, it would hold a copy of the input for each element of the kernel at once.
_FEW_CHANNELS = 16


@derivative(DotGeneral)
def dot_general(b: Terms, op: DotGeneral, g: Value) -> Cotangents:
    """Each operand's cotangent contracts the result's with the other operand."""
    batch = tuple(range(len(op.lhs_batch)))
    rows = tuple(range(len(batch), len(batch) + len(op.lhs_free)))
    columns = tuple(range(len(batch) + len(rows), g.type.rank))
    lhs = _side(
        b,
        g,
        (batch, columns, rows),
        op.rhs,
        (op.rhs_batch, op.rhs_free, op.rhs_contract),
        op.lhs_batch,
        op.lhs_free,
        op.lhs_contract,
    )
    rhs = _side(
        b,
        g,
        (batch, rows, columns),
        op.lhs,
        (op.lhs_batch, op.lhs_free, op.lhs_contract),
        op.rhs_batch,
        op.rhs_free,
        op.rhs_contract,
    )
    return [lhs, rhs]


def _side(
    b: Terms,
    g: Value,
    g_axes: tuple[tuple[int, ...], ...],
    other: Value,
    other_axes: tuple[tuple[int, ...], ...],
    batch: tuple[int, ...],
    free: tuple[int, ...],
    contract: tuple[int, ...],
) -> Value:
    """One operand's cotangent. `g_axes` are the batch, contracted and kept axes of `g`, `other_axes` those of `other`.

    Of the two orders of the factors that one is taken whose result needs no transpose.
    """
    # Own axes that the kept axes of `other`, in increasing order, belong to.
    by_other = tuple(own for _, own in sorted(zip(other_axes[2], contract, strict=True)))
    g_first = (*batch, *free, *by_other)
    other_first = (*batch, *by_other, *free)
    if other_first == tuple(sorted(other_first)):
        product = DotGeneral(other, g, other_axes[0], g_axes[0], other_axes[1], g_axes[1])
        return b.emit(product)
    product = DotGeneral(g, other, g_axes[0], other_axes[0], g_axes[1], other_axes[1])
    return b.transpose(b.emit(product), inverse(g_first))


@derivative(Conv)
def conv(b: Terms, op: Conv, g: Value) -> Cotangents:
    return [_input_cotangent(b, op, g), _weight_cotangent(b, op, op.input, g)]


@derivative(ConvTranspose)
def conv_transpose(b: Terms, op: ConvTranspose, g: Value) -> Cotangents:
    x = Conv(g, op.weight, op.strides, op.low, op.high, op.dilations, op.groups, op.layout)
    return [b.reshape(b.emit(x), op.input.type.shape), _weight_cotangent(b, op, g, op.input)]


def _spatial(op: Conv | ConvTranspose) -> list[int]:
    """The spatial axes of input and result."""
    first = 2 if op.layout == "nchw" else 1
    return list(range(first, first + op.spatial_rank))


def _input_cotangent(b: Terms, op: Conv, g: Value) -> Value:
    """The transposed convolution; what no window reached, behind the last one, gets zeros."""
    shape, axes = op.input.type.shape, _spatial(op)
    kernel = op.weight.type.shape[2:]
    high: list[Dim] = []
    missing: list[Dim] = [0] * len(shape)
    for i, axis in enumerate(axes):
        full = (g.type.shape[axis] - 1) * op.strides[i] + (kernel[i] - 1) * op.dilations[i] + 1
        cut = full - op.low[i] - shape[axis]
        high.append(maximum(cut, 0))
        missing[axis] = maximum(-cut, 0)
    low = [*op.low]
    x: Value
    if set(op.strides) == {1}:
        x = b.emit(_flipped(b, op, g, low, high))
    else:
        x = b.emit(ConvTranspose(g, op.weight, op.strides, tuple(low), tuple(high), op.dilations, op.groups, op.layout))
    return b.reshape(b.pad(x, [0] * len(shape), missing), shape)


def _flipped(b: Terms, op: Conv, g: Value, low: Sequence[Dim], high: Sequence[Dim]) -> Conv | ConvTranspose:
    """With stride 1 the transposed convolution is one by the kernel turned around, if its padding is not negative."""
    weight, groups = op.weight, op.groups
    out, per_group, *kernel = weight.type.shape
    spans = [(k - 1) * d for k, d in zip(kernel, op.dilations, strict=True)]
    before = [span - a for span, a in zip(spans, low, strict=True)]
    behind = [span - a for span, a in zip(spans, high, strict=True)]
    if any(not isinstance(w, int) or w < 0 for w in (*before, *behind)):
        return ConvTranspose(g, weight, op.strides, tuple(low), tuple(high), op.dilations, groups, op.layout)
    turned = b.flip(weight, range(2, weight.type.rank))
    split = b.reshape(turned, (groups, out // groups, per_group, *kernel))
    swapped = b.transpose(split, (0, 2, 1, *range(3, 3 + len(kernel))))
    turned = b.reshape(swapped, (groups * per_group, out // groups, *kernel))
    return Conv(g, turned, op.strides, tuple(before), tuple(behind), op.dilations, groups, op.layout)


def _weight_cotangent(b: Terms, op: Conv | ConvTranspose, wide: Value, narrow: Value) -> Value:
    """For each element of the kernel, a product over batch and positions of what it met.

    `wide` is the side that windows slide over (a convolution's input), `narrow` has one element a window. The weight
    is [channels of narrow, channels of wide / groups, *kernel]. Channels go last: then batch and positions walk as
    one contracted axis of a matrix product, and layouts that are channels-last already move nothing.
    """
    weight = op.weight.type
    out, per_group, *kernel = weight.shape
    extents = [k for k in kernel if isinstance(k, int)]
    if len(extents) != len(kernel):
        raise op.error("a kernel of symbolic size has no derivative")
    if op.layout == "nchw":
        last = (0, *range(2, weight.rank), 1)
        wide, narrow = b.transpose(wide, last), b.transpose(narrow, last)
    spatial = narrow.type.shape[1:-1]
    low: list[Dim] = [0, *op.low, 0]
    high: list[Dim] = [0] * len(low)
    for i, (size, stride, extent, dilation) in enumerate(
        zip(spatial, op.strides, extents, op.dilations, strict=True), start=1
    ):
        touched = (size - 1) * stride + (extent - 1) * dilation + 1
        high[i] = maximum(touched - low[i] - wide.type.shape[i], 0)
    padded = b.pad(wide, low, high)
    sizes, steps = (*narrow.type.shape[:-1], wide.type.shape[-1]), (1, *op.strides, 1)
    met = [
        b.slice(padded, (0, *(t * d for t, d in zip(tap, op.dilations, strict=True)), 0), sizes, steps)
        for tap in itertools.product(*map(range, extents))
    ]
    taps = len(met)
    channels = wide.type.shape[-1]
    if isinstance(channels, int) and channels < _FEW_CHANNELS and op.groups == 1:
        met = [b.concat(met, weight.rank - 1)]
    parts = [_products(b, part, narrow, op.groups) for part in met]
    # [taps, out, channels] or [out, taps * channels] to [out, channels, *kernel]
    if len(parts) == 1:
        joined = b.transpose(b.reshape(parts[0], (out, taps, per_group)), (0, 2, 1))
    else:
        joined = b.concat([b.reshape(part, (out, per_group, 1)) for part in parts], 2)
    return b.reshape(joined, weight.shape)


def _products(b: Terms, wide: Value, narrow: Value, groups: int) -> Value:
    """Sums of products over all axes but the last, the channels: [groups, narrow's, wide's], or without groups."""
    summed = tuple(range(narrow.type.rank - 1))
    if groups == 1:
        return b.emit(DotGeneral(narrow, wide, (), (), summed, summed))
    if narrow.type.shape[-1] == wide.type.shape[-1] == groups:
        return b.sum(b.mul(narrow, wide), summed)

    def grouped(x: Value) -> Value:
        *others, n = x.type.shape
        return b.reshape(x, (*others, groups, n // groups))

    group = (narrow.type.rank - 1,)
    return b.emit(DotGeneral(grouped(narrow), grouped(wide), group, group, summed, summed))
