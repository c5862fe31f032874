"""Functions of networks without parameters of their own: activations, softmax, normalisation, dropout, embedding.

As all functions of arrays, they add to the program in a traced function and compute at once outside of one.
"""

from __future__ import annotations

import math
from typing import Any

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray
from ds_compiler.frontends.trace.frame import located
from ds_compiler.frontends.trace.public import public


@public
def relu(x: ArrayLike) -> TracedArray:
    """max(x, 0); the derivative at 0 is 0, as in PyTorch."""
    x = xp.asarray(x)
    return xp.where(x > 0, x, 0)


@public
def gelu(x: ArrayLike, approximate: str = "none") -> TracedArray:
    """x times the normal distribution function; ``tanh`` is Hendrycks & Gimpel's approximation of it.

    Raises:
        CompileError: `approximate` is neither.
    """
    x = xp.asarray(x)
    if approximate == "none":
        return 0.5 * x * (1 + xp.erf(x * math.sqrt(0.5)))
    if approximate == "tanh":
        return 0.5 * x * (1 + xp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    raise located(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")


@public
def silu(x: ArrayLike) -> TracedArray:
    """x * sigmoid(x)."""
    return xp.multiply(x, xp.sigmoid(x))


@public
def softplus(x: ArrayLike) -> TracedArray:
    """log(1 + exp(x)), without overflow."""
    x = xp.asarray(x)
    size = xp.abs(x)
    # (x + |x|) / 2 is max(x, 0), with the derivative 1/2 at 0 that the sum needs there.
    return 0.5 * (x + size) + xp.log1p(xp.exp(-size))


@public
def softmax(x: ArrayLike, axis: int = -1) -> TracedArray:
    """exp(x) over its sum along an axis."""
    x = xp.asarray(x)
    shifted = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return shifted / xp.sum(shifted, axis=axis, keepdims=True)


@public
def log_softmax(x: ArrayLike, axis: int = -1) -> TracedArray:
    """The logarithm of `softmax`, without overflow."""
    x = xp.asarray(x)
    return x - xp.logsumexp(x, axis=axis, keepdims=True)


@public
def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> TracedArray:
    """``x @ weight.T + bias``; the weight is [out, in]."""
    x, weight = xp.asarray(x), xp.asarray(weight)
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise located(f"linear: input has shape {x.shape}, the weight [out, in] is {weight.shape}")
    y = xp.matmul(x, weight.T)
    return y if bias is None else y + bias


@public
def embedding(ids: ArrayLike, weight: ArrayLike) -> TracedArray:
    """Rows of `weight` [count, size] at integer positions of any shape."""
    return xp.take(weight, ids, axis=0)


@public
def layer_norm(
    x: ArrayLike, axes: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, eps: float = 1e-5
) -> TracedArray:
    """Mean 0 and variance 1 over the last `axes` axes, then ``* weight + bias`` (Ba, Kiros & Hinton 2016)."""
    x = xp.asarray(x)
    last = tuple(range(-axes, 0))
    centred = x - xp.mean(x, axis=last, keepdims=True)
    y = centred * xp.rsqrt(xp.mean(centred * centred, axis=last, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@public
def rms_norm(x: ArrayLike, axes: int, weight: ArrayLike | None = None, eps: float = 1e-6) -> TracedArray:
    """Root mean square 1 over the last `axes` axes, then ``* weight`` (Zhang & Sennrich 2019)."""
    x = xp.asarray(x)
    y = x * xp.rsqrt(xp.mean(x * x, axis=tuple(range(-axes, 0)), keepdims=True) + eps)
    return y if weight is None else y * weight


@public
def dropout(x: ArrayLike, p: float, key: Any) -> TracedArray:
    """Zero with probability `p`, the rest scaled by 1/(1-p); which elements is decided by `key` alone.

    Raises:
        CompileError: `p` is no probability.
    """
    from ds_compiler import random

    if not 0 <= p <= 1:
        raise located(f"dropout: p is a probability, got {p}")
    x = xp.asarray(x)
    if p == 0:
        return x
    if p == 1:
        return xp.zeros_like(x)
    kept = random.bernoulli(key, 1 - p, x.shape)
    return xp.where(kept, x / (1 - p), 0)
