"""Every operator against eager PyTorch: results, and gradients in both element types."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import ds_compiler.torch as backend  # noqa: E402

from .operator_cases import CASES  # noqa: E402


def _flat(results: Any) -> list[Any]:
    return list(results) if isinstance(results, list | tuple) else [results]


def _arguments(shapes: tuple[Any, ...], dtype: Any) -> list[Any]:
    torch.manual_seed(0)
    made = [torch.randn(s, dtype=torch.float64) * 0.7 if isinstance(s, tuple) else s for s in shapes]
    return [
        m.clamp(-0.95, 0.95).to(dtype).requires_grad_() if isinstance(s, tuple) else m.clone()
        for m, s in zip(made, shapes, strict=True)
    ]


def _gradients(results: list[Any], arguments: list[Any]) -> list[Any]:
    wanted = [a for a in arguments if a.requires_grad]
    total = None
    for index, result in enumerate(results):
        if result.requires_grad:
            weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape) + 0.1 * index
            part = (result * weight).sum()
            total = part if total is None else total + part
    if total is None:
        return []
    return list(torch.autograd.grad(total, wanted, allow_unused=True))


def _assert_close(actual: Any, expected: Any) -> None:
    rtol, atol = (1e-9, 1e-11) if expected.dtype == torch.float64 else (2e-5, 2e-6)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_those_of_eager_mode(name: str, dtype: Any) -> None:
    if name == "hardsigmoid" and dtype == torch.float64:
        pytest.skip("PyTorch's kernel divides by a sixth in single precision")
    function, shapes = CASES[name]
    torch._dynamo.reset()
    backend.reset()
    expected_arguments, arguments = _arguments(shapes, dtype), _arguments(shapes, dtype)
    options = {"threads": 1, "cache": False}
    compiled = torch.compile(function, backend="ds", fullgraph=True, dynamic=False, options=options)

    expected, actual = _flat(function(*expected_arguments)), _flat(compiled(*arguments))

    for a, b in zip(actual, expected, strict=True):
        _assert_close(a, b)
        if b.untyped_storage().nbytes() == b.numel() * b.element_size():  # of a slice, ours is a tensor of its own
            assert a.stride() == b.stride()
    pairs = zip(_gradients(actual, arguments), _gradients(expected, expected_arguments), strict=True)
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            _assert_close(a, b)
    assert backend.report().fallbacks == {}
    assert not any(g.error for g in backend.report().graphs)
