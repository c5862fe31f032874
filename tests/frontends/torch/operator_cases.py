"""One case an operator or use of it: a function of tensors, and the shapes (or tensors) that it is called with.

`CASES` maps a name to (function, arguments); a tuple stands for a random tensor of that shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

Case = tuple[Callable[..., Any], tuple[Any, ...]]

A, B = (3, 4, 5), (3, 4, 5)
I = torch.tensor([[2, 0, 1], [1, 1, 2]])  # noqa: E741

_UNARY = (
    "abs acos asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor isfinite isinf isnan neg relu round "
    "sigmoid sign sin sinh tan tanh trunc square logical_not frac sinc"
)
_POSITIVE = "acosh log log10 log1p log2 reciprocal rsqrt sqrt"
_BINARY = "add sub mul div maximum minimum atan2 fmod remainder eq ne lt le gt ge hypot logical_and logical_xor"
_ACTIVATIONS = (
    "celu elu gelu hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 selu silu softplus softsign "
    "tanhshrink"
)


def _named(name: str) -> Callable[..., Any]:
    return getattr(torch, name)


def _beyond_one(name: str) -> Callable[..., Any]:
    return lambda x: _named(name)(x.abs() + 1.5)


CASES: dict[str, Case] = {
    **{name: (_named(name), (A,)) for name in _UNARY.split()},
    **{name: (_beyond_one(name), (A,)) for name in _POSITIVE.split()},
    **{name: (_named(name), (A, (4, 1))) for name in _BINARY.split()},
    **{name: (getattr(F, name), (A,)) for name in _ACTIVATIONS.split()},
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), (A,)),
    "add_alpha": (lambda x, y: torch.add(x, y, alpha=3), (A, B)),
    "rsub": (lambda x: 2 - x, (A,)),
    "floor_divide": (lambda x, y: x.detach() // y.detach(), (A, B)),
    "div_trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), (A, B)),
    "div_floor": (lambda x, y: torch.div(x, y, rounding_mode="floor"), (A, B)),
    "pow": (lambda x, y: x.abs() ** y, (A, B)),
    "pow_numbers": (lambda x: x**2 + x**3 + x.abs() ** 0.5 + x.abs() ** 1.7 + 2**x, (A,)),
    "clamp": (lambda x, y: x.clamp(-0.5, 0.5) + x.clamp(min=y), (A, B)),
    "where": (lambda x, y: torch.where(x > 0, x, y), (A, (4, 1))),
    "promotion": (lambda x: x + torch.arange(5) + (x > 0) + 1, (A,)),
    "integer_arithmetic": (lambda x: (x * 3 - 7) // 2 + x % 3 + (x & 5) + (x | 2) + (~x ^ 1), (I,)),
    "integer_comparison": (lambda x: (x > 0.5) & (x < 2), (I,)),
    "true_division": (lambda x: x / 2 + x.float().mean(), (I,)),
    "casts": (lambda x: (x * 10).to(torch.int32).to(torch.float64).to(torch.bool), (A,)),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1.0), (A,)),
    "lerp": (torch.lerp, (A, B, (5,))),
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=2) + torch.addcdiv(x, y, z.abs() + 1), (A, B, B)),
    "prelu": (F.prelu, (A, (4,))),
    # reductions
    "sum": (lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True)), (A,)),
    "sum_bool": (lambda x: (x > 0).sum(-1), (A,)),
    "mean": (lambda x: (x.mean(), x.mean(1, keepdim=True)), (A,)),
    "prod": (lambda x: (x.prod(), x.prod(1)), (A,)),
    "amax": (lambda x: (x.amax(1), x.amin((0, 1)), x.max(), x.min()), (A,)),
    "max_dim": (lambda x: (*x.max(1), *x.min(2, keepdim=True)), (A,)),
    "argmax": (lambda x: (x.argmax(), x.argmax(1), x.argmin(1, keepdim=True)), (A,)),
    "any_all": (lambda x: ((x > 1).any(), (x > -1).all(1), (x > 0).any(2, keepdim=True)), (A,)),
    "var": (lambda x: (x.var(), x.var(1, correction=0), x.std(2, keepdim=True)), (A,)),
    "var_mean": (lambda x: torch.var_mean(x, 1), (A,)),
    "norm": (lambda x: (x.norm(), torch.linalg.vector_norm(x, 1, 1), F.normalize(x, dim=1)), (A,)),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), (A,)),
    "cumsum": (lambda x: (x.cumsum(1), x.cumprod(2)), (A,)),
    "softmax": (lambda x: (F.softmax(x, 1), F.log_softmax(x, -1)), (A,)),
    # movement
    "views": (lambda x: (x.view(12, 5), x.transpose(0, 2), x.unsqueeze(1), x.flatten(), x.permute(2, 0, 1)), (A,)),
    "squeeze": (lambda x: (x.squeeze(), x.squeeze(1), x[0].unsqueeze(-1)), ((3, 1, 5),)),
    "expand": (lambda x: x.expand(2, 3, 4, 5), ((4, 1),)),
    "slices": (lambda x: (x[1:, ::2], x[..., -2:], x[:, 1], x[0, :, 2], x[:, 1:-1]), (A,)),
    "cat_stack": (lambda x, y: (torch.cat([x, y], 1), torch.stack([x, y], -1), torch.hstack([x, y])), (A, B)),
    "split": (lambda x: (*x.split(2, 2), *x.chunk(2, 1), *x.unbind(0)), (A,)),
    "pad": (lambda x: (F.pad(x, (1, 2, 0, 3), value=2.0), F.pad(x, (-1, 1))), (A,)),
    "pad_modes": (lambda x: F.pad(x, (2, 1), mode="reflect"), (A,)),
    "repeat": (lambda x: (x.repeat(2, 1, 3), x.repeat(2, 1, 1, 1), x.repeat_interleave(2, 1), x.tile(2)), (A,)),
    "flip_roll": (lambda x: (x.flip(0, 2), x.roll(2, 1), x.roll((1, -1), (0, 2)), x.rot90()), (A,)),
    "tril": (lambda x: (x.tril(), x.triu(1), x.tril(-1)), (A,)),
    "diagonal": (lambda x: (x.diagonal(0, 1, 2), x.diagonal(1), x.diagonal(-1, 2, 0)), (A,)),
    "diag_embed": (torch.diag_embed, (A,)),
    "unfold": (lambda x: x.unfold(1, 2, 1), (A,)),
    "slice_assignment": (lambda x, y: _assigned(x, y), (A, (3, 2, 5))),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), ((2, 8, 3, 3),)),
    "meshgrid": (lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij"), (A,)),
    "einsum": (lambda x, y: torch.einsum("abc,abd->acd", x, y), (A, (3, 4, 2))),
    # creation
    "creation": (
        lambda x: x.new_zeros(3) + torch.arange(3) + torch.full((3,), 2.0) + torch.ones_like(x[:, 0, 0]),
        (A,),
    ),
    "arange": (
        lambda x: (torch.arange(1, 9, 2) + x.sum(), torch.linspace(0, 1, 5) * x, torch.eye(5, dtype=x.dtype) @ x[0].T),
        (A,),
    ),
    # products
    "mm": (lambda x, y: (x @ y, x.t() @ x, torch.outer(x[0], y[0])), ((6, 4), (4, 7))),
    "bmm": (lambda x, y: (x @ y, torch.matmul(x, y[0])), ((3, 4, 5), (3, 5, 2))),
    "mv": (lambda x, y: (x @ y, torch.dot(y, y)), ((6, 4), (4,))),
    "linear": (F.linear, (A, (7, 5), (7,))),
    "addmm": (lambda x, y, z: torch.addmm(z, x, y, beta=0.5, alpha=2), ((6, 4), (4, 7), (7,))),
    "baddbmm": (lambda x, y, z: torch.baddbmm(z, x, y, beta=0.5), ((3, 4, 5), (3, 5, 2), (3, 4, 2))),
    "cosine_similarity": (lambda x, y: F.cosine_similarity(x, y, dim=-1), (A, B)),
    # networks
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (5,), w, b), (A, (5,), (5,))),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (A, (4,), (4,))),
    "rms_norm": (lambda x, w: F.rms_norm(x, (5,), w), (A, (5,))),
    "instance_norm": (F.instance_norm, (A,)),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, w.detach() * 0, w.detach() * 0 + 1, w, b, training=True),
        (A, (4,), (4,)),
    ),
    "batch_norm_eval": (lambda x, m, v: F.batch_norm(x, m.detach(), v.detach().abs() + 0.5), (A, (4,), (4,))),
    "embedding": (lambda w: F.embedding(I, w, padding_idx=1), ((7, 5),)),
    "index": (lambda x: (x[I], x[:, I], x[I, I], x[:, :, I[0]], x[I[0], :, I[0]], x[-1], x[[0, -1]]), (A,)),
    "index_select": (lambda x: x.index_select(1, I[0]), (A,)),
    "gather": (lambda x: (x.gather(1, I[None].expand(2, 2, 3)), torch.take_along_dim(x, I[None, :, :1], 1)), (A,)),
    "scatter": (
        lambda x, y: (x.scatter(2, I[None], y), x.scatter_add(1, I[None], y), x.scatter(1, I[None], 2.0)),
        (A, (1, 2, 3)),
    ),
    "scatter_reduce": (lambda x, y: x.scatter_reduce(1, I[None], y, "sum"), (A, (1, 2, 3))),
    "index_put": (lambda x, y: _put(x, y), (A, (2, 3, 4, 5))),
    "index_add": (lambda x, y: x.index_add(1, I[0], y, alpha=2), (A, (3, 3, 5))),
    "masked_assignment": (lambda x: _masked(x), (A,)),
    "masked_scatter": (lambda x, y: x.masked_scatter(x > 0.3, y), (A, (5, 4, 3))),
    "topk": (lambda x: (x.topk(2, 1)[0], x.topk(3, largest=False)[1]), (A,)),
    "sort": (lambda x: (x.sort(1)[0], x.sort(-1, descending=True)[1], x.argsort(0)), (A,)),
    "cross_entropy": (
        lambda x: (F.cross_entropy(x, torch.tensor([0, 3, 2])), F.cross_entropy(x, torch.tensor([1, -100, 2]))),
        ((3, 4),),
    ),
    "label_smoothing": (lambda x: F.cross_entropy(x, torch.tensor([0, 3, 2]), label_smoothing=0.1), ((3, 4),)),
    "losses": (
        lambda x, y: (F.mse_loss(x, y), F.l1_loss(x, y), F.smooth_l1_loss(x, y), F.huber_loss(x, y)),
        (A, B),
    ),
    "bce": (lambda x, y: F.binary_cross_entropy_with_logits(x, y.sigmoid()), (A, B)),
    "kl_div": (lambda x, y: F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction="batchmean"), (A, B)),
    "glu": (lambda x: F.glu(x, 1), (A,)),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=1), ((2, 4, 9), (6, 4, 3))),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((2, 4, 9, 8), (6, 4, 3, 3), (6,))),
    "conv2d_strided": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), ((2, 4, 9, 8), (6, 4, 3, 3))),
    "conv2d_stride_over": (lambda x, w: F.conv2d(x, w, stride=3), ((2, 4, 11, 10), (6, 4, 2, 2))),
    "conv2d_dilated": (lambda x, w: F.conv2d(x, w, dilation=2, padding=2), ((2, 4, 9, 8), (6, 4, 3, 3))),
    "conv2d_grouped": (lambda x, w: F.conv2d(x, w, groups=2, padding=1), ((2, 4, 9, 8), (6, 2, 3, 3))),
    "conv2d_depthwise": (lambda x, w: F.conv2d(x, w, groups=4, padding=1), ((2, 4, 9, 8), (4, 1, 3, 3))),
    "conv2d_1x1": (lambda x, w: F.conv2d(x, w), ((2, 4, 9, 8), (6, 4, 1, 1))),
    "conv2d_patches": (lambda x, w: F.conv2d(x, w, stride=4), ((2, 3, 16, 16), (6, 3, 4, 4))),
    "conv3d": (lambda x, w: F.conv3d(x, w, padding=1), ((1, 2, 4, 5, 6), (3, 2, 3, 3, 3))),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        ((2, 4, 5, 6), (4, 3, 3, 3)),
    ),
    "conv_transpose1d": (lambda x, w: F.conv_transpose1d(x, w, groups=2), ((2, 4, 5), (4, 3, 3))),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), ((2, 3, 9, 8),)),
    "max_pool2d_ceil": (lambda x: F.max_pool2d(x, 2, ceil_mode=True), ((2, 3, 9, 7),)),
    "max_pool2d_dilated": (lambda x: F.max_pool2d(x, 2, 1, dilation=2), ((2, 3, 9, 7),)),
    "max_pool_indices": (lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), ((2, 3, 9, 8),)),
    "max_pool1d": (lambda x: F.max_pool1d(x, 2), ((2, 3, 9),)),
    "avg_pool2d": (lambda x: (F.avg_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1)), ((2, 3, 9, 8),)),
    "avg_pool2d_valid": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), ((2, 3, 9, 8),)),
    "avg_pool2d_ceil": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), ((2, 3, 8, 8),)),
    "avg_pool2d_divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), ((2, 3, 9, 8),)),
    "adaptive_avg_pool2d": (
        lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (3, 5)), F.adaptive_avg_pool2d(x, 9)),
        ((2, 3, 9, 9),),
    ),
    "adaptive_avg_pool3d": (
        lambda x: (F.adaptive_avg_pool3d(x, 1), F.adaptive_avg_pool3d(x, (2, 3, 5))),
        ((2, 3, 4, 9, 7),),
    ),
    "interpolate": (
        lambda x: (
            F.interpolate(x, scale_factor=2),
            F.interpolate(x, size=(7, 9), mode="bilinear"),
            F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=True),
        ),
        ((2, 3, 5, 6),),
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
    ),
    "attention_causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        ((2, 3, 5, 8), (2, 3, 5, 8), (2, 3, 5, 8)),
    ),
    "attention_masked": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, (torch.arange(7) < 5)[None]),
        ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
    ),
    "attention_grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        ((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8)),
    ),
}


def _assigned(x: Any, y: Any) -> Any:
    x = x.clone()
    x[:, 1:3] = y
    x[:, ::2, 0] = 1
    x[2] = 5
    return x


def _put(x: Any, y: Any) -> Any:
    first, second, third = x.clone(), x.clone(), x.clone()
    first[I] = 3.0
    second.index_put_((I,), y, accumulate=True)
    third[:, I[0, :2], I[1, :2]] += 1
    return first, second, third


def _masked(x: Any) -> Any:
    x = x.clone()
    x[x > 0.5] = 0
    return x
