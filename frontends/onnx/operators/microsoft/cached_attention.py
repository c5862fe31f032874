"""Grouped-query attention over a cache of keys and values whose sequences have lengths of their own."""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.attention import Masking, Scoring, attend, rotated
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.operators.microsoft.attention import default_scale, joined_heads, split_heads
from ds_compiler.frontends.onnx.operators.microsoft.rotary import angles_at
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import GatherElements, Iota


@dataclass(frozen=True)
class _Lengths:
    """Of each sequence of the batch, i64 [batch]: keys in all, and those in front of the first query."""

    total: Value
    past: Value


@onnx_op("GroupQueryAttention", domain=DOMAIN)
def group_query_attention(e: Emitter, n: Node) -> list[Value | None]:
    """Outputs: result, present keys, present values.

    A first prompt (the total length is the queries') starts at position 0 whatever a sequence's own length is; what
    lies behind a sequence's end in the cache is never read.
    """
    for name, expected in (("smooth_softmax", 0), ("qk_output", 0), ("k_quant_type", "NONE"), ("v_quant_type", "NONE")):
        if n.attribute(name, expected) not in (expected, -1):
            n.fail(f"attribute {name}={n.attribute(name)} is not supported")
    heads, own = n.int("num_heads", 0), n.int("kv_num_heads", 0)
    q, k, v = _projections(e, n, heads, own)
    past_key, past_value = n.optional(3), n.optional(4)
    queries = q.type.shape[2]
    lengths = _lengths(e, n, queries)
    if n.int("do_rotary", 0):
        q, k = (_turned(e, n, x, lengths.past) for x in (q, k))
    if past_key is not None and past_value is not None:
        whole = e.bind(n.input(6), "total")
        size = maximum(past_key.type.shape[2], whole)
        k, v = (_cached(e, old, new, size, lengths) for old, new in ((past_key, k), (past_value, v)))
    window = n.int("local_window_size", -1)
    masking = Masking(n.optional(10), None if window < 0 else window - 1, 0, lengths.past, lengths.total)
    scoring = Scoring(default_scale(n, q.type.shape[3]), n.float("softcap", 0.0), sink=n.optional(11))
    result, _ = attend(e, n, q, k, v, scoring, masking)
    return [joined_heads(e, result), k, v]


def _projections(e: Emitter, n: Node, heads: int, own: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values [batch, heads, length, size], from three inputs or one."""
    query, key, value = n.input(0), n.optional(1), n.optional(2)
    if min(heads, own) < 1:
        n.fail("attributes num_heads and kv_num_heads must be positive")
    if key is not None and value is not None:
        return split_heads(e, n, query, heads), split_heads(e, n, key, own), split_heads(e, n, value, own)
    parts = split_heads(e, n, query, heads + 2 * own)
    bounds = (0, heads, heads + own, heads + 2 * own)
    q, k, v = (e.slice(parts, 1, bounds[i], bounds[i + 1]) for i in range(3))
    return q, k, v


def _lengths(e: Emitter, n: Node, queries: Dim) -> _Lengths:
    total = e.binary("add", e.cast(n.input(5), i64), 1)
    total = e.reshape(total, (total.type.elements,))
    whole = e.cast(e.reshape(n.input(6), ()), i64)
    first = e.compare("eq", whole, e.size(queries))
    past = e.binary("max", e.binary("sub", total, e.size(queries)), 0)
    return _Lengths(total, e.select(first, e.full(0, past.type), past))


def _turned(e: Emitter, n: Node, x: Value, past: Value) -> Value:
    """Rotary embedding of [batch, heads, length, size]; positions count from the past's length unless given."""
    cosine, sine, positions = n.input(7), n.input(8), n.optional(9)
    batch, _, length, _ = x.type.shape
    if positions is None:
        steps = e.emit(Iota((batch, length), 1, i64))
        positions = e.binary("add", steps, e.broadcast(past, (batch, length), (0,)))
        # a padded query of a shorter sequence has no angle of its own, and its result no meaning
        positions = e.binary("min", positions, e.size(cosine.type.shape[0] - 1))
    angles = angles_at(e, n, cosine, positions), angles_at(e, n, sine, positions)
    interleaved = bool(n.int("rotary_interleaved", 0))
    size = 2 * int(str(cosine.type.shape[1])) if isinstance(cosine.type.shape[1], int) else 0
    turned = rotated(e, n, e.wide(x), *angles, 2, interleaved=interleaved, size=size)
    return e.cast(turned, x.type.dtype)


def _cached(e: Emitter, old: Value, new: Value, size: Dim, lengths: _Lengths) -> Value:
    """[batch, heads, size, …] with `old` in front and `new` from each sequence's past length on."""
    batch, heads, count, width = old.type.shape
    shape = (batch, heads, size, width)
    place = e.emit(Iota(shape, 2, i64))
    behind = e.binary("sub", place, e.broadcast(lengths.past, shape, (0,)))
    last = e.size(count + new.type.shape[2] - 1)
    fresh = e.binary("min", e.binary("add", behind, e.size(count)), last)
    source = e.select(e.compare("lt", behind, 0), e.binary("min", place, last), fresh)
    return e.emit(GatherElements(e.concat([old, new], 2), source, 2))
