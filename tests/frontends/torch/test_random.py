"""Random operators: compiled, distributed as in eager mode, decided by `torch.manual_seed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import ds_compiler.torch as backend  # noqa: E402
from ds_compiler.runtime import ExecutionError  # noqa: E402

F = torch.nn.functional


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    backend.reset()
    torch.manual_seed(0)


def _compiled(function: Any, **options: Any) -> Any:
    return torch.compile(function, backend="ds", fullgraph=True, options={"threads": 1, "cache": False}, **options)


CASES: dict[str, Callable[[Any], Any]] = {
    "rand": lambda x: torch.rand(x.shape),
    "rand_bfloat16": lambda x: torch.rand(x.shape, dtype=torch.bfloat16),
    "rand_like": lambda x: torch.rand_like(x, dtype=torch.float64),
    "randn": lambda x: torch.randn(x.shape) + x,
    "randn_like": lambda x: torch.randn_like(x, dtype=torch.float64),
    "randint": lambda x: torch.randint(-3, 9, x.shape),
    "randint_like": lambda x: torch.randint_like(x, 5),
    "bernoulli": lambda x: torch.bernoulli(x * 0 + 0.2),
    "bernoulli_p": lambda x: x.clone().bernoulli_(0.1),
    "bernoulli_tensor": lambda x: x.clone().bernoulli_(torch.full((200, 1), 0.7)),
    "uniform": lambda x: x.clone().uniform_(-2, 5),
    "normal": lambda x: x.clone().normal_(1, 2),
    "normal_tensor": lambda x: torch.normal(x, 0.5),
    "exponential": lambda x: x.clone().exponential_(2.0),
    "geometric": lambda x: x.clone().geometric_(0.3),
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout2d": lambda x: F.dropout2d(x.reshape(500, 10, 4, 5), 0.4),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x.reshape(500, 10, 4, 5), 0.3, training=True),
    "rrelu": lambda x: F.rrelu(x - 2, training=True),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x),
}


@pytest.mark.parametrize("name", CASES)
def test_distributed_as_in_eager_mode(name: str) -> None:
    function, x = CASES[name], torch.ones(200, 500)
    actual, expected = (f(x).double() for f in (_compiled(function), function))
    error = 6 * float(expected.std()) / x.numel() ** 0.5 + 1e-6
    if "2d" in name or "feature" in name:  # whole channels are drawn
        error *= 20**0.5
    assert abs(float(actual.mean() - expected.mean())) < 1.5 * error
    assert abs(float(actual.std() / expected.std()) - 1) < 0.05
    for share in (0.1, 0.5, 0.9):
        q = [float(a.flatten().kthvalue(int(share * a.numel()))[0]) for a in (actual, expected)]
        assert abs(q[0] - q[1]) < 0.05 * float(expected.std())
    assert not backend.report().fallbacks


def test_randperm_is_a_permutation() -> None:
    drawn = _compiled(lambda: torch.randperm(50))()
    assert sorted(drawn.tolist()) == list(range(50)) != drawn.tolist()
    assert not backend.report().fallbacks


def test_the_seed_decides_and_calls_differ() -> None:
    def function(x: Any) -> Any:
        return F.dropout(x, 0.5), F.dropout(x, 0.5), torch.rand(3)

    compiled, x = _compiled(function), torch.ones(100)
    first, second = compiled(x), compiled(x)
    torch.manual_seed(0)
    again = compiled(x)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    state = torch.get_rng_state()
    ahead = compiled(x)
    torch.set_rng_state(state)
    torch.testing.assert_close(compiled(x), ahead, rtol=0, atol=0)


def test_dropout_drops_the_stated_share_and_its_gradient_agrees() -> None:
    x = torch.ones(1000, requires_grad=True)
    y = _compiled(lambda x: F.dropout(x * 3, 0.25))(x)
    kept = y != 0
    assert 0.65 < kept.float().mean() < 0.85
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 4.0))
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept.float() * 4)
    assert not backend.report().fallbacks


def test_open_sizes() -> None:
    compiled = _compiled(lambda x: F.dropout(x, 0.5) + torch.rand(x.shape[0], 1), dynamic=True)
    for rows in (30, 70, 41):
        assert 0.3 < (compiled(torch.ones(rows, 40)) < 1).float().mean() < 0.7
    assert len(backend.report().graphs) == 1


def test_beside_an_operator_that_pytorch_runs() -> None:
    compiled = _compiled(lambda x: (torch.special.bessel_j0(torch.rand(1000) + x), torch.rand(1000) * 2))
    a, b = compiled(torch.zeros(1))
    assert a.unique().numel() > 900 and b.unique().numel() > 900 and float(b.max()) > 1.9
    assert set(backend.report().fallbacks) == {"prims.bessel_j0.default"}


def test_wrong_probabilities_end_the_program() -> None:
    compiled = _compiled(torch.bernoulli)
    assert compiled(torch.tensor([0.0, 1.0])).tolist() == [0, 1]
    with pytest.raises(ExecutionError, match=r"a probability is not in \[0, 1\]"):
        compiled(torch.tensor([0.5, 1.5]))
