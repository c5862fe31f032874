"""Quantised tensors: rounding to them, and products of them, which are summed exactly.

A zero point is taken off before the product, so padding adds nothing. Quantising rounds to nearest even and saturates.
"""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.contraction import matmul
from ds_compiler.frontends.onnx.operators.conversion import convert
from ds_compiler.frontends.onnx.operators.convolution import kernel_sizes
from ds_compiler.frontends.onnx.operators.windows import read_windows
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import DType, Value
from ds_compiler.ir.dtypes import f32, f64, i32, u8
from ds_compiler.ops import Cast, Conv

_MOST_WEIGHTS = 1 << 24  # larger tables are looked up, not multiplied


def _spread(e: Emitter, n: Node, parameter: Value, x: Value) -> Value:
    """Scales or zero points such that they broadcast to `x`: one, one for each place of an axis, or one for each
    block of places."""
    shape = parameter.type.shape
    if parameter.type.elements == 1:
        return e.reshape(parameter, ())
    axis = n.axis(n.int("axis", 1), x.type.rank)
    block = n.int("block_size", 0)
    if not block:
        if parameter.type.rank != 1:
            n.fail(f"{parameter.type} is neither one number nor a vector", help="blocks need the attribute block_size")
        return e.reshape(parameter, (*shape, *(1 for _ in range(axis + 1, x.type.rank))))
    if parameter.type.rank != x.type.rank:
        n.fail(f"blocks of {x.type} have parameters of rank {x.type.rank}, got {parameter.type}")
    split = (*shape[: axis + 1], block, *shape[axis + 1 :])
    repeated = e.broadcast(parameter, split, [a if a <= axis else a + 1 for a in range(len(shape))])
    repeated = e.reshape(repeated, (*shape[:axis], shape[axis] * block, *shape[axis + 1 :]))
    return e.slice(repeated, axis, 0, x.type.shape[axis])  # the last block may be shorter


def quantised(e: Emitter, scaled: Value, zero: Value | None, to: DType, saturate: bool) -> Value:
    """What was divided by its scale already, as `to`; `zero` broadcasts to it."""
    if to.is_float:
        if zero is not None and to.bits < 8:
            scaled = e.binary("add", scaled, e.cast(zero, scaled.type.dtype))
        return convert(e, scaled, to, saturate)
    whole = e.unary("round", e.wide(scaled))
    if zero is not None:
        whole = e.binary("add", whole, e.cast(zero, whole.type.dtype))
    return e.cast(e.clamp(whole, *to.limits), to)


@onnx_op("QuantizeLinear", since=10)
@onnx_op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(e: Emitter, n: Node) -> Value:
    x, scale, zero = n.input(0), n.input(1), n.optional(2)
    stated = element_type(n.int("output_dtype", 0), "the result") if n.int("output_dtype", 0) else None
    to = zero.type.dtype if zero is not None else stated or u8
    if stated is not None and stated != to:
        n.fail(f"output_dtype is {stated}, the zero point {to}")
    precision = n.int("precision", 0)
    within = element_type(precision, "the precision") if precision else scale.type.dtype
    spread = e.cast(_spread(e, n, scale, x), within)
    scaled = e.binary("div", e.cast(x, within), spread)
    return quantised(e, scaled, None if zero is None else _spread(e, n, zero, x), to, bool(n.int("saturate", 1)))


def _may_stay_whole(e: Emitter, x: Value) -> bool:
    """Whether `x` may be the weights of a product of integers: then the program keeps them as they are, for the pass
    `dequantised-products` to find."""
    narrow = x.type.dtype.is_integer and x.type.dtype.bits <= 8
    known = e.array(x) if narrow and x.type.rank > 1 else None
    return known is not None and known.size <= _MOST_WEIGHTS


@onnx_op("DequantizeLinear", since=10)
@onnx_op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(e: Emitter, n: Node) -> Value:
    x, scale, zero = n.input(0), n.input(1), n.optional(2)
    to = element_type(n.int("output_dtype", 0), "the result") if n.int("output_dtype", 0) else scale.type.dtype
    wide = e.insert(Cast(x, f32))[0] if _may_stay_whole(e, x) else e.cast(x, f32)
    if zero is not None and x.type.dtype.is_integer:
        if zero.type.dtype != x.type.dtype:
            n.fail(f"the zero point is {zero.type}, the input {x.type}")
        wide = e.binary("sub", wide, e.cast(_spread(e, n, zero, x), f32))
    return e.cast(e.binary("mul", wide, e.cast(_spread(e, n, scale, x), f32)), to)


def centred(e: Emitter, x: Value, zero: Value | None) -> Value:
    """As i32, without the zero point."""
    wide = e.cast(x, i32)
    return wide if zero is None else e.binary("sub", wide, e.cast(zero, i32))


def dequantised(e: Emitter, x: Value, scale: Value, zero: Value | None) -> Value:
    """As f32, by one scale and zero point for all elements."""
    centre = None if zero is None else e.reshape(zero, ())
    return e.binary("mul", e.cast(centred(e, x, centre), f32), e.cast(e.reshape(scale, ()), f32))


def requantised(e: Emitter, x: Value, scale: Value, zero: Value | None, to: DType = u8) -> Value:
    """The inverse of `dequantised`; without a zero point, as `to`."""
    scaled = e.binary("div", x, e.cast(e.reshape(scale, ()), f32))
    return quantised(
        e, scaled, None if zero is None else e.reshape(zero, ()), to if zero is None else zero.type.dtype, True
    )


def dynamically_quantised(e: Emitter, x: Value) -> tuple[Value, Value, Value]:
    """(`x` as u8, scale, zero point) such that the range of its elements and zero fill u8."""
    axes = range(x.type.rank)
    low, high = (e.binary(how, e.reduce(x, axes, how), 0) for how in ("min", "max"))
    scale = e.binary("div", e.binary("sub", high, low), 255)
    scale = e.select(e.compare("eq", scale, 0), e.full(1, scale.type), scale)
    zero = quantised(e, e.binary("div", e.unary("neg", low), scale), None, u8, True)
    return quantised(e, e.binary("div", x, scale), zero, u8, True), scale, zero


def of_rows(e: Emitter, parameter: Value | None) -> Value | None:
    """A vector with an entry for each row of a matrix, as a column."""
    if parameter is None or parameter.type.elements == 1:
        return None if parameter is None else e.reshape(parameter, ())
    return e.reshape(parameter, (*parameter.type.shape, 1)) if parameter.type.rank == 1 else parameter


def of_columns(e: Emitter, parameter: Value | None) -> Value | None:
    if parameter is None or parameter.type.elements != 1:
        return parameter
    return e.reshape(parameter, ())


def _of_filters(e: Emitter, parameter: Value | None, behind: int) -> Value | None:
    """One, or an entry for each filter, with `behind` axes after it."""
    if parameter is None or parameter.type.elements == 1:
        return None if parameter is None else e.reshape(parameter, ())
    return e.reshape(parameter, (*parameter.type.shape, *(1 for _ in range(behind))))


@onnx_op("MatMulInteger", since=10)
def matmul_integer(e: Emitter, n: Node) -> Value:
    a, b = n.input(0), n.input(1)
    return matmul(e, centred(e, a, of_rows(e, n.optional(2))), centred(e, b, of_columns(e, n.optional(3))))


@onnx_op("QLinearMatMul", since=10)
def qlinear_matmul(e: Emitter, n: Node) -> Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (n.input(i) for i in range(8))
    total = matmul(e, centred(e, a, of_rows(e, a_zero)), centred(e, b, of_columns(e, b_zero)))
    left, right = of_rows(e, a_scale), of_columns(e, b_scale)
    assert left is not None and right is not None
    return rescaled(e, total, left, right, y_scale, y_zero)


def rescaled(e: Emitter, total: Value, left: Value, right: Value, y_scale: Value, y_zero: Value) -> Value:
    """A sum of products with scale left * right, quantised anew; scales and zero point of the result are numbers."""
    factor = e.binary("mul", e.cast(left, f32), e.cast(right, f32))
    factor = e.binary("div", factor, e.cast(e.reshape(y_scale, ()), f32))
    return quantised(e, e.binary("mul", e.cast(total, f32), factor), e.reshape(y_zero, ()), y_zero.type.dtype, True)


def _convolved(e: Emitter, n: Node, x: Value, weight: Value) -> Value:
    """The convolution is one of doubles, which hold every sum that fits 32 bits exactly."""
    w = read_windows(n, x.type.shape[2:], kernel_sizes(n, x, weight))
    operands = e.cast(x, f64), e.cast(weight, f64)
    return e.cast(e.emit(Conv(*operands, w.strides, w.low, w.high, w.dilations, n.int("group", 1))), i32)


@onnx_op("ConvInteger", since=10)
def conv_integer(e: Emitter, n: Node) -> Value:
    x, weight = n.input(0), n.input(1)
    zero = n.optional(2)
    image = centred(e, x, None if zero is None else e.reshape(zero, ()))
    return _convolved(e, n, image, centred(e, weight, _of_filters(e, n.optional(3), weight.type.rank - 1)))


@onnx_op("QLinearConv", since=10)
def qlinear_conv(e: Emitter, n: Node) -> Value:
    x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero = (n.input(i) for i in range(8))
    filters = centred(e, weight, _of_filters(e, w_zero, weight.type.rank - 1))
    total = _convolved(e, n, centred(e, x, e.reshape(x_zero, ())), filters)
    bias = n.optional(8)
    if bias is not None:
        total = e.binary("add", total, e.broadcast(bias, total.type.shape, (1,)))
    scale = _of_filters(e, w_scale, weight.type.rank - 2)
    assert scale is not None
    return rescaled(e, total, e.reshape(x_scale, ()), scale, y_scale, y_zero)
