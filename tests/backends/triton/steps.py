"""A training loop through the public interface on a GPU that interprets; a program of its own, for the interpreter
must be chosen before Triton is imported. Prints the losses and a weight as JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from tests.backends.triton.worker import Functions, launcher, patch  # sets the interpreter's variable

import ds_compiler as ds  # isort: skip
import numpy as np

from ds_compiler import nn, optim
from ds_compiler.runtime.cuda.plan import Code, GpuProgram, Kernel
from tests.runtime.cuda.fake import FakeLibrary
from tests.runtime.cuda.gpu import pretended, stand_ins


class Net(nn.Model):
    """Embedding, attention, a normalisation and two layers: most kinds of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiHeadAttention(16, 2, causal=True)
        self.head = nn.Linear(16, 13)

    def forward(self, ids: Any) -> Any:
        x = self.embedding(ids)
        return self.head(x + self.attention(self.norm(x)))


def train(target: str, steps: int) -> dict[str, Any]:
    """Losses of some steps, and the sum of a weight."""
    optimizer = optim.AdamW(1e-2)

    @ds.compile(target=target, donate=("model", "state"))
    def step(model: Any, state: Any, ids: Any) -> Any:
        def loss_of(model: Any) -> Any:
            return nn.cross_entropy(model(ids[:, :-1]), ids[:, 1:])

        loss, grads = ds.value_and_grad(loss_of)(model)
        return *optimizer.update(model, grads, state), loss

    nn.seed(0)
    model: Any = Net()
    state = optimizer.init(model)
    if target != "cpu":
        model, state = ds.device_put((model, state))
    ids = np.random.default_rng(0).integers(0, 13, (2, 9))
    losses = []
    for _ in range(steps):
        model, state, loss = step(model, state, ids)
        losses.append(float(loss))
    return {"losses": losses, "weight": np.asarray(model.head.weight).tolist()}


def main() -> None:
    """Run both."""
    patch()
    kernels: dict[str, Kernel] = {}

    def compiled(program: GpuProgram) -> tuple[Code, ...]:
        kernels.update({k.name: k for k in program.kernels})
        return stand_ins(program)

    with tempfile.TemporaryDirectory() as folder:
        library = FakeLibrary(launcher(kernels, Functions(Path(folder))))
        with pretended(library), mock.patch("ds_compiler.gpu.compile_kernels", compiled):
            found = train("cuda", 4)
    graphs = len(library.named("cuGraphLaunch"))
    print(json.dumps({"gpu": found, "cpu": train("cpu", 4), "graphs": graphs}))


if __name__ == "__main__":
    main()
