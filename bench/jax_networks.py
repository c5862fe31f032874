"""The networks of `networks` in plain JAX, and AdamW, as one would write them there.

Parameters are a dict of arrays with the names of the networks' state dicts. Images are NHWC inside, which is the
layout that XLA's convolutions on CPUs take without a transpose. A network returns its result and what it changes in
the parameters (running statistics).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Parameters = dict[str, Any]
Network = Callable[[Parameters, Any], tuple[Any, Parameters]]

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Last parts of the names of what is not trained."""


def linear(p: Parameters, name: str, x: Any) -> Any:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def mlp(p: Parameters, x: Any) -> tuple[Any, Parameters]:
    count = sum(name.endswith("weight") for name in p)
    for index in range(count - 1):
        x = jax.nn.relu(linear(p, f"layers.{index}", x))
    return linear(p, f"layers.{count - 1}", x), {}


def conv(p: Parameters, name: str, x: Any, stride: int) -> Any:
    weight = p[f"{name}.weight"].transpose(2, 3, 1, 0)
    pad = weight.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, weight, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def batch_norm(p: Parameters, name: str, x: Any, changed: Parameters) -> Any:
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    changed[f"{name}.running_mean"] = 0.9 * p[f"{name}.running_mean"] + 0.1 * mean
    changed[f"{name}.running_var"] = 0.9 * p[f"{name}.running_var"] + 0.1 * var * (count / (count - 1))
    return (x - mean) * (jax.lax.rsqrt(var + 1e-5) * p[f"{name}.weight"]) + p[f"{name}.bias"]


def resnet(p: Parameters, x: Any) -> tuple[Any, Parameters]:
    changed: Parameters = {}
    x = x.transpose(0, 2, 3, 1)
    x = jax.nn.relu(batch_norm(p, "bn", conv(p, "conv", x, 1), changed))
    index = 0
    while f"blocks.{index}.conv1.weight" in p:
        block = f"blocks.{index}"
        out, channels = p[f"{block}.conv1.weight"].shape[:2]
        stride = 2 if out != channels else 1
        y = jax.nn.relu(batch_norm(p, f"{block}.bn1", conv(p, f"{block}.conv1", x, stride), changed))
        y = batch_norm(p, f"{block}.bn2", conv(p, f"{block}.conv2", y, 1), changed)
        shortcut = f"{block}.shortcut"
        x = jax.nn.relu(y + (conv(p, shortcut, x, stride) if f"{shortcut}.weight" in p else x))
        index += 1
    return linear(p, "fc", x.mean((1, 2))), changed


def layer_norm(p: Parameters, name: str, x: Any) -> Any:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def attention(p: Parameters, name: str, x: Any, heads: int) -> Any:
    rows, positions, d = x.shape
    joined = x @ p[f"{name}.in_proj_weight"].T + p[f"{name}.in_proj_bias"]
    q, k, v = (part.reshape(rows, positions, heads, -1) for part in jnp.split(joined, 3, -1))
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return linear(p, f"{name}.out_proj", y.reshape(rows, positions, d))


def transformer(heads: int) -> Network:
    def network(p: Parameters, ids: Any) -> tuple[Any, Parameters]:
        x = p["tokens.weight"][ids] + p["positions.weight"][: ids.shape[1]]
        index = 0
        while f"blocks.{index}.fc1.weight" in p:
            block = f"blocks.{index}"
            x = x + attention(p, f"{block}.attn", layer_norm(p, f"{block}.norm1", x), heads)
            y = jax.nn.gelu(linear(p, f"{block}.fc1", layer_norm(p, f"{block}.norm2", x)), approximate=False)
            x = x + linear(p, f"{block}.fc2", y)
            index += 1
        return linear(p, "head", layer_norm(p, "norm", x)), {}

    return network


NETWORKS: dict[str, Network] = {
    "mlp": mlp,
    "resnet": resnet,
    "transformer": transformer(heads=8),
    "gpt2": transformer(heads=6),
}


def make_step(network: Network, rate: float) -> Callable[..., Any]:
    """A jitted ``step(trained, buffers, moments, number, x, y)`` with AdamW, whose defaults are PyTorch's.

    All but the batch is donated; returns the first four, updated, and the loss.
    """

    def loss_of(trained: Parameters, buffers: Parameters, x: Any, y: Any) -> Any:
        logits, changed = network({**trained, **buffers}, x)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1)
        return -chosen.mean(), {**buffers, **changed}

    def step(trained: Parameters, buffers: Parameters, moments: Any, number: Any, x: Any, y: Any) -> Any:
        (loss, buffers), grads = jax.value_and_grad(loss_of, has_aux=True)(trained, buffers, x, y)
        number = number + 1
        first, second = (-jnp.expm1(number * math.log(beta)) for beta in (0.9, 0.999))
        updated: Parameters = {}
        after: Parameters = {}
        for name, w in trained.items():
            m = 0.9 * moments[name][0] + 0.1 * grads[name]
            v = 0.999 * moments[name][1] + 0.001 * grads[name] ** 2
            updated[name] = w * (1 - rate * 0.01) - rate / first * m / (jnp.sqrt(v / second) + 1e-8)
            after[name] = (m, v)
        return updated, buffers, after, number, loss

    return jax.jit(step, donate_argnums=(0, 1, 2, 3))
