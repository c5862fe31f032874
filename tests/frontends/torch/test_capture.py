"""What is compiled when: one program for several sizes, graph breaks where Dynamo makes them only, no copies."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import ds_compiler.torch as backend  # noqa: E402
from ds_compiler.torch import program  # noqa: E402

OPTIONS = {"threads": 1, "cache": False}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    backend.reset()
    torch.manual_seed(0)


def _network() -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3)
    )


def test_a_second_batch_size_opens_it_and_no_other_compiles() -> None:
    """As Dynamo does: the first size is taken as fixed, a second one makes it a symbol."""
    network = _network().eval()
    compiled = torch.compile(network, backend="ds", options=OPTIONS)
    for count in (4, 7, 12, 33, 100, 5):
        x = torch.randn(count, 6)
        actual, expected = compiled(x), network(x)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        ours = torch.autograd.grad(actual.square().sum(), list(network.parameters()))
        theirs = torch.autograd.grad(expected.square().sum(), list(network.parameters()))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [g.kind for g in backend.report().graphs] == ["forward", "backward"] * 2


def test_open_sizes_with_dropout_compile_once() -> None:
    compiled = torch.compile(_network().train(), backend="ds", dynamic=True, options=OPTIONS)
    for count in (4, 7, 12):
        compiled(torch.randn(count, 6)).sum().backward()
    assert [g.kind for g in backend.report().graphs] == ["forward", "backward"]
    assert not backend.report().fallbacks


def test_graphs_break_where_dynamo_breaks_them() -> None:
    def whole(x: Any) -> Any:
        return torch.special.bessel_j0(x.softmax(-1)) + torch.linalg.inv(x @ x.T + torch.eye(4)).sum()

    def broken(x: Any) -> Any:
        y = x * 2
        torch._dynamo.graph_break()
        return y.exp()

    x = torch.randn(4, 4)
    for function, count in ((whole, 1), (broken, 2)):
        torch._dynamo.reset()
        backend.reset()
        explained = torch._dynamo.explain(function)(x)
        assert explained.graph_count == count
        torch._dynamo.reset()
        torch.testing.assert_close(
            torch.compile(function, backend="ds", options=OPTIONS)(x), function(x), rtol=1e-4, atol=1e-5
        )
        assert len(backend.report().graphs) == explained.graph_count


def test_programs_run_on_the_tensors_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    original = program.Program.__call__

    def watched(self: Any, *arguments: Any) -> Any:
        run_at = self._executable.run_at

        class Watch:
            def run_at(self, plan: Any, pointers: Any) -> None:
                seen.append(list(pointers))
                run_at(plan, pointers)

        executable, self._executable = self._executable, Watch()
        try:
            return original(self, *arguments)
        finally:
            self._executable = executable

    network, x = torch.nn.Linear(6, 3), torch.randn(4, 6)
    compiled = torch.compile(network, backend="ds", options=OPTIONS)
    with torch.no_grad():
        compiled(x)
        monkeypatch.setattr(program.Program, "__call__", watched)
        y = compiled(x)
    (pointers,) = seen
    assert {t.data_ptr() for t in (x, network.weight, network.bias, y)} == set(pointers)
