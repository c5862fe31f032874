"""Networks to train, each in `ds_compiler.nn` and, with the same names, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ds_compiler import nn

Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array]


class MLP(nn.Model):
    """784-256-10, or other widths."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        widths = widths or (784, 256, 10)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Any) -> Any:
        for layer in list(self.layers)[:-1]:
            x = nn.relu(layer(x))
        return self.layers[-1](x)


class Residual(nn.Model):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        changed = stride != 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if changed else None

    def forward(self, x: Any) -> Any:
        y = nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Model):
    """A stem, three stages of residual blocks, an average, a classifier (He et al. 2016, for small images)."""

    def __init__(self, width: int = 16, blocks: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages: list[nn.Model] = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stages.append(Residual(channels, width << stage, 2 if stage and not block else 1))
                channels = width << stage
        self.blocks = nn.ModuleList(stages)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Any) -> Any:
        x = nn.relu(self.bn(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(nn.Flatten()(nn.adaptive_avg_pool2d(x, 1)))


class Block(nn.Model):
    """Attention and two linear layers, each on the normalised input and added to it."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attn = nn.MultiHeadAttention(d, heads, causal=True)
        self.norm2 = nn.LayerNorm(d)
        self.fc1 = nn.Linear(d, 4 * d)
        self.fc2 = nn.Linear(4 * d, d)

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(nn.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Model):
    """A decoder: token and position embeddings, blocks, a linear layer to the vocabulary."""

    def __init__(
        self, vocabulary: int = 512, d: int = 256, heads: int = 8, layers: int = 4, positions: int = 128
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, d)
        self.positions = nn.Embedding(positions, d)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocabulary, bias=False)

    def forward(self, ids: Any) -> Any:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@dataclass(frozen=True)
class Case:
    """A network, its twin, and batches for it.

    Attributes:
        make: the network.
        batch: the batch of a step's number.
        twin: PyTorch's network with the same state dict.
    """

    make: Callable[[], nn.Model]
    batch: Callable[[int], Batch]
    twin: Callable[[], Any]


def loss_of(model: Any, x: Any, y: Any) -> Any:
    """The loss of all cases."""
    return nn.cross_entropy(model(x), y)


def torch_loss(model: Any, x: Any, y: Any) -> Any:
    """`loss_of`, in PyTorch."""
    import torch

    logits = model(x)
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))


def twin(case: Case, model: nn.Model) -> Any:
    """PyTorch's network with the parameters of `model`."""
    import torch

    made = case.twin()
    made.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in model.state_dict().items()})
    return made


def _vectors(rows: int, width: int, classes: int) -> Callable[[int], Batch]:
    """Noise around a point for each class, about four standard deviations apart, so that no loss comes near 0."""

    def batch(step: int) -> Batch:
        random = np.random.default_rng(step)
        y = random.integers(0, classes, rows)
        centres = np.random.default_rng(0).standard_normal((classes, width))
        return (3 / width**0.5 * centres[y] + random.standard_normal((rows, width))).astype(np.float32), y

    return batch


def _images(rows: int, size: int) -> Callable[[int], Batch]:
    """Noise in a colour, which is the class."""
    colours = _vectors(rows, 3, 10)

    def batch(step: int) -> Batch:
        x, y = colours(step)
        noise = np.random.default_rng(step).standard_normal((rows, 3, size, size))
        return (2 * x[:, :, None, None] + noise).astype(np.float32), y

    return batch


def _texts(rows: int, positions: int, vocabulary: int) -> Callable[[int], Batch]:
    def batch(step: int) -> Batch:
        random = np.random.default_rng(step)
        steps = random.integers(1, 4, (rows, positions + 1))
        ids = np.cumsum(steps, 1) % vocabulary
        return ids[:, :-1], ids[:, 1:]

    return batch


def _torch_mlp() -> Any:
    from bench.torch_networks import MLP as Twin

    return Twin(784, 256, 10)


def _torch_resnet() -> Any:
    from bench.torch_networks import ResNet as Twin

    return Twin(16, 1, 10)


def _torch_transformer() -> Any:
    from bench.torch_networks import Transformer as Twin

    return Twin(512, 256, 8, 4, 128)


def _torch_gpt2() -> Any:
    from bench.torch_networks import Transformer as Twin

    return Twin(512, 384, 6, 6, 128)


CASES: dict[str, Case] = {
    "mlp": Case(MLP, _vectors(64, 784, 10), _torch_mlp),
    "resnet": Case(ResNet, _images(32, 32), _torch_resnet),
    "transformer": Case(Transformer, _texts(8, 128, 512), _torch_transformer),
    "gpt2": Case(lambda: Transformer(d=384, heads=6, layers=6), _texts(8, 128, 512), _torch_gpt2),
}
"""What is timed: an MLP on 64 rows; a ResNet of 3 blocks on 32 images of 32x32; 4 layers, d=256, 8 heads, and 6 layers,
d=384, 6 heads (a small GPT-2 but for its exact GELU and untied head), on 8x128 tokens of 512."""
