"""Attention and rotary position embedding, as the primitives that the attention pass outlines into one kernel.

Everything is computed in f32 at least and rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.softmax import softmax
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import bool_, f32, f64, i64
from ds_compiler.ops import DotGeneral, Gather, Iota, Pad, Predicate


@dataclass(frozen=True)
class Masking:
    """Which keys a query attends to.

    Attributes:
        mask: bool (True: attend) or added to the scores; broadcasts to the scores.
        left, right: keys that a query sees before and behind its own position, which for query i is i + `offset`;
            None: all.
        offset: i64, a scalar or one for each sequence of the batch.
        lengths: i64, valid keys of each sequence of the batch.
    """

    mask: Value | None
    left: int | None
    right: int | None
    offset: Value
    lengths: Value | None

    @property
    def may_hide_all(self) -> bool:
        """Whether a query may have no key left; it then gets zeros (as does one whose scores are NaN)."""
        return self.mask is not None or self.lengths is not None or self.left is not None


@onnx_op("Attention", since=23)
def attention(e: Emitter, n: Node) -> list[Value | None]:
    """Outputs: result, keys and values with the past ones in front, scores at the stage that the node asks for."""
    query, key, value = n.input(0), n.input(1), n.input(2)
    flat = query.type.rank == 3
    q = _heads(e, n, query, n.int("q_num_heads", 0))
    k, v = (_heads(e, n, x, n.int("kv_num_heads", 0)) for x in (key, value))
    past_key, past_value = n.optional(4), n.optional(5)
    past: Dim = 0
    if past_key is not None and past_value is not None:
        past = past_key.type.shape[2]
        k, v = e.concat([past_key, k], 2), e.concat([past_value, v], 2)
    elif past_key is not None or past_value is not None:
        n.fail("past_key and past_value go together")
    masking = _masking(e, n, q, k, past)
    depth = q.type.shape[-1]
    scale: float | Value
    if n.has("scale"):
        scale = n.float("scale", 0.0)
    elif isinstance(depth, int):
        scale = 1 / math.sqrt(depth)
    else:
        wide = f64 if q.type.dtype == f64 else f32
        scale = e.cast(e.unary("rsqrt", e.cast(e.size(depth), f64)), wide)
    result, scores = _attend(e, n, q, k, v, scale, masking)
    if flat:
        result = e.transpose(result, (0, 2, 1, 3))
        batch, length, heads, width = result.type.shape
        result = e.reshape(result, (batch, length, heads * width))
    return [result, k, v, scores]


def _heads(e: Emitter, n: Node, x: Value, heads: int) -> Value:
    """[batch, heads, length, size], from that or from [batch, length, heads * size]."""
    if x.type.rank == 4:
        return x
    if x.type.rank != 3 or heads < 1:
        n.fail(f"an input is {x.type}: expected rank 4, or rank 3 with attributes q_num_heads and kv_num_heads")
    batch, length, width = x.type.shape
    if isinstance(width, int) and width % heads:
        n.fail(f"{width} channels do not divide into {heads} heads")
    return e.transpose(e.reshape(x, (batch, length, heads, floordiv(width, heads))), (0, 2, 1, 3))


def _masking(e: Emitter, n: Node, q: Value, k: Value, past: Dim) -> Masking:
    queries, keys = q.type.shape[2], k.type.shape[2]
    mask, lengths = n.optional(3), n.optional(6)
    if mask is not None:
        if not mask.type.rank:
            n.fail(f"the mask is {mask.type}, expected at least an axis of keys")
        width = mask.type.shape[-1]
        broadcasts = n.opset < 24 and width == 1
        if isinstance(width, int) and isinstance(keys, int) and width < keys and not broadcasts:  # the rest is hidden
            hidden = e.scalar(False if mask.type.dtype == bool_ else -math.inf, mask.type.dtype)
            nothing = (0,) * (mask.type.rank - 1)
            mask = e.emit(Pad(mask, hidden, (*nothing, 0), (*nothing, keys - width)))
    offset = e.size(past)
    if lengths is not None:
        lengths = e.cast(lengths, i64)
        if n.optional(4) is None:
            offset = e.binary("sub", lengths, e.size(queries))
    left, right = (_window(n, f"{side}_window_size") for side in ("left", "right"))
    return Masking(mask, left, 0 if n.int("is_causal", 0) else right, offset, lengths)


def _window(n: Node, name: str) -> int | None:
    size = n.int(name, -1)
    if size < -1:
        n.fail(f"attribute {name}={size} must be -1 or more")
    return None if size == -1 else size


@dataclass(frozen=True)
class Scoring:
    """How scores become weights.

    Attributes:
        scale: of the products of queries and keys.
        cap: scores are bent to lie between -cap and cap; 0 for none.
        precise: weights are computed in double precision.
        sink: an additional score of each head, which takes weight and has no value; [heads] or a scalar.
    """

    scale: float | Value
    cap: float = 0.0
    precise: bool = False
    sink: Value | None = None


def _attend(
    e: Emitter, n: Node, q: Value, k: Value, v: Value, scale: float | Value, masking: Masking
) -> tuple[Value, Value | None]:
    """(result [batch, heads, queries, size], scores at stage ``qk_matmul_output_mode`` if they are wanted)."""
    precise = n.has("softmax_precision") and element_type(n.int("softmax_precision", 1), "softmax_precision") == f64
    result, stages = attend(e, n, q, k, v, Scoring(scale, n.float("softcap", 0.0), precise), masking)
    mode = n.int("qk_matmul_output_mode", 0)
    if not 0 <= mode < len(stages):
        n.fail(f"attribute qk_matmul_output_mode={mode} is not supported", help="supported: 0, 1, 2, 3")
    return result, e.cast(stages[mode], q.type.dtype) if n.wants(3) else None


def attend(
    e: Emitter, n: Node, q: Value, k: Value, v: Value, scoring: Scoring, masking: Masking
) -> tuple[Value, list[Value]]:
    """(result [batch, heads, queries, size], scores after product, cap, mask and softmax).

    Args:
        q, k, v: [batch, heads, length, size]; keys and values may have fewer heads, each for as many of the queries'.
    """
    dtype = q.type.dtype
    q, k, v = e.wide(q), e.wide(k), e.wide(v)
    heads = q.type.shape[1]
    k, v = _repeated(e, n, k, heads), _repeated(e, n, v, heads)
    stages = []
    scores = e.emit(DotGeneral(q, k, (0, 1), (0, 1), (3,), (3,)))
    scores = e.binary("mul", scores, scoring.scale)
    stages.append(scores)
    if scoring.cap:
        scores = e.binary("mul", e.unary("tanh", e.binary("div", scores, scoring.cap)), scoring.cap)
    stages.append(scores)
    scores = _masked(e, scores, masking)
    stages.append(scores)
    if scoring.sink is not None:
        weights = _weights_beside(e, scores, scoring.sink)
    else:
        precision = f64 if scoring.precise else scores.type.dtype
        weights = e.cast(softmax(e, e.cast(scores, precision), (3,)), scores.type.dtype)
    if masking.may_hide_all:  # -inf - -inf
        weights = e.select(e.emit(Predicate(weights, "isnan")), e.full(0, weights.type), weights)
    stages.append(weights)
    result = e.emit(DotGeneral(weights, v, (0, 1), (0, 1), (3,), (2,)))
    return e.cast(result, dtype), stages


def _weights_beside(e: Emitter, scores: Value, sink: Value) -> Value:
    """The softmax of each row of `scores` and the sink's score, without the latter's weight."""
    column = (*scores.type.shape[:3], 1)
    beside = e.broadcast(e.cast(sink, scores.type.dtype), column, (1,) if sink.type.rank else ())
    largest = e.binary("max", e.reduce(scores, (3,), "max", keepdims=True), beside)
    powers = e.unary("exp", e.binary("sub", scores, largest))
    total = e.reduce(powers, (3,), "sum", keepdims=True)
    return e.binary("div", powers, e.binary("add", total, e.unary("exp", e.binary("sub", beside, largest))))


def _repeated(e: Emitter, n: Node, x: Value, heads: Dim) -> Value:
    """Each of the key's or value's heads for as many of the query's."""
    batch, own, *rest = x.type.shape
    if own == heads:
        return x
    if not isinstance(own, int) or not isinstance(heads, int) or heads % own:
        n.fail(f"{heads} heads of the query do not divide by {own} heads of keys and values")
    spread = e.broadcast(x, (batch, own, heads // own, *rest), (0, 1, 3, 4))
    return e.reshape(spread, (batch, heads, *rest))


def _masked(e: Emitter, scores: Value, masking: Masking) -> Value:
    shape = scores.type.shape
    hidden = e.scalar(-math.inf, scores.type.dtype)
    if masking.mask is not None and masking.mask.type.dtype == bool_:
        scores = e.select(e.broadcast_to(masking.mask, shape), scores, hidden)
    elif masking.mask is not None:
        scores = e.binary("add", scores, e.broadcast_to(e.cast(masking.mask, scores.type.dtype), shape))
    key = e.emit(Iota(shape, 3, i64))
    if masking.lengths is not None:
        scores = e.select(e.compare("lt", key, e.broadcast(masking.lengths, shape, (0,))), scores, hidden)
    if masking.left is None and masking.right is None:
        return scores
    offset = e.broadcast(masking.offset, shape, (0,) if masking.offset.type.rank else ())
    position = e.binary("add", e.emit(Iota(shape, 2, i64)), offset)
    if masking.right is not None:
        scores = e.select(e.compare("le", key, e.binary("add", position, masking.right)), scores, hidden)
    if masking.left is not None:
        scores = e.select(e.compare("ge", key, e.binary("sub", position, masking.left)), scores, hidden)
    return scores


@onnx_op("RotaryEmbedding", since=23)
def rotary_embedding(e: Emitter, n: Node) -> Value:
    """Rotate pairs of a head's elements by angles that grow with the position."""
    x, cosine, sine, positions = n.input(0), n.input(1), n.input(2), n.optional(3)
    wide = e.wide(x)
    length_axis = 2
    if x.type.rank == 3:
        batch, length, width = x.type.shape
        heads = n.int("num_heads", 0)
        if heads < 1 or (isinstance(width, int) and width % heads):
            n.fail(f"attribute num_heads={heads} does not divide the {width} channels of {x.type}")
        wide = e.reshape(wide, (batch, length, heads, floordiv(width, heads)))
        length_axis = 1
    elif x.type.rank != 4:
        n.fail(f"input is {x.type}, expected rank 3 or 4")

    def angles(table: Value) -> Value:
        table = e.wide(table)
        if positions is not None:
            check_indices(e, n, positions, table.type.shape[0], 0, what="position")
            table = e.emit(Gather(table, positions, 0))
        return table

    interleaved, size = bool(n.int("interleaved", 0)), n.int("rotary_embedding_dim", 0)
    turned = rotated(e, n, wide, angles(cosine), angles(sine), length_axis, interleaved=interleaved, size=size)
    return e.cast(e.reshape(turned, x.type.shape), x.type.dtype)


def rotated(
    e: Emitter,
    n: Node,
    x: Value,
    cosines: Value,
    sines: Value,
    length_axis: int,
    *,
    interleaved: bool,
    size: int,
) -> Value:
    """Pairs of the first `size` (0: all) elements of each head turned by an angle.

    Args:
        x: [batch, length, heads, size of a head], or with the heads in front of the length.
        cosines, sines: of the angles, [batch, length, size / 2].
        interleaved: a pair is of neighbours; otherwise its second element lies half of `size` behind.
    """
    whole = x.type.shape[3]
    turned = size or whole
    if not isinstance(whole, int) or not isinstance(turned, int) or turned % 2 or turned > whole:
        n.fail(f"{turned} elements of a head of {whole} cannot be rotated in pairs")
    half = turned // 2

    def spread(table: Value) -> Value:
        if table.type.rank != 3 or table.type.shape[2] != half:
            n.fail(f"a table of angles is {table.type}, expected {half} columns")
        return e.broadcast(table, (*x.type.shape[:3], half), (0, length_axis, 3))

    cosines, sines = spread(cosines), spread(sines)
    turning = e.slice(x, 3, 0, turned)
    if interleaved:
        paired = e.reshape(turning, (*x.type.shape[:3], half, 2))
        first, second = (e.reshape(e.slice(paired, 4, i, i + 1), cosines.type.shape) for i in (0, 1))
    else:
        first, second = e.slice(turning, 3, 0, half), e.slice(turning, 3, half, turned)
    real = e.binary("sub", e.binary("mul", cosines, first), e.binary("mul", sines, second))
    imaginary = e.binary("add", e.binary("mul", sines, first), e.binary("mul", cosines, second))
    if interleaved:
        pair = [e.reshape(part, (*part.type.shape, 1)) for part in (real, imaginary)]
        parts = [e.reshape(e.concat(pair, 4), (*x.type.shape[:3], turned))]
    else:
        parts = [real, imaginary]
    if turned < whole:
        parts.append(e.slice(x, 3, turned, whole))
    return e.concat(parts, 3)
