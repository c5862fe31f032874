"""Derivatives of matrix products and convolutions, as matrix products, convolutions and sums over their windows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv, maximum
from ds_compiler.ops.contraction import Conv, ConvTranspose, ConvWeightGradient, DotGeneral, DotInteger
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms, inverse


@derivative(DotInteger)
def dot_integer(b: Terms, op: DotInteger, g: Value) -> Cotangents:
    return [None, None]


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
    """The transposed convolution, as convolutions: their schedules take weights that are computed.

    What no window reached, behind the last one, gets zeros.
    """
    strided = max(op.strides) > 1
    if not all(isinstance(k, int) for k in op.weight.type.shape[2:]) or (strided and max(op.dilations) > 1):
        return _transposed(b, op, g)
    return _interleaved(b, op, g) if strided else _turned(b, op, g)


def _crop(b: Terms, op: Conv, x: Value, low: Sequence[Dim]) -> Value:
    """`x`, which begins `low` in front of the convolution's input, cut or filled up to the input's shape."""
    shape = op.input.type.shape
    starts: list[Dim] = [0] * len(shape)
    missing: list[Dim] = [0] * len(shape)
    for axis, before in zip(_spatial(op), low, strict=True):
        starts[axis] = before
        missing[axis] = maximum(before + shape[axis] - x.type.shape[axis], 0)
    return b.slice(b.pad(x, [0] * len(shape), missing), starts, shape)


def _transposed(b: Terms, op: Conv, g: Value) -> Value:
    none = (0,) * op.spatial_rank
    full = ConvTranspose(g, op.weight, op.strides, none, none, op.dilations, op.groups, op.layout)
    return _crop(b, op, b.emit(full), op.low)


def _turned(b: Terms, op: Conv, g: Value) -> Value:
    """With stride 1: the convolution by the kernel turned around."""
    spans = [(k - 1) * d for k, d in zip(op.weight.type.shape[2:], op.dilations, strict=True)]
    # Padding of the input shortens the cotangent's; where it would become negative, the result is cut instead.
    cut = [maximum(a - span, 0) for a, span in zip(op.low, spans, strict=True)]
    low = tuple(span - a + c for a, span, c in zip(op.low, spans, cut, strict=True))
    high = tuple(maximum(span - a, 0) for a, span in zip(op.high, spans, strict=True))
    ones = (1,) * op.spatial_rank
    weight = _swapped(b, op.weight, op.groups)
    return _crop(b, op, b.emit(Conv(g, weight, ones, low, high, op.dilations, op.groups, op.layout)), cut)


def _swapped(b: Terms, weight: Value, groups: int) -> Value:
    """The kernel turned around, input and output channels of each group exchanged."""
    out, per_group, *kernel = weight.type.shape
    turned = b.flip(weight, range(2, weight.type.rank))
    split = b.reshape(turned, (groups, floordiv(out, groups), per_group, *kernel))
    swapped = b.transpose(split, (0, 2, 1, *range(3, 3 + len(kernel))))
    return b.reshape(swapped, (groups * per_group, floordiv(out, groups), *kernel))


def _interleaved(b: Terms, op: Conv, g: Value) -> Value:
    """With strides: places of the input that differ by whole strides meet the same elements of the kernel.

    Each such set of places is a convolution of the cotangent by these elements; the sets interleave.
    """
    axes, strides = _spatial(op), op.strides
    kernel = [int(str(k)) for k in op.weight.type.shape[2:]]
    counts = [g.type.shape[a] for a in axes]
    lengths = [n + -(-k // s) - 1 for n, k, s in zip(counts, kernel, strides, strict=True)]
    ones = (1,) * len(axes)
    parts: list[Value] = []
    for phase in itertools.product(*map(range, strides)):
        taps = [-(-(k - r) // s) if r < k else 0 for k, r, s in zip(kernel, phase, strides, strict=True)]
        if 0 in taps:
            shape = list(op.input.type.shape)
            for axis, length in zip(axes, lengths, strict=True):
                shape[axis] = length
            parts.append(b.zeros(g.type.with_shape(shape)))
            continue
        weight = b.slice(op.weight, (0, 0, *phase), (*op.weight.type.shape[:2], *taps), (1, 1, *strides))
        low = tuple(t - 1 for t in taps)
        high = tuple(length - n for length, n in zip(lengths, counts, strict=True))
        weight = _swapped(b, weight, op.groups)
        parts.append(b.emit(Conv(g, weight, ones, low, high, ones, op.groups, op.layout)))
    for axis, stride in reversed(list(zip(axes, strides, strict=True))):  # the last axis varies fastest
        parts = [_woven(b, parts[i : i + stride], axis) for i in range(0, len(parts), stride)]
    return _crop(b, op, parts[0], op.low)


def _woven(b: Terms, parts: Sequence[Value], axis: int) -> Value:
    """Element i of part r becomes element ``i * len(parts) + r`` along an axis."""
    shape = parts[0].type.shape
    behind = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    joined = b.concat([b.reshape(part, behind) for part in parts], axis + 1)
    return b.reshape(joined, (*shape[:axis], shape[axis] * len(parts), *shape[axis + 1 :]))


def _weight_cotangent(b: Terms, op: Conv | ConvTranspose, wide: Value, narrow: Value) -> Value:
    """`wide` is the side that windows slide over (a convolution's input), `narrow` has one element a window."""
    kernel = tuple(k for k in op.weight.type.shape[2:] if isinstance(k, int))
    if len(kernel) != op.spatial_rank:
        raise op.error("a kernel of symbolic size has no derivative")
    gradient = ConvWeightGradient(wide, narrow, kernel, op.strides, op.low, op.high, op.dilations, op.groups, op.layout)
    return b.reshape(b.emit(gradient), op.weight.type.shape)


@derivative(ConvWeightGradient)
def conv_weight_gradient(b: Terms, op: ConvWeightGradient, g: Value) -> Cotangents:
    """The three operations are one trilinear sum: each is the derivative of the other two."""
    rest = (op.strides, op.low, op.high, op.dilations, op.groups, op.layout)
    conv = Conv(op.input, g, *rest)
    return [_input_cotangent(b, conv, op.gradient), b.reshape(b.emit(conv), op.gradient.type.shape)]
