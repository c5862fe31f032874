"""The Dynamo backend around the operators: open sizes, mutation, aliasing, layouts, fallbacks."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import ds_compiler.torch as backend  # noqa: E402


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    backend.reset()
    torch.manual_seed(0)


def _compiled(function: Any, **options: Any) -> Any:
    return torch.compile(function, backend="ds", fullgraph=True, options={"threads": 1, "cache": False}, **options)


def test_a_marked_batch_is_compiled_once() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 5)
    )
    compiled = _compiled(network)
    for count in (4, 7, 2, 15):  # from 16 on PyTorch itself guards, for a convolution algorithm of its own
        x = torch.randn(count, 3, 6, 6)
        torch._dynamo.mark_dynamic(x, 0)
        actual, expected = compiled(x), network(x)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        ours = torch.autograd.grad(actual.square().sum(), list(network.parameters()))
        theirs = torch.autograd.grad(expected.square().sum(), list(network.parameters()))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert [g.kind for g in backend.report().graphs] == ["forward", "backward"]
    assert not backend.report().fallbacks


def test_all_sizes_open() -> None:
    def function(x: Any, y: Any) -> Any:
        z = torch.cat([x, y], 1).transpose(0, 1)
        picked = z[1:, : z.shape[1] // 2] * z.shape[0]
        return picked.softmax(-1), z.mean(0), torch.arange(x.shape[1]) + 1

    compiled = _compiled(function, dynamic=True)
    for rows, a, b in ((4, 3, 5), (6, 7, 2), (9, 4, 4)):
        x, y = torch.randn(rows, a), torch.randn(rows, b)
        torch.testing.assert_close(compiled(x, y), function(x, y))
    (graph,) = backend.report().graphs
    assert not graph.fallbacks and not graph.error


def test_inputs_are_mutated_in_place() -> None:
    def function(x: Any, y: Any) -> Any:
        x.add_(1)
        y[:, 1] = x.sum(1)
        return x * y

    a, b = torch.randn(3, 4), torch.randn(3, 4)
    c, d = a.clone(), b.clone()
    torch.testing.assert_close(_compiled(function)(a, b), function(c, d))
    torch.testing.assert_close((a, b), (c, d))


def test_results_that_alias() -> None:
    def function(x: Any) -> Any:
        y = x + 1
        return x, x.view(-1), y, y.t(), y

    x = torch.randn(3, 4)
    results = _compiled(function)(x)
    torch.testing.assert_close(results, function(x))
    assert results[1].data_ptr() == x.data_ptr()
    assert results[2].data_ptr() == results[4].data_ptr()


@pytest.mark.parametrize("view", [lambda x: x.t(), lambda x: x[::2], lambda x: x[:, 1:], lambda x: x[:1].expand(4, 6)])
def test_arguments_in_any_layout(view: Any) -> None:
    x = view(torch.randn(4, 6))
    function = lambda x: (x * 2, x.sum(0))  # noqa: E731
    torch.testing.assert_close(_compiled(function)(x), function(x))


def test_channels_last() -> None:
    network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    actual, expected = _compiled(network)(x), network(x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual.stride() == expected.stride()


def test_what_is_not_imported_stays_in_pytorch() -> None:
    def function(x: Any) -> Any:
        y = (x * 2 + 1).exp()
        inverse = torch.linalg.inv(y @ y.T + 10 * torch.eye(4))
        return inverse.sum() + torch.special.bessel_j0(x).mean() * y.mean(), inverse

    x = torch.randn(4, 4, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(_compiled(function)(x), function(x), rtol=1e-4, atol=1e-5)
    (graph,) = backend.report().graphs
    assert "prims.bessel_j0.default" in graph.fallbacks
    assert graph.programs
    assert "bessel" in str(backend.report())


def test_a_mask_as_index() -> None:
    function = lambda x: x * 2 + (x > 0).sum()  # noqa: E731
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        x = torch.randn(4, 4)
        masked = lambda x: function(x)[x > 0] * 3  # noqa: E731
        torch.testing.assert_close(_compiled(masked)(x), masked(x))
    assert backend.report().fallbacks


def test_narrow_floats() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        torch._dynamo.reset()
        function = lambda x, w: torch.nn.functional.gelu(x @ w).softmax(-1)  # noqa: E731
        x, w = torch.randn(5, 8).to(dtype), torch.randn(8, 6).to(dtype)
        expected = function(x.double(), w.double())
        actual = _compiled(function)(x, w)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), expected, rtol=3e-2, atol=1e-2)


def test_training_goes_as_in_eager_mode() -> None:
    def train(wrap: Any) -> list[float]:
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        x, labels = torch.randn(64, 6), torch.randint(0, 3, (64,))
        step = wrap(lambda x, labels: torch.nn.functional.cross_entropy(network(x), labels))
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = step(x, labels)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        return losses

    torch.testing.assert_close(train(_compiled), train(lambda f: f), rtol=1e-5, atol=1e-6)


def test_a_graph_that_does_not_compile_is_run_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from ds_compiler.ir import CompileError
    from ds_compiler.torch import program

    def fail(*_: Any, **__: Any) -> Any:
        raise CompileError("no such luck")

    monkeypatch.setattr(program, "compile_module", fail)
    x = torch.randn(3)
    with pytest.warns(UserWarning, match="no such luck"):
        torch.testing.assert_close(_compiled(lambda x: x + 1)(x), x + 1)
    assert backend.report().graphs[0].error == "no such luck"
