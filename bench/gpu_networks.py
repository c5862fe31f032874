"""The networks that `gpu_check` runs, in PyTorch, by their published sizes and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, d: int, heads: int, kv_heads: int, causal: bool, bias: bool, rotary: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size, self.causal, self.rotary = heads, kv_heads, d // heads, causal, rotary
        self.q = nn.Linear(d, d, bias=bias)
        self.k = nn.Linear(d, kv_heads * self.size, bias=bias)
        self.v = nn.Linear(d, kv_heads * self.size, bias=bias)
        self.out = nn.Linear(d, d, bias=bias)

    def forward(self, x: Any) -> Any:
        rows, positions, d = x.shape
        q = self.q(x).view(rows, positions, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(rows, positions, self.kv_heads, self.size).transpose(1, 2)
        v = self.v(x).view(rows, positions, self.kv_heads, self.size).transpose(1, 2)
        if self.rotary:
            q, k = rotated(q), rotated(k)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(rows, positions, d))


def rotated(x: Any) -> Any:
    """Rotary positions (Su et al. 2021), halves of a head turned against each other."""
    half, positions = x.shape[-1] // 2, x.shape[-2]
    rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(positions, device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class RMSNorm(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Any) -> Any:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Gated(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, d: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(d, inner, bias=False), nn.Linear(d, inner, bias=False)
        self.down = nn.Linear(inner, d, bias=False)

    def forward(self, x: Any) -> Any:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, d: int, heads: int, kind: str) -> None:
        super().__init__()
        llama = kind == "llama"
        self.first = kind != "bert"  # normalise first; BERT does it after the addition
        norm: Callable[[int], nn.Module] = RMSNorm if llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(d), norm(d)
        kv_heads = max(heads // 3, 1) if llama else heads
        self.attention = Attention(d, heads, kv_heads, kind in ("gpt2", "llama"), not llama, llama)
        gelu = nn.GELU("tanh" if kind == "gpt2" else "none")
        self.mlp = Gated(d, 8 * d // 3) if llama else nn.Sequential(nn.Linear(d, 4 * d), gelu, nn.Linear(4 * d, d))

    def forward(self, x: Any) -> Any:
        if not self.first:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Text(nn.Module):
    """BERT, GPT-2 or a Llama-like decoder: token numbers to logits, or BERT's to its last states."""

    def __init__(self, kind: str, d: int, heads: int, layers: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.kind = kind
        self.tokens = nn.Embedding(vocabulary, d)
        self.positions = nn.Embedding(positions, d) if kind != "llama" else None
        self.blocks = nn.ModuleList(Block(d, heads, kind) for _ in range(layers))
        self.norm = RMSNorm(d) if kind == "llama" else nn.LayerNorm(d)

    def forward(self, ids: Any) -> Any:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions.weight[: ids.shape[1]]
        x = self.norm(x) if self.kind == "bert" else x
        for block in self.blocks:
            x = block(x)
        return x if self.kind == "bert" else F.linear(self.norm(x), self.tokens.weight)


class ViT(nn.Module):
    """Dosovitskiy et al. 2021: patches of 16x16, a token for the class."""

    def __init__(self, d: int, heads: int, layers: int, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, d, 16, 16)
        self.cls = nn.Parameter(torch.zeros(1, 1, d))
        self.places = nn.Parameter(torch.randn(1, (size // 16) ** 2 + 1, d) / 50)
        self.blocks = nn.ModuleList(Block(d, heads, "vit") for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 1000)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Bottleneck(nn.Module):
    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out = 4 * inner
        sizes = ((channels, inner, 1, 1), (inner, inner, 3, stride), (inner, out, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)
        changed = stride != 1 or channels != out
        side = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.side: nn.Module = side if changed else nn.Identity()

    def forward(self, x: Any) -> Any:
        y = F.relu(self.norms[0](self.convs[0](x)))
        y = F.relu(self.norms[1](self.convs[1](y)))
        return F.relu(self.norms[2](self.convs[2](y)) + self.side(x))


class ResNet(nn.Module):
    """He et al. 2016, with bottlenecks; `blocks` (3, 4, 6, 3) is ResNet-50."""

    def __init__(self, width: int, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage, count in enumerate(blocks):
            for index in range(count):
                stages.append(Bottleneck(channels, width << stage, 2 if stage and not index else 1))
                channels = 4 * width << stage
        self.blocks, self.head = nn.Sequential(*stages), nn.Linear(channels, 1000)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


@dataclass(frozen=True)
class Network:
    """How a network is made, and its input: `small` is for trying a script out, of the same operators."""

    make: Callable[[bool], nn.Module]
    inputs: Callable[[bool], Any]


def _text(kind: str, positions: int, vocabulary: int) -> Network:
    def make(small: bool) -> nn.Module:
        return Text(kind, 48, 3, 1, 64, 32) if small else Text(kind, 768, 12, 12, vocabulary, positions)

    def inputs(small: bool) -> Any:
        return torch.randint(0, 64 if small else vocabulary, (2, 16) if small else (8, 128))

    return Network(make, inputs)


NETWORKS: dict[str, Network] = {
    "BERT-base": _text("bert", 512, 30522),
    "GPT-2": _text("gpt2", 1024, 50257),
    "Llama-like": _text("llama", 0, 32000),
    "ViT-base": Network(
        lambda small: ViT(48, 3, 1, 32) if small else ViT(768, 12, 12, 224),
        lambda small: torch.randn(2, 3, 32, 32) if small else torch.randn(8, 3, 224, 224),
    ),
    "ResNet-50": Network(
        lambda small: ResNet(8, (1, 1)) if small else ResNet(64, (3, 4, 6, 3)),
        lambda small: torch.randn(2, 3, 32, 32) if small else torch.randn(8, 3, 224, 224),
    ),
}
"""Batches of 8: 128 tokens, or images of 224x224. BERT has no mask and no token types here; Llama-like is 12 layers of
768 with 12 heads over 4 of keys and values."""
