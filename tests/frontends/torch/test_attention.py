"""Attention through PyTorch: one kernel forward and one backward, results and gradients as in eager mode."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402

import ds_compiler as ds  # noqa: E402
import ds_compiler.torch as backend  # noqa: E402

Function = Callable[..., Any]
ATTENTION = F.scaled_dot_product_attention


def _mask(*shape: int) -> Any:
    """A row that sees nothing in it, where it has rows."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(5)) > 0.3
    mask[..., 0] = True
    if shape[-2] > 1:
        mask[..., 2, :] = False
    return mask


def _added(*shape: int) -> Any:
    return torch.zeros(shape).masked_fill(~_mask(*shape), -math.inf) + torch.linspace(-1, 1, shape[-1])


def _in_heads(q: Any, k: Any, v: Any) -> Any:
    """From [batch, positions, heads, size] and back."""
    return ATTENTION(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True).transpose(1, 2)


Q, K = (2, 4, 9, 16), (2, 4, 13, 16)
OF_KEYS, OF_PAIRS, OF_HEADS = _mask(2, 1, 1, 13), _mask(2, 1, 9, 13), _mask(1, 4, 9, 13)
ADDED = _added(2, 4, 9, 13)
CASES: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "plain": (ATTENTION, (Q, K, K)),
    "scale": (lambda q, k, v: ATTENTION(q, k, v, scale=0.7), (Q, K, K)),
    "causal": (lambda q, k, v: ATTENTION(q, k, v, is_causal=True), (Q, Q, Q)),
    "causal_long": (lambda q, k, v: ATTENTION(q, k, v, is_causal=True), ((1, 2, 150, 8),) * 3),
    "mask_of_keys": (lambda q, k, v: ATTENTION(q, k, v, OF_KEYS), (Q, K, K)),
    "mask_of_pairs": (lambda q, k, v: ATTENTION(q, k, v, OF_PAIRS), (Q, K, K)),
    "mask_of_heads": (lambda q, k, v: ATTENTION(q, k, v, OF_HEADS), (Q, K, K)),
    "added": (lambda q, k, v: ATTENTION(q, k, v, ADDED.to(q.dtype)), (Q, K, K)),
    "grouped": (lambda q, k, v: ATTENTION(q, k, v, enable_gqa=True), (Q, (2, 2, 13, 16), (2, 2, 13, 16))),
    "grouped_causal": (
        lambda q, k, v: ATTENTION(q, k, v, is_causal=True, scale=0.2, enable_gqa=True),
        (Q, (2, 1, 9, 16), (2, 1, 9, 16)),
    ),
    "in_heads": (_in_heads, ((2, 20, 3, 8), (2, 20, 3, 8), (2, 20, 3, 8))),
}


def _arguments(shapes: tuple[tuple[int, ...], ...], dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes]


def _tiers(kind: str) -> Counter[str]:
    """How many kernels of each kind the only program of that kind has."""
    (graph,) = (g for g in backend.report().graphs if g.kind == kind)
    (program,) = graph.programs
    return Counter(kernel.tier for kernel in program.report().kernels)


def _compiled(function: Function, **options: Any) -> Function:
    torch._dynamo.reset()
    backend.reset()
    settings = {"threads": 1, "cache": False}
    compiled: Function = torch.compile(function, backend="ds", fullgraph=True, options=settings, **options)
    return compiled


def _check(function: Function, compiled: Function, arguments: list[Any]) -> None:
    """Against eager mode: results within 1e-5, gradients within 1e-4; float64 more exactly."""
    twins = [a.detach().clone().requires_grad_() for a in arguments]
    expected, actual = function(*twins), compiled(*arguments)
    exact = expected.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-12 if exact else 1e-5)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=expected.dtype).reshape(expected.shape)
    theirs = torch.autograd.grad((expected * weight).sum(), twins)
    ours = torch.autograd.grad((actual * weight).sum(), arguments)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-11 if exact else 1e-5)
    assert not backend.report().fallbacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_kernels_forward_and_backward(name: str, dtype: Any) -> None:
    function, shapes = CASES[name]
    _check(function, _compiled(function, dynamic=False), _arguments(shapes, dtype))
    assert _tiers("forward")["attention"] == 1
    assert _tiers("backward")["attention_backward"] == 1
    assert not (_tiers("forward") + _tiers("backward"))["matmul"]


def test_lengths_that_are_open() -> None:
    function = lambda q, k, v: ATTENTION(q, k, v, is_causal=True)  # noqa: E731
    compiled = _compiled(function)
    for batch, length in ((2, 9), (3, 70), (4, 33)):
        arguments = _arguments(((batch, 2, length, 8),) * 3, torch.float32)
        for argument in arguments:
            torch._dynamo.mark_dynamic(argument, 0)
            torch._dynamo.mark_dynamic(argument, 2)
        _check(function, compiled, arguments)
    assert _tiers("forward")["attention"] == _tiers("backward")["attention_backward"] == 1


def test_a_head_size_that_is_open_has_no_kernel() -> None:
    compiled = _compiled(ATTENTION)
    for size in (8, 12):
        arguments = _arguments(((2, 3, 5, size),) * 3, torch.float32)
        for argument in arguments:
            torch._dynamo.mark_dynamic(argument, 3)
        _check(ATTENTION, compiled, arguments)
    assert not _tiers("forward")["attention"] and not _tiers("backward")["attention_backward"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_narrow_floats_are_computed_in_single_precision(dtype: Any) -> None:
    compiled = _compiled(CASES["causal"][0])
    arguments = _arguments((Q, Q, Q), dtype)
    exact = [a.detach().double().requires_grad_() for a in arguments]
    expected = ATTENTION(*exact, is_causal=True)
    actual = compiled(*arguments)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), expected, rtol=2 * step, atol=2 * step)
    ours = torch.autograd.grad(actual.sum(), arguments)
    theirs = torch.autograd.grad(expected.sum(), exact)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=8 * step, atol=8 * step)
    assert _tiers("backward")["attention_backward"] == 1


def test_inference_keeps_no_sums() -> None:
    function, shapes = CASES["in_heads"]
    arguments = _arguments(shapes, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(_compiled(function)(*arguments), function(*arguments), rtol=1e-5, atol=1e-5)
    (graph,) = backend.report().graphs
    (kernel,) = graph.programs[0].report().kernels
    assert kernel.tier == "attention"


def test_an_exported_module() -> None:
    class Module(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return ATTENTION(q, k, v, is_causal=True)

    arguments = tuple(a.detach() for a in _arguments((Q, Q, Q), torch.float32))
    program: Any = ds.compile(Module(), example_inputs=arguments, cache=False)
    torch.testing.assert_close(program(*arguments), Module()(*arguments), rtol=1e-5, atol=1e-5)
    assert [kernel.tier for kernel in program.report().kernels] == ["attention"]
