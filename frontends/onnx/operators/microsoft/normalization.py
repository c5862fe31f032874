"""Normalization of a sum with a residual connection, and of the sum of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.operators.normalization import inverse_deviation, moments
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import i32, i64
from ds_compiler.ops import Gather, Iota


def normalised(
    e: Emitter, x: Value, axes: Sequence[int], epsilon: float, gamma: Value, beta: Value | None, centred: bool
) -> tuple[Value, Value | None, Value]:
    """(`x` normalised along `axes`, its mean, the inverse of its deviation); without `centred` by the mean square."""
    mean: Value | None = None
    if centred:
        mean, x, variance = moments(e, x, axes)
    else:
        variance = e.reduce(e.binary("mul", x, x), axes, "mean", keepdims=True)
    inverse = inverse_deviation(e, variance, epsilon)
    result = e.binary("mul", e.binary("mul", x, inverse), e.cast(gamma, x.type.dtype))
    if beta is not None:
        result = e.binary("add", result, e.cast(beta, x.type.dtype))
    return result, mean, inverse


@onnx_op("SimplifiedLayerNormalization")
@onnx_op("SimplifiedLayerNormalization", domain=DOMAIN)
def simplified_layer_normalization(e: Emitter, n: Node) -> list[Value | None]:
    """onnxruntime keeps it in the default domain; outputs: result, inverse root of the mean square."""
    x, gamma = n.input(0), n.input(1)
    axes = range(n.axis(n.int("axis", -1), x.type.rank), x.type.rank)
    result, _, inverse = normalised(e, e.wide(x), axes, n.float("epsilon", 1e-5), gamma, None, False)
    return [e.cast(result, gamma.type.dtype), inverse]


@onnx_op("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_layer_normalization(e: Emitter, n: Node) -> list[Value | None]:
    """Outputs: result, mean, inverse deviation, the sum that was normalised."""
    centred = n.op_type == "SkipLayerNormalization"
    x, skip, gamma = n.input(0), n.input(1), n.input(2)
    beta, bias = (n.optional(3), n.optional(4)) if centred else (None, n.optional(3))
    total = e.binary("add", e.wide(x), e.wide(skip))
    if bias is not None:
        total = e.binary("add", total, e.wide(bias))
    axes = (x.type.rank - 1,)
    result, mean, inverse = normalised(e, total, axes, n.float("epsilon", 1e-12), gamma, beta, centred)
    return [e.cast(result, x.type.dtype), mean, inverse, e.cast(total, x.type.dtype)]


def embedded(e: Emitter, n: Node, words: Value, positions: Value, segments: Value | None, positions_at: int) -> Value:
    """The sum of a token's embeddings, [batch, sequence, hidden]; tables may be of any float type."""
    ids, kinds = n.input(0), n.optional(1)
    where = n.optional(positions_at)
    total = _looked_up(e, n, words, ids)
    shape = total.type.shape
    if where is None:
        check_table = e.emit(Iota((ids.type.shape[1],), 0, i64))
        place = _looked_up(e, n, positions, check_table)
        total = e.binary("add", total, e.broadcast(place, shape, (1, 2)))
    else:
        total = e.binary("add", total, _looked_up(e, n, positions, where))
    if segments is not None and kinds is not None:
        total = e.binary("add", total, _looked_up(e, n, segments, kinds))
    return total


def _looked_up(e: Emitter, n: Node, table: Value, indices: Value) -> Value:
    check_indices(e, n, indices, table.type.shape[0], 0)
    return e.wide(e.emit(Gather(table, indices, 0)))


def counted(e: Emitter, ids: Value, mask: Value | None) -> Value:
    """Ones of each row of `mask`, i32 [batch]: the length of each sequence; zeros without a mask."""
    if mask is None:
        return e.full(0, ids.type.with_shape(ids.type.shape[:1]).with_dtype(i32))
    return e.reduce(e.cast(e.compare("eq", mask, 1), i32), (1,), "sum")


@onnx_op("EmbedLayerNormalization", domain=DOMAIN)
def embed_layer_normalization(e: Emitter, n: Node) -> list[Value | None]:
    """Outputs: result, length of each sequence, the sum that was normalised."""
    words, positions, segments = n.input(2), n.input(3), n.optional(4)
    total = embedded(e, n, words, positions, segments, 8)
    result, _, _ = normalised(e, total, (2,), n.float("epsilon", 1e-12), n.input(5), n.input(6), True)
    lengths = counted(e, n.input(0), n.optional(7))
    return [e.cast(result, words.type.dtype), lengths, e.cast(total, words.type.dtype)]
