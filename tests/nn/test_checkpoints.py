"""Checkpoints move both ways between PyTorch and `nn`, as safetensors files, and the networks compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn

torch = pytest.importorskip("torch", reason="PyTorch is the other side")
safetensors = pytest.importorskip("safetensors.torch")


class Ours(nn.Model):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.embed = nn.Embedding(11, 16)
        self.attention = nn.MultiHeadAttention(16, 4)
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.RMSNorm(16)])
        self.head = nn.Linear(16 + 8, 5)

    def forward(self, images: Any, ids: Any) -> Any:
        x = self.embed(ids)
        x = self.norms[1](self.norms[0](x + self.attention(x)))
        seen = ds.numpy.mean(self.features(images), axis=(2, 3))
        return self.head(ds.numpy.concat([ds.numpy.mean(x, axis=1), seen], axis=1))


class Theirs(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        t = torch.nn
        self.features = t.Sequential(t.Conv2d(3, 8, 3, padding=1), t.BatchNorm2d(8), t.ReLU(), t.MaxPool2d(2))
        self.embed = t.Embedding(11, 16)
        self.attention = t.MultiheadAttention(16, 4, batch_first=True)
        self.norms = t.ModuleList([t.LayerNorm(16), t.RMSNorm(16)])
        self.head = t.Linear(16 + 8, 5)

    def forward(self, images: Any, ids: Any) -> Any:
        x = self.embed(ids)
        x = self.norms[1](self.norms[0](x + self.attention(x, x, x, need_weights=False)[0]))
        return self.head(torch.cat([x.mean(1), self.features(images).mean((2, 3))], 1))


RNG = np.random.default_rng(0)
IMAGES, IDS = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32), RNG.integers(0, 11, (2, 6))


def same_results(ours: Any, theirs: Any) -> None:
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(IMAGES), torch.from_numpy(IDS)).numpy()
    np.testing.assert_allclose(ours.eval()(IMAGES, IDS), expected, rtol=1e-5, atol=1e-6)


def test_from_pytorch(tmp_path: Path) -> None:
    ours, theirs = Ours(), Theirs()
    theirs(torch.from_numpy(IMAGES), torch.from_numpy(IDS))  # running statistics of their own
    file = str(tmp_path / "theirs.safetensors")
    safetensors.save_file(theirs.state_dict(), file)
    assert ours.load(file) == ([], [])
    same_results(ours, theirs)
    other = Ours()
    other.load_state_dict(theirs.state_dict())
    same_results(other, theirs)


def test_to_pytorch(tmp_path: Path) -> None:
    ours, theirs = Ours(), Theirs()
    ours(IMAGES, IDS)
    file = str(tmp_path / "ours.safetensors")
    ours.save(file)
    theirs.load_state_dict(safetensors.load_file(file), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert int(theirs.features[1].num_batches_tracked) == 1
    same_results(ours, theirs)
