"""The rest of a quantised network: arithmetic, activations, pools and embeddings on quantised tensors.

Each dequantises its operands, computes in f32, and rounds once.
"""

from __future__ import annotations

from collections.abc import Callable

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.activation import positive_part
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.operators.microsoft.normalization import counted, embedded, normalised
from ds_compiler.frontends.onnx.operators.pooling import average_pool_of
from ds_compiler.frontends.onnx.operators.quantization import dequantised, requantised
from ds_compiler.frontends.onnx.operators.softmax import softmax
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value


@onnx_op("QLinearAdd", "QLinearMul", domain=DOMAIN)
def arithmetic(e: Emitter, n: Node) -> Value:
    a, b = (dequantised(e, n.input(i), n.input(i + 1), n.optional(i + 2)) for i in (0, 3))
    result = e.binary("add" if n.op_type == "QLinearAdd" else "mul", a, b)
    return requantised(e, result, n.input(6), n.optional(7), n.input(0).type.dtype)


@onnx_op("QLinearWhere", domain=DOMAIN)
def where(e: Emitter, n: Node) -> Value:
    a, b = (dequantised(e, n.input(i), n.input(i + 1), n.optional(i + 2)) for i in (1, 4))
    return requantised(e, e.select(e.truth(n.input(0)), a, b), n.input(7), n.optional(8), n.input(1).type.dtype)


def _through(e: Emitter, n: Node, function: Callable[[Value], Value]) -> Value:
    """`function` of input 0, whose scale and zero point are inputs 1 and 2; those of the result are 3 and 4."""
    x = n.input(0)
    result = function(dequantised(e, x, n.input(1), n.optional(2)))
    return requantised(e, result, n.input(3), n.optional(4), x.type.dtype)


@onnx_op("QLinearSigmoid", domain=DOMAIN)
def sigmoid(e: Emitter, n: Node) -> Value:
    return _through(e, n, lambda x: e.unary("sigmoid", x))


@onnx_op("QLinearLeakyRelu", domain=DOMAIN)
def leaky_relu(e: Emitter, n: Node) -> Value:
    return _through(e, n, lambda x: positive_part(e, x, e.binary("mul", x, n.float("alpha", 0.01))))


@onnx_op("QLinearSoftmax", domain=DOMAIN)
def quantized_softmax(e: Emitter, n: Node) -> Value:
    """Before opset 13 (attribute ``opset``) all axes from `axis` on are one."""

    def apply(x: Value) -> Value:
        first = n.axis(n.int("axis", -1), x.type.rank)
        return softmax(e, x, (first,) if n.int("opset", 13) >= 13 else tuple(range(first, x.type.rank)))

    return _through(e, n, apply)


@onnx_op("QLinearReduceMean", domain=DOMAIN)
def reduce_mean(e: Emitter, n: Node) -> Value:
    def apply(x: Value) -> Value:
        axes = n.axes(n.ints("axes") or range(x.type.rank), x.type.rank)
        return e.reduce(x, axes, "mean", keepdims=bool(n.int("keepdims", 1)))

    return _through(e, n, apply)


def _channels_first(e: Emitter, n: Node, function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """`function` of [batch, channels, …], for a node that may have the channels last."""
    if not n.int("channels_last", 0):
        return function

    def apply(x: Value) -> Value:
        rank = x.type.rank
        result = function(e.transpose(x, (0, rank - 1, *range(1, rank - 1))))
        return e.transpose(result, (0, *range(2, rank), 1))

    return apply


@onnx_op("QLinearGlobalAveragePool", domain=DOMAIN)
def global_average_pool(e: Emitter, n: Node) -> Value:
    return _through(e, n, _channels_first(e, n, lambda x: e.reduce(x, range(2, x.type.rank), "mean", keepdims=True)))


@onnx_op("QLinearAveragePool", domain=DOMAIN)
def average_pool(e: Emitter, n: Node) -> Value:
    return _through(e, n, _channels_first(e, n, lambda x: average_pool_of(e, n, x)))


@onnx_op("QLinearConcat", domain=DOMAIN)
def concat(e: Emitter, n: Node) -> Value:
    """Inputs: scale and zero point of the result, then tensor, scale and zero point of each part."""
    scale, zero = n.input(0), n.input(1)
    parts = [dequantised(e, n.input(i), n.input(i + 1), n.optional(i + 2)) for i in range(2, len(n.inputs), 3)]
    return requantised(e, e.concat(parts, n.axis(n.int("axis", 1), parts[0].type.rank)), scale, zero)


@onnx_op("QEmbedLayerNormalization", domain=DOMAIN)
def embed_layer_normalization(e: Emitter, n: Node) -> list[Value | None]:
    """Tables, scale and shift are quantised, each by a scale and zero point of its own. Outputs: result, lengths."""

    def table(index: int, number: int) -> Value | None:
        values = n.optional(index)
        return None if values is None else dequantised(e, values, n.input(8 + number), n.optional(13 + number))

    words, positions, segments, gamma, beta = (table(2 + i, i) for i in range(5))
    if words is None or positions is None or gamma is None or beta is None:
        n.fail("tables of words and positions, scale and shift must be given")
    total = embedded(e, n, words, positions, segments, len(n.inputs))
    result, _, _ = normalised(e, total, (2,), n.float("epsilon", 1e-12), gamma, beta, True)
    return [result, counted(e, n.input(0), n.optional(7))]
