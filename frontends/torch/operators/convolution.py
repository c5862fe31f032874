"""Convolution and its derivatives, which are convolutions again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds_compiler.frontends.torch.emitter import Emitter
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ops import Conv, ConvTranspose, ConvWeightGradient


def _each(values: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(values) * rank if len(values) == 1 else tuple(values)


def _is_float(node: Any) -> bool:
    return bool(node.meta["val"].dtype.is_floating_point)


@aten("aten.convolution.default", when=_is_float)
def convolution(
    e: Emitter,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    rank = weight.type.rank - 2
    strides, pads, steps, extra = (_each(a, rank) for a in (stride, padding, dilation, output_padding))
    if transposed:
        result = _transposed(e, x, weight, strides, pads, steps, extra, groups)
    else:
        result = e.emit(Conv(x, weight, strides, pads, pads, steps, groups))
    if bias is not None:
        result = e.binary("add", result, e.broadcast(bias, result.type.shape, (1,)))
    return result


def _transposed(
    e: Emitter,
    x: Value,
    weight: Value,
    strides: tuple[int, ...],
    pads: tuple[Dim, ...],
    steps: tuple[int, ...],
    extra: tuple[Dim, ...],
    groups: int,
) -> Value:
    """The transpose of a convolution; `extra` elements more at the end of each axis."""
    high = [p - a for p, a in zip(pads, extra, strict=True)]
    cut = tuple(0 if isinstance(h, int) and h < 0 else h for h in high)
    result = e.emit(ConvTranspose(x, weight, strides, pads, cut, steps, groups))
    missing = [-h if isinstance(h, int) and h < 0 else 0 for h in high]
    return e.pad(result, [0] * result.type.rank, (0, 0, *missing))


@aten("aten.convolution_backward.default")
def convolution_backward(
    e: Emitter,
    grad: Value,
    x: Value,
    weight: Value,
    bias_sizes: Sequence[Dim] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Value | None, Value | None, Value | None]:
    """Gradients of input, weight and bias, as far as `output_mask` asks for them."""
    rank = weight.type.rank - 2
    strides, pads, steps = (_each(a, rank) for a in (stride, padding, dilation))
    grad_x: Value | None = None
    grad_weight: Value | None = None
    grad_bias: Value | None = None
    if output_mask[0] and transposed:
        spans = [(k - 1) * d + 1 for k, d in zip(weight.type.shape[2:], steps, strict=True)]
        high = [
            (size - 1) * s + span - p - extent
            for size, s, span, p, extent in zip(
                x.type.shape[2:], strides, spans, pads, grad.type.shape[2:], strict=True
            )
        ]
        grad_x = e.emit(Conv(grad, weight, strides, pads, tuple(high), steps, groups))
    elif output_mask[0]:
        extra = tuple(
            extent - ((size - 1) * s + (k - 1) * d + 1 - 2 * p)
            for extent, size, s, k, d, p in zip(
                x.type.shape[2:], grad.type.shape[2:], strides, weight.type.shape[2:], steps, pads, strict=True
            )
        )
        grad_x = _transposed(e, grad, weight, strides, pads, steps, extra, groups)
    if output_mask[1]:
        fixed, moving = (x, grad) if transposed else (grad, x)
        kernel = tuple(k for k in weight.type.shape[2:] if isinstance(k, int))
        if len(kernel) != rank:
            raise e.fail("a convolution whose kernel has a symbolic size has no gradient")
        past = tuple(
            maximum((size - 1) * s + (k - 1) * d + 1 - p - extent, 0)
            for size, s, k, d, p, extent in zip(
                fixed.type.shape[2:], strides, kernel, steps, pads, moving.type.shape[2:], strict=True
            )
        )
        grad_weight = e.emit(ConvWeightGradient(moving, fixed, kernel, strides, pads, past, steps, groups))
    if output_mask[2]:
        grad_bias = e.reduce(grad, (0, *range(2, grad.type.rank)), "sum")
    return grad_x, grad_weight, grad_bias
