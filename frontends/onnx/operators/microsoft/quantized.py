"""Products and attention of quantised operands, which are summed exactly and scaled once."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.contraction import matmul
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.operators.microsoft.attention import attention_of, projected, with_stacked_past
from ds_compiler.frontends.onnx.operators.quantization import (
    centred,
    dynamically_quantised,
    of_columns,
    of_rows,
    rescaled,
)
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import f32


def scaled_product(
    e: Emitter, a: Value, b: Value, a_scale: Value, b_scale: Value, a_zero: Value | None, b_zero: Value | None
) -> Value:
    """The product of two quantised operands as f32; scales are one, one a row of `a` or one a column of `b`."""
    total = matmul(e, centred(e, a, of_rows(e, a_zero)), centred(e, b, of_columns(e, b_zero)))
    left, right = of_rows(e, a_scale), of_columns(e, b_scale)
    assert left is not None and right is not None
    return e.binary("mul", e.cast(total, f32), e.binary("mul", e.cast(left, f32), e.cast(right, f32)))


def _biased(e: Emitter, x: Value, bias: Value | None) -> Value:
    return x if bias is None else e.binary("add", x, e.cast(bias, x.type.dtype))


@onnx_op("MatMulIntegerToFloat", domain=DOMAIN)
def matmul_integer_to_float(e: Emitter, n: Node) -> Value:
    a, b, a_scale, b_scale = (n.input(i) for i in range(4))
    result = scaled_product(e, a, b, a_scale, b_scale, n.optional(4), n.optional(5))
    return e.cast(_biased(e, result, n.optional(6)), a_scale.type.dtype)


@onnx_op("DynamicQuantizeMatMul", domain=DOMAIN)
def dynamic_quantize_matmul(e: Emitter, n: Node) -> Value:
    """The left operand is quantised by its own range."""
    x = n.input(0)
    a, scale, zero = dynamically_quantised(e, e.wide(x))
    result = scaled_product(e, a, n.input(1), scale, n.input(2), zero, n.optional(3))
    return e.cast(_biased(e, result, n.optional(4)), x.type.dtype)


@onnx_op("QGemm", domain=DOMAIN)
def quantized_gemm(e: Emitter, n: Node) -> Value:
    """``alpha * A · B + C`` where C has the scale of the sums; as f32 if the result has no scale of its own."""
    a, a_scale, a_zero, b, b_scale, b_zero = (n.input(i) for i in range(6))
    bias, y_scale, y_zero = n.optional(6), n.optional(7), n.optional(8)
    left, right = centred(e, a, of_rows(e, a_zero)), centred(e, b, _columns(e, n, b_zero))
    if n.int("transA", 0):
        left = e.transpose(left, (1, 0))
    if n.int("transB", 0):
        right = e.transpose(right, (1, 0))
    total = matmul(e, left, right)
    if bias is not None:
        total = e.binary("add", total, bias)
    rows, columns = of_rows(e, a_scale), of_columns(e, b_scale)
    assert rows is not None and columns is not None
    factor = n.float("alpha", 1.0)
    if factor != 1:
        rows = e.binary("mul", rows, factor)
    if y_scale is None:
        return e.binary("mul", e.cast(total, f32), e.binary("mul", rows, columns))
    if y_zero is None:
        n.fail("a scale of the result needs a zero point")
    return rescaled(e, total, rows, columns, y_scale, y_zero)


def _columns(e: Emitter, n: Node, zero: Value) -> Value | None:
    """Zero points of B's columns, where B may be transposed."""
    if n.int("transB", 0) and zero.type.elements != 1:
        return e.reshape(zero, (*zero.type.shape, 1))
    return of_columns(e, zero)


@onnx_op("QAttention", domain=DOMAIN)
def quantized_attention(e: Emitter, n: Node) -> list[Value | None]:
    """Attention whose projections are quantised. Outputs: result, present keys and values."""
    x, weights, bias, x_scale, w_scale = (n.input(i) for i in range(5))
    for name in ("do_rotary", "past_present_share_buffer"):
        if n.int(name, 0):
            n.fail(f"attribute {name}={n.int(name, 0)} is not supported")
    product = _biased(e, scaled_product(e, x, weights, x_scale, w_scale, n.optional(6), n.optional(7)), bias)
    heads, past, present = with_stacked_past(e, projected(e, n, product), n.optional(8))
    result, _ = attention_of(e, n, heads, past, n.optional(5), None)
    return [result, present]
