"""Indices out of range end the program where eager PyTorch raises an error, and run where it runs."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import ds_compiler.torch as backend  # noqa: E402
from ds_compiler.runtime import ExecutionError  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    backend.reset()


def _square(i: Any) -> Any:
    return i[:, None].expand(3, 6)


CASES: dict[str, Any] = {
    "embedding": lambda x, i: torch.nn.functional.embedding(i, x),
    "index_select": lambda x, i: x.index_select(0, i),
    "gather": lambda x, i: x.gather(0, _square(i)),
    "scatter": lambda x, i: x.scatter(0, _square(i), x[:3] * 2),
    "scatter value": lambda x, i: x.scatter(0, _square(i), 2.0),
    "scatter_add": lambda x, i: x.scatter_add(0, _square(i), x[:3]),
    "scatter_reduce": lambda x, i: x.scatter_reduce(0, _square(i), x[:3], "amax"),
    "index_add": lambda x, i: x.index_add(0, i, x[:3]),
    "index": lambda x, i: x[i],
    "two indices": lambda x, i: x[i, i],
    "index_put": lambda x, i: x.index_put((i,), x[:3] * 2),
    "accumulate": lambda x, i: x.index_put((i,), x[:3], accumulate=True),
    "cross_entropy": lambda x, i: torch.nn.functional.cross_entropy(x[:3, :4], i),
}


@pytest.mark.parametrize("name", CASES)
def test_as_eager(name: str) -> None:
    function = CASES[name]
    compiled = torch.compile(function, backend="ds", fullgraph=True, options={"threads": 1, "cache": False})
    x = torch.arange(24.0).reshape(4, 6)
    errors = 0
    for indices in ([0, 2, 3], [0, 4, 3], [-1, 1, 2], [3, 2, -5], [1, 2, 0]):
        i = torch.tensor(indices)
        try:
            expected = function(x, i)
        except (IndexError, RuntimeError):
            errors += 1
            with pytest.raises(ExecutionError, match=r"an index of axis \d is out of range"):
                compiled(x, i)
        else:
            torch.testing.assert_close(compiled(x, i), expected)
    assert errors in (2, 3)


def test_training_step() -> None:
    table = torch.nn.Embedding(4, 6)
    compiled = torch.compile(table, backend="ds", fullgraph=True, options={"threads": 1, "cache": False})
    i = torch.tensor([[0, 3], [3, 1]])
    ours = torch.autograd.grad(compiled(i).square().sum(), [table.weight])
    theirs = torch.autograd.grad(table(i).square().sum(), [table.weight])
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ExecutionError, match="out of range"):
        compiled(i + 1)
