"""A training step in each engine that `train` compares: a function without arguments that takes the next batch and
returns its loss. All start from the same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.networks import CASES, Batch, loss_of, torch_loss, twin

RATE = 1e-3
Step = Callable[[], float]


def ours(name: str, model: Any, batches: Sequence[Batch], threads: int, cache: str) -> Step:
    """ds_compiler, with the compile cache in the folder `cache`."""
    import ds_compiler as ds

    optimizer = ds.optim.AdamW(RATE)

    @ds.compile(threads=threads, donate=("model", "state"), cache=cache)
    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = ds.value_and_grad(loss_of)(model, x, y)
        model, state = optimizer.update(model, grads, state)
        return model, state, loss

    own = model.replace({name: array.copy() for name, array in model.state_dict().items()})  # donated arrays change
    held = {"model": own, "state": optimizer.init(model), "count": 0}

    def call() -> float:
        x, y = batches[held["count"] % len(batches)]
        held["count"] += 1
        held["model"], held["state"], loss = step(held["model"], held["state"], x, y)
        return float(loss)

    return call


def torch_step(name: str, model: Any, batches: Sequence[Batch], compiled: bool = False) -> Step:
    """PyTorch: eager, or through Inductor, where network and loss are one graph."""
    import torch

    network = twin(CASES[name], model)
    loss_function = torch.compile(torch_loss) if compiled else torch_loss
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    tensors = [(torch.tensor(x), torch.tensor(y)) for x, y in batches]
    count = 0

    def call() -> float:
        nonlocal count
        x, y = tensors[count % len(tensors)]
        count += 1
        loss = loss_function(network, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return call


def jax_step(name: str, model: Any, batches: Sequence[Batch]) -> Step:
    """JAX: the whole step, optimizer included, is one jitted function that updates in place."""
    import jax.numpy as jnp

    from bench.jax_networks import BUFFERS, NETWORKS, make_step

    # Copies: JAX on a CPU may take a NumPy array's memory as it is, and the step writes into its arguments.
    held = {key: jnp.array(np.asarray(value), copy=True) for key, value in model.state_dict().items()}
    buffers = {key: value for key, value in held.items() if key.endswith(BUFFERS)}
    trained = {key: value for key, value in held.items() if key not in buffers}
    moments = {key: (jnp.zeros_like(value), jnp.zeros_like(value)) for key, value in trained.items()}
    state: Any = (trained, buffers, moments, jnp.zeros((), jnp.float32))
    arrays = [(jnp.asarray(x), jnp.asarray(y)) for x, y in batches]
    step = make_step(NETWORKS[name], RATE)
    count = 0

    def call() -> float:
        nonlocal count, state
        x, y = arrays[count % len(arrays)]
        count += 1
        *state, loss = step(*state, x, y)
        return float(loss)

    return call


PEERS: dict[str, Callable[[str, Any, Sequence[Batch]], Step]] = {
    "torch": torch_step,
    "torch.compile": functools.partial(torch_step, compiled=True),
    "jax.jit": jax_step,
}
"""What ours is compared with."""


def available() -> list[str]:
    """Those of `PEERS` that are installed."""
    return [name for name in PEERS if find_spec(name.split(".")[0]) is not None]
