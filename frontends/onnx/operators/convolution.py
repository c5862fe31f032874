"""Convolution and its transpose; the bias is a broadcast and an addition, which join the convolution's kernel.

Narrow floats are computed as f32 and rounded once, after the bias.
"""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.windows import AUTO_PAD, explicit_pads, per_axis, read_windows
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv, maximum
from ds_compiler.ops import Conv, ConvTranspose, Pad


def kernel_sizes(n: Node, x: Value, weight: Value) -> tuple[int, ...]:
    """The kernel's sizes, as the weight and the attribute say them."""
    if x.type.rank < 3 or weight.type.rank != x.type.rank:
        n.fail(f"input is {x.type}, weight is {weight.type}")
    sizes = weight.type.shape[2:]
    stated = n.ints("kernel_shape") or tuple(d for d in sizes if isinstance(d, int))
    if len(stated) != len(sizes) or any(isinstance(d, int) and d != k for d, k in zip(sizes, stated, strict=True)):
        n.fail(f"attribute kernel_shape={list(stated)} does not fit the weight {weight.type}")
    return stated


def _biased(e: Emitter, n: Node, result: Value) -> Value:
    """The result with its bias, in the element type of the first input."""
    bias, dtype = n.optional(2), n.input(0).type.dtype
    if bias is not None:
        if bias.type.rank != 1:
            n.fail(f"the bias is {bias.type}, expected a vector")
        if bias.type.dtype != dtype:
            n.fail(f"element types differ: {n.input(0).type}, bias {bias.type}")
        result = e.binary("add", result, e.broadcast(e.wide(bias), result.type.shape, (1,)))
    return e.cast(result, dtype)


@onnx_op("Conv")
def conv_node(e: Emitter, n: Node) -> Value:
    return conv(e, n)


def conv(e: Emitter, n: Node) -> Value:
    """The convolution, bias included, by the inputs and attributes of a Conv."""
    x, weight = n.input(0), n.input(1)
    w = read_windows(n, x.type.shape[2:], kernel_sizes(n, x, weight))
    if x.type.dtype != weight.type.dtype:
        n.fail(f"element types differ: {x.type}, {weight.type}")
    result = e.emit(Conv(e.wide(x), e.wide(weight), w.strides, w.low, w.high, w.dilations, n.int("group", 1)))
    return _biased(e, n, result)


@onnx_op("ConvTranspose")
def conv_transpose(e: Emitter, n: Node) -> Value:
    """Output elements that ``output_padding`` or ``output_shape`` adds behind the last tap hold the bias alone."""
    x, weight = n.input(0), n.input(1)
    kernel = kernel_sizes(n, x, weight)
    if x.type.dtype != weight.type.dtype:
        n.fail(f"element types differ: {x.type}, {weight.type}")
    rank = len(kernel)
    strides, dilations = per_axis(n, "strides", rank), per_axis(n, "dilations", rank)
    extra = n.ints("output_padding", (0,) * rank)
    if len(extra) != rank:
        n.fail(f"attribute output_padding={list(extra)} does not fit {rank} spatial axes")
    mode = n.choice("auto_pad", "NOTSET", AUTO_PAD)
    pads = explicit_pads(n, rank)
    wanted = n.ints("output_shape")[-rank:]
    low: list[Dim] = []
    high: list[Dim] = []
    behind: list[Dim] = []
    for axis, size in enumerate(x.type.shape[2:]):
        full = (size - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 + extra[axis]
        if wanted or mode in ("SAME_UPPER", "SAME_LOWER"):
            total = full - (wanted[axis] if wanted else size * strides[axis])
            crop = maximum(total, 0)
            less = floordiv(crop, 2)
            first = less if mode == "SAME_UPPER" else crop - less
            last = total - first
        else:
            first, last = (0, 0) if mode == "VALID" else (pads[axis], pads[axis + rank])
        last = last - extra[axis]
        low.append(first)
        high.append(maximum(last, 0))
        behind.append(maximum(-last, 0))
    groups = n.int("group", 1)
    result = e.emit(ConvTranspose(e.wide(x), e.wide(weight), strides, tuple(low), tuple(high), dilations, groups))
    if any(width != 0 for width in behind):
        zero = e.scalar(0, result.type.dtype)
        result = e.emit(Pad(result, zero, (0,) * (rank + 2), (0, 0, *behind)))
    return _biased(e, n, result)
