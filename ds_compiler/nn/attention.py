"""Attention with several heads, causal masks and rotary positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray
from ds_compiler.frontends.trace.frame import located
from ds_compiler.frontends.trace.public import public
from ds_compiler.nn import functional, init
from ds_compiler.nn.layers import Linear
from ds_compiler.nn.model import Model, Parameter


@public
def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    mask: ArrayLike | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    dropout_key: Any = None,
) -> TracedArray:
    """``softmax(query @ key.T * scale + mask) @ value`` (Vaswani et al. 2017).

    Args:
        query: [batch, heads, positions, size]; `key` and `value` [batch, heads, other positions, size].
        mask: broadcasts to [batch, heads, positions, other positions]; bool (True may be read) or added numbers.
        causal: position i reads positions up to i. A row that reads nothing is 0.
        scale: by default 1/sqrt(size).
        dropout_p, dropout_key: dropout of what softmax gives.

    Raises:
        CompileError: shapes do not fit.
    """
    q, k, v = xp.asarray(query), xp.asarray(key), xp.asarray(value)
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        raise located(f"attention takes [batch, heads, positions, size], got {q.shape}, {k.shape}, {v.shape}")
    factor = 1 / math.sqrt(int(q.shape[-1])) if scale is None else scale
    scores = xp.einsum("bhqd,bhkd->bhqk", q * factor, k)
    if causal:
        rows, columns = q.shape[2], k.shape[2]
        readable = xp.expand_dims(xp.arange(columns), axis=0) <= xp.expand_dims(xp.arange(rows), axis=1)
        scores = xp.where(readable, scores, -math.inf)
    if mask is not None:
        mask = xp.asarray(mask)
        scores = xp.where(mask, scores, -math.inf) if mask.dtype == np.bool_ else scores + mask
    weights = functional.softmax(scores) if mask is None else _masked_softmax(scores)
    if dropout_p:
        weights = functional.dropout(weights, dropout_p, dropout_key)
    return xp.einsum("bhqk,bhkd->bhqd", weights, v)


def _masked_softmax(scores: TracedArray) -> TracedArray:
    """Softmax over the last axis, 0 where every score is -inf."""
    top = xp.max(scores, axis=-1, keepdims=True)
    weights = xp.exp(scores - xp.where(top == -math.inf, 0, top))
    total = xp.sum(weights, axis=-1, keepdims=True)
    return weights / xp.where(total == 0, 1, total)


@public
def rotary(x: ArrayLike, base: float = 10000.0, offset: int = 0) -> TracedArray:
    """Rotary positions (Su et al. 2021) of [batch, heads, positions, size]: pairs (i, i + size/2) turn by
    ``position * base**(-2i/size)``.

    Raises:
        CompileError: the size is odd.
    """
    x = xp.asarray(x)
    size = x.shape[-1]
    if not isinstance(size, int) or size % 2:
        raise located(f"rotary: the size of a head must be even, got {size}")
    rates = (base ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    positions = xp.arange(x.shape[-2], dtype=np.float32) + float(offset)
    angles = xp.expand_dims(positions, axis=1) * rates
    cos, sin = xp.cos(angles).astype(x.dtype), xp.sin(angles).astype(x.dtype)
    first, second = x[..., : size // 2], x[..., size // 2 :]
    return xp.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


class MultiHeadAttention(Model):
    """Attention of `num_heads` heads, with PyTorch's parameters (``in_proj_weight`` holds those of query, key, value).

    Args:
        dropout: of the attention weights, in training.
        causal: each position reads itself and what is before it.
        rotary_base: turn queries and keys by their positions, at this base; None does not.

    Raises:
        ValueError: `embed_dim` does not divide into heads.
    """

    in_proj_weight: Any
    in_proj_bias: Any

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        causal: bool = False,
        rotary_base: float | None = None,
        dtype: Any = np.float32,
        key: init.Key = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{embed_dim} features do not divide into {num_heads} heads")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.causal, self.rotary_base = causal, rotary_base
        numbers = init.generator(key)
        self.in_proj_weight = Parameter(init.xavier_uniform((3 * embed_dim, embed_dim), dtype, numbers))
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim, dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype=dtype, key=numbers)
        if bias:
            self.out_proj.bias = np.zeros(embed_dim, dtype)

    def forward(
        self, x: ArrayLike, context: ArrayLike | None = None, mask: ArrayLike | None = None, key: Any = None
    ) -> Any:
        """[batch, positions, embed_dim] → the same.

        Args:
            context: what is read, [batch, other positions, embed_dim]; by default `x` itself.
            mask: as of `scaled_dot_product_attention`.
            key: for dropout.

        Raises:
            CompileError: shapes do not fit, or a key is missing.
        """
        x = xp.asarray(x)
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise located(f"MultiHeadAttention: takes [batch, positions, {self.embed_dim}], got {x.shape}")
        rate = self.dropout if self.training else 0.0
        if rate and key is None:
            raise located("MultiHeadAttention with dropout in training needs a key", help="pass key=, or call eval()")
        q, k, v = self._projected(x, context)
        if self.rotary_base is not None:
            q, k = rotary(q, self.rotary_base), rotary(k, self.rotary_base)
        y = scaled_dot_product_attention(q, k, v, mask, self.causal, None, rate, key)
        return self.out_proj(xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (*x.shape[:2], self.embed_dim)))

    def _projected(self, x: Any, context: ArrayLike | None) -> list[Any]:
        """Query, key and value, [batch, heads, positions, size] each."""
        size, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if context is None:
            joined = functional.linear(x, weight, bias)
            parts = [joined[..., i * size : (i + 1) * size] for i in range(3)]
        else:
            rows = [slice(0, size), slice(size, 2 * size), slice(2 * size, 3 * size)]
            sources = [x, context, context]
            parts = [functional.linear(s, weight[r], None if bias is None else bias[r]) for s, r in zip(sources, rows)]
        heads, width = self.num_heads, size // self.num_heads
        split = [xp.reshape(p, (*p.shape[:2], heads, width)) for p in parts]
        return [xp.permute_dims(p, (0, 2, 1, 3)) for p in split]
