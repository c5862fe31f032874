"""Scaled dot-product attention and its derivative: composites, as `ds_compiler.ops.derivatives.attention` writes them.

Neither keeps the matrix of weights: the derivative computes them again from the logarithms of their rows' sums.
"""

from __future__ import annotations

import math
from typing import Any

from ds_compiler.frontends.torch.emitter import Emitter
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Block, Builder, Dim, Expr, Region, Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import bool_
from ds_compiler.ops import Composite, Yield
from ds_compiler.ops.derivatives import Terms
from ds_compiler.ops.derivatives.attention import attention_gradient, with_log_sums

_BATCH = (0, 1)


def _no_dropout(node: Any) -> bool:
    position = 3 if "backward" not in str(node.target) else 6
    return len(node.args) <= position or not node.args[position]


@aten("aten._scaled_dot_product_flash_attention_for_cpu.default", when=_no_dropout)
def attention(
    e: Emitter,
    q: Value,
    k: Value,
    v: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, Value]:
    """(result [batch, heads, queries, size], log of the sum of exponentials [batch, heads, queries])"""
    dtype = q.type.dtype
    plain = _attention(e, q, k, v, is_causal, attn_mask, scale)
    kept = with_log_sums(plain)
    plain.drop()
    e.insert(kept)
    result, logarithm = _settle(kept)
    return e.cast(result, dtype), logarithm


@aten("aten._scaled_dot_product_flash_attention_for_cpu_backward.default", when=_no_dropout)
def attention_backward(
    e: Emitter,
    grad: Value,
    q: Value,
    k: Value,
    v: Value,
    out: Value,
    logsumexp: Value,
    dropout_p: float,
    is_causal: bool,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, Value, Value]:
    """Gradients of q, k, v."""
    dtype, own = q.type.dtype, k.type.shape[1]
    plain = _attention(e, q, k, v, is_causal, attn_mask, scale)
    terms = Terms(e.block, location=e.location)
    results = e.wide(out), e.cast(logsumexp, plain.result.type.dtype)
    with terms.recording() as made:
        gradients = attention_gradient(terms, plain, plain.inputs, results, e.wide(grad))
    plain.drop()
    (composite,) = (op for op in made if isinstance(op, Composite))
    settled: dict[Value, Value] = dict(zip(composite.results, _settle(composite), strict=True))
    of_q, of_k, of_v = (settled.get(x, x) for x in gradients)
    of_k, of_v = _gathered(e, of_k, own), _gathered(e, of_v, own)
    return e.cast(of_q, dtype), e.cast(of_k, dtype), e.cast(of_v, dtype)


def _attention(
    e: Emitter, q: Value, k: Value, v: Value, is_causal: bool, mask: Value | None, scale: float | None
) -> Composite:
    """Attention of q, k, v, not inserted; it is computed in 32 bits at least."""
    heads = q.type.shape[1]
    inputs = [e.wide(q), *(_repeated(e, e.wide(x), heads) for x in (k, v))]
    if mask is not None:
        inputs.append(mask)
    block = Block([x.type for x in inputs])
    inner = Emitter(block)
    inner.location = e.location
    q, k, v, *masks = block.arguments
    scores = _scores(inner, q, k, is_causal, masks[0] if masks else None, scale)
    top = inner.reduce(scores, (3,), "max", True)
    if masks:  # of a row that the mask hides all weights are 0, not NaN
        top = inner.select(inner.compare("eq", top, -math.inf), inner.full(0, top.type), top)
    weights = inner.unary("exp", inner.binary("sub", scores, top))
    total = inner.reduce(weights, (3,), "sum", True)
    if masks:
        total = inner.select(inner.compare("eq", total, 0), inner.full(1, total.type), total)
    result = inner.product(inner.binary("div", weights, total), v, _BATCH, (3, 2))
    inner.insert(Yield((result,)))
    composite = Composite(tuple(inputs), Region(block), "attention")
    composite.location = e.location
    return composite


def _settle(composite: Composite) -> list[Value]:
    """The results of an attention that is inserted; without a kernel, which needs head sizes that are known, those of
    the primitives that it means."""
    arguments = composite.body.block.arguments
    if all(isinstance(x.type.shape[-1], int) for x in arguments[:3]):
        return list(composite.results)
    mapping: dict[Value, Value] = dict(zip(arguments, composite.inputs, strict=True))
    builder = Builder(before=composite)
    for op in composite.body.block:
        if not op.is_terminator:
            builder.insert(op.clone(mapping))
    values = [mapping[v] for v in composite.body.block.terminator.operands]
    composite.replace_with(*values)
    return values


def _repeated(e: Emitter, x: Value, heads: Dim) -> Value:
    """Each head of keys or values for as many of the queries'."""
    batch, own, *rest = x.type.shape
    if own == heads:
        return x
    spread = e.broadcast(x, (batch, own, floordiv(heads, own), *rest), (0, 1, 3, 4))
    return e.reshape(spread, (batch, heads, *rest))


def _gathered(e: Emitter, grad: Value, own: Dim) -> Value:
    """The sum over the heads that share one head of keys or values."""
    batch, heads, *rest = grad.type.shape
    if own == heads:
        return grad
    return e.reduce(e.reshape(grad, (batch, own, floordiv(heads, own), *rest)), (2,), "sum")


def _scale(e: Emitter, q: Value, scale: float | None) -> float | Value:
    if scale is not None:
        return scale
    size: Dim = q.type.shape[3]
    return e.unary("rsqrt", e.scalar(size, q.type.dtype)) if isinstance(size, Expr) else 1 / math.sqrt(size)


def _scores(e: Emitter, q: Value, k: Value, is_causal: bool, mask: Value | None, scale: float | None) -> Value:
    scores = e.binary("mul", e.product(q, k, _BATCH, (3, 3)), _scale(e, q, scale))
    shape = scores.type.shape
    if mask is not None and mask.type.dtype == bool_:
        hidden = e.full(-math.inf, scores.type)
        scores = e.select(e.broadcast_to(mask, shape), scores, hidden)
    elif mask is not None:
        scores = e.binary("add", scores, e.broadcast_to(e.cast(mask, scores.type.dtype), shape))
    if is_causal:
        seen = e.compare("le", e.iota(shape, 3), e.iota(shape, 2))
        scores = e.select(seen, scores, e.full(-math.inf, scores.type))
    return scores
