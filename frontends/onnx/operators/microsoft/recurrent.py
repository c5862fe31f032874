"""LSTM with quantised weights."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.operators.microsoft.quantized import scaled_product
from ds_compiler.frontends.onnx.operators.quantization import dynamically_quantised
from ds_compiler.frontends.onnx.operators.recurrent import Product, lstm
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value


@onnx_op("DynamicQuantizeLSTM", domain=DOMAIN)
def dynamic_quantize_lstm(e: Emitter, n: Node) -> list[Value | None]:
    """Inputs are quantised as a whole by their own range, states anew at every step.

    Weights are [directions, depth, 4 * hidden], with one scale and zero point for each direction or column.
    """
    return lstm(e, n, _product(e, n, 1, 8), _product(e, n, 2, 10))


def _product(e: Emitter, n: Node, weights_at: int, scales_at: int) -> Product:
    weights, scales, zeros = n.input(weights_at), n.input(scales_at), n.input(scales_at + 1)
    if weights.type.rank != 3:
        n.fail(f"weights are {weights.type}, expected rank 3")

    def row(value: Value, direction: int) -> Value:
        return e.reshape(e.slice(value, 0, direction, direction + 1), value.type.shape[1:])

    def product(direction: int, x: Value) -> Value:
        quantised, scale, zero = dynamically_quantised(e, x)
        own = [row(v, direction) for v in (scales, zeros)]
        return scaled_product(e, quantised, row(weights, direction), scale, own[0], zero, own[1])

    return product
