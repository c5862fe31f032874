"""Attention and multi-head attention as onnxruntime fuses them: projections, masks of several forms, past keys.

Keys that a mask hides get `mask_filter_value` added to their scores: a row whose keys are all hidden attends to all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.attention import Masking, Scoring, attend
from ds_compiler.frontends.onnx.operators.contraction import matmul
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, DType, Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Iota


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values, [batch, heads, length, size] each."""

    q: Value
    k: Value
    v: Value

    def after(self, e: Emitter, past_key: Value, past_value: Value) -> Heads:
        """With past keys and values in front."""
        return Heads(self.q, e.concat([past_key, self.k], 2), e.concat([past_value, self.v], 2))


def split_heads(e: Emitter, n: Node, x: Value, heads: int) -> Value:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    if x.type.rank != 3:
        n.fail(f"an input is {x.type}, expected rank 3")
    batch, length, width = x.type.shape
    if heads < 1 or (isinstance(width, int) and width % heads):
        n.fail(f"{width} channels do not divide into {heads} heads")
    return e.transpose(e.reshape(x, (batch, length, heads, floordiv(width, heads))), (0, 2, 1, 3))


def joined_heads(e: Emitter, x: Value) -> Value:
    """The inverse of `split_heads`."""
    batch, heads, length, size = x.type.shape
    return e.reshape(e.transpose(x, (0, 2, 1, 3)), (batch, length, heads * size))


def default_scale(n: Node, size: Dim) -> float:
    """The attribute ``scale``, or 1 / sqrt(size of a head)."""
    scale = n.float("scale", 0.0)
    if scale:
        return scale
    if not isinstance(size, int):
        n.fail(f"the default scale needs a known head size, not {size}")
    return 1 / math.sqrt(size)


def key_mask(e: Emitter, n: Node, mask: Value, batch: Dim, keys: Dim, dtype: DType) -> Value:
    """What is added to the scores, broadcastable to them, for a mask in one of its forms.

    The forms: [batch, keys] or [batch, queries, keys] with ones at keys to attend to; [batch] lengths;
    [2 * batch] ends, then starts.
    """
    shown: Value
    if mask.type.rank == 1:
        position = e.emit(Iota((batch, keys), 1, i64))

        def bound(first: Dim) -> Value:
            part = e.slice(e.cast(mask, i64), 0, first, first + batch)
            return e.broadcast(part, (batch, keys), (0,))

        (length,) = mask.type.shape
        shown = e.compare("lt", position, bound(0))
        if length == batch * 2 and length != batch:
            shown = e.binary("and", shown, e.compare("ge", position, bound(batch)))
        elif length != batch:
            n.fail(f"the mask {mask.type} does not fit a batch of {batch}")
    else:
        shown = e.compare("gt", e.cast(mask, i64), 0)
    if shown.type.rank not in (2, 3):
        n.fail(f"a mask of {mask.type} is not supported")
    shape = shown.type.shape
    shown = e.reshape(shown, (shape[0], 1, 1, shape[1]) if shown.type.rank == 2 else (shape[0], 1, *shape[1:]))
    hidden = e.full(n.float("mask_filter_value", -10000.0), shown.type.with_dtype(dtype))
    return e.select(shown, e.full(0, hidden.type), hidden)


def attention_of(
    e: Emitter, n: Node, heads: Heads, past: Dim, mask: Value | None, bias: Value | None
) -> tuple[Value, Value]:
    """([batch, length, channels], scores in front of the softmax).

    Args:
        past: keys in front of the first query's own.
        mask: in a form of `key_mask`.
        bias: added to the scores.
    """
    batch, _, keys, _ = heads.k.type.shape
    added = None if bias is None else e.wide(bias)
    if mask is not None:
        hidden = key_mask(e, n, mask, batch, keys, e.wide(heads.q).type.dtype)
        added = hidden if added is None else e.binary("add", hidden, added)
    masking = Masking(added, None, 0 if n.int("unidirectional", 0) else None, e.size(past), None)
    scoring = Scoring(default_scale(n, heads.q.type.shape[3]))
    result, stages = attend(e, n, heads.q, heads.k, heads.v, scoring, masking)
    return joined_heads(e, result), stages[2]


def projected(e: Emitter, n: Node, product: Value) -> Heads:
    """Heads of [batch, length, queries' + keys' + values' channels]."""
    heads = n.int("num_heads", 0)
    width = product.type.shape[2]
    sizes = n.ints("qkv_hidden_sizes")
    if not sizes:
        if not isinstance(width, int) or width % 3:
            n.fail(f"{width} channels do not divide into queries, keys and values")
        sizes = (width // 3,) * 3
    starts = (0, sizes[0], sizes[0] + sizes[1], sum(sizes))
    parts = [e.slice(product, 2, starts[i], starts[i + 1]) for i in range(3)]
    return Heads(*(split_heads(e, n, part, heads) for part in parts))


def with_stacked_past(e: Emitter, heads: Heads, past: Value | None) -> tuple[Heads, Dim, Value | None]:
    """(heads with the past in front, its length, present keys and values [2, batch, heads, length, size])."""
    length: Dim = 0
    if past is not None:
        shape = past.type.shape
        length = shape[3]
        parts = [e.reshape(e.slice(past, 0, i, i + 1), shape[1:]) for i in (0, 1)]
        heads = heads.after(e, parts[0], parts[1])
    if heads.k.type.shape != heads.v.type.shape:
        return heads, length, None
    present = e.concat([e.reshape(x, (1, *x.type.shape)) for x in (heads.k, heads.v)], 0)
    return heads, length, present


def _refuse(n: Node, *attributes: str) -> None:
    for name in attributes:
        if n.int(name, 0):
            n.fail(f"attribute {name}={n.int(name, 0)} is not supported")


@onnx_op("Attention", domain=DOMAIN)
def attention(e: Emitter, n: Node) -> list[Value | None]:
    """One product gives queries, keys and values. Outputs: result, present keys and values."""
    _refuse(n, "do_rotary", "past_present_share_buffer")
    x, weights, bias = n.input(0), n.input(1), n.optional(2)
    product = matmul(e, x, weights)
    if bias is not None:
        product = e.binary("add", product, bias)
    heads, past, present = with_stacked_past(e, projected(e, n, product), n.optional(4))
    result, _ = attention_of(e, n, heads, past, n.optional(3), n.optional(5))
    return [result, present]


@onnx_op("MultiHeadAttention", domain=DOMAIN)
def multi_head_attention(e: Emitter, n: Node) -> list[Value | None]:
    """Outputs: result, present keys, present values, masked scores."""
    if n.optional(8) is not None or n.optional(9) is not None:
        n.fail("past_sequence_length and cache_indirection are not supported")
    heads = _given_heads(e, n)
    past_key, past_value = n.optional(6), n.optional(7)
    past: Dim = 0
    if past_key is not None and past_value is not None:
        past = past_key.type.shape[2]
        heads = heads.after(e, past_key, past_value)
    result, scores = attention_of(e, n, heads, past, n.optional(4), n.optional(5))
    return [result, heads.k, heads.v, scores]


def _given_heads(e: Emitter, n: Node) -> Heads:
    """Queries, keys and values from inputs 0 to 2 in one of their layouts, with the bias, input 3, added."""
    count = n.int("num_heads", 0)
    query, key, value, bias = n.input(0), n.optional(1), n.optional(2), n.optional(3)
    if query.type.rank == 5:  # [batch, length, heads, 3, size]
        batch, length, heads, _, size = query.type.shape
        parts = [e.reshape(e.slice(query, 3, i, i + 1), (batch, length, heads * size)) for i in range(3)]
    elif key is None:
        n.fail("there are no keys, and queries are not packed with them")
    elif key.type.rank == 5:  # [batch, length, heads, 2, size]
        batch, length, heads, _, size = key.type.shape
        pair = [e.reshape(e.slice(key, 3, i, i + 1), (batch, length, heads * size)) for i in range(2)]
        parts = [query, *pair]
    elif value is None:
        n.fail("there are no values, and keys are not packed with them")
    else:
        parts = [query, key, value]
    if bias is not None:
        start: Dim = 0
        for i, part in enumerate(parts):
            if part.type.rank == 4:  # projected before, bias included
                continue
            stop = start + part.type.shape[2]
            parts[i] = e.binary("add", part, e.slice(bias, 0, start, stop))
            start = stop
    return Heads(*(part if part.type.rank == 4 else split_heads(e, n, part, count) for part in parts))
