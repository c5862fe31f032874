"""`ds.compile` of PyTorch modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import ds_compiler as ds  # noqa: E402


def _network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4)).eval()


class _Structured(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.arange(4.0))
        self.constant = torch.tensor([1.0, -1.0, 2.0, 0.5])

    def forward(self, x: Any, pair: Any, scale: Any = None) -> Any:
        y = x * self.offset + pair[0] - self.constant
        return {"y": y if scale is None else y * scale, "both": (pair[1].sum(-1), x.t())}


def test_it_computes_what_the_module_does() -> None:
    module, x = _network(), torch.randn(3, 8)
    compiled = ds.compile(module, example_inputs=(x,), cache=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x), rtol=1e-5, atol=1e-6)


def test_open_axes_are_compiled_once() -> None:
    module = _network()
    compiled = ds.compile(module, example_inputs=(torch.randn(3, 8),), dynamic={"input": "batch"}, cache=False)
    for count in (2, 5, 64):
        x = torch.randn(count, 8)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-5, atol=1e-6)


def test_structures_buffers_and_named_arguments() -> None:
    module = _Structured()
    x, a, b, scale = torch.randn(3, 4), torch.randn(3, 4), torch.randn(2, 5), torch.tensor(2.0)
    compiled = ds.compile(module, example_inputs={"x": x, "pair": (a, b), "scale": scale}, cache=False)
    actual, expected = compiled(x=x, pair=(a, b), scale=scale), module(x, (a, b), scale)
    torch.testing.assert_close(actual["y"], expected["y"])
    torch.testing.assert_close(actual["both"], expected["both"])


def test_numpy_and_artifact(tmp_path: Path) -> None:
    module, x = _network(), torch.randn(3, 8)
    compiled = ds.compile(module, example_inputs=(x,), cache=False)
    (tmp_path / "a").mkdir()
    compiled.save(tmp_path / "a" / "net.dsa")
    loaded = ds.load(tmp_path / "a" / "net.dsa")
    (result,) = loaded(x.numpy()).values()
    np.testing.assert_allclose(result, module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_weights_are_part_of_the_cache_key(tmp_path: Path) -> None:
    x = torch.randn(3, 8)
    first, second = _network(), _network()
    with torch.no_grad():
        second[0].weight.mul_(2)
        results = [ds.compile(m, example_inputs=(x,), cache=tmp_path)(x) for m in (first, second)]
        torch.testing.assert_close(results[1], second(x), rtol=1e-5, atol=1e-6)
        assert not torch.equal(*results)


def test_errors() -> None:
    module, x = _network(), torch.randn(3, 8)
    with pytest.raises(ds.CompileError, match="example_inputs"):
        ds.compile(module)
    with pytest.raises(ds.CompileError, match=r"writes into.*eval"):
        ds.compile(torch.nn.BatchNorm1d(8), example_inputs=(x,), cache=False)
    with pytest.raises(ds.CompileError, match="no argument 'rows'"):
        ds.compile(module, example_inputs=(x,), dynamic={"rows": "batch"}, cache=False)
    compiled = ds.compile(module, example_inputs=(x,), cache=False)
    with pytest.raises(ds.InputError, match="expected arguments like"):
        compiled(x, x)
    with pytest.raises(ds.InputError, match="float64"):
        compiled(x.double())
