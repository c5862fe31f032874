"""Scaled dot-product attention, in the form that the pass `attention` finds, and its derivative.

The derivative keeps no matrix of weights: it computes them again from the logarithm of their sum.
"""

from __future__ import annotations

import math
from typing import Any

from ds_compiler.frontends.torch.emitter import Emitter
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Expr, Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import bool_
from ds_compiler.ops import Predicate

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
    q, k, v = e.wide(q), e.wide(k), e.wide(v)
    k, v = _repeated(e, k, q.type.shape[1]), _repeated(e, v, q.type.shape[1])
    scores = _scores(e, q, k, is_causal, attn_mask, scale)
    top = e.reduce(scores, (3,), "max", True)
    weights = e.unary("exp", e.binary("sub", scores, top))
    total = e.reduce(weights, (3,), "sum", True)
    shares = e.binary("div", weights, total)
    if attn_mask is not None:  # a row that the mask hides is 0, not NaN
        shares = e.select(e.emit(Predicate(shares, "isnan")), e.full(0, shares.type), shares)
    result = e.product(shares, v, _BATCH, (3, 2))
    logarithm = e.binary("add", e.unary("log", total), top)
    return e.cast(result, dtype), e.reshape(logarithm, logarithm.type.shape[:3])


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
    dtype = q.type.dtype
    grad, q, k, v, out = (e.wide(x) for x in (grad, q, k, v, out))
    logsumexp = e.cast(logsumexp, q.type.dtype)
    own = k.type.shape[1]
    k, v = _repeated(e, k, q.type.shape[1]), _repeated(e, v, q.type.shape[1])
    scores = _scores(e, q, k, is_causal, attn_mask, scale)
    batch, heads, queries = scores.type.shape[:3]
    shares = e.unary("exp", e.binary("sub", scores, e.reshape(logsumexp, (batch, heads, queries, 1))))
    if attn_mask is not None:
        shares = e.select(e.emit(Predicate(shares, "isnan")), e.full(0, shares.type), shares)
    grad_v = e.product(shares, grad, _BATCH, (2, 2))
    grad_shares = e.product(grad, v, _BATCH, (3, 3))
    along = e.reduce(e.binary("mul", grad, out), (3,), "sum", True)
    grad_scores = e.binary("mul", e.binary("mul", shares, e.binary("sub", grad_shares, along)), _scale(e, q, scale))
    grad_q = e.product(grad_scores, k, _BATCH, (3, 2))
    grad_k = e.product(grad_scores, q, _BATCH, (2, 2))
    grad_k, grad_v = _gathered(e, grad_k, own), _gathered(e, grad_v, own)
    return e.cast(grad_q, dtype), e.cast(grad_k, dtype), e.cast(grad_v, dtype)


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
