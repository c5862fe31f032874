"""Gradients at ties, zeros, kinks and masked positions are PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Builder, Value, dtypes
from ds_compiler.ops import (
    Binary,
    Compare,
    Conv,
    ConvTranspose,
    Cumulative,
    Gather,
    Reduce,
    ReduceWindow,
    ScatterElements,
    Select,
    TopK,
    Unary,
)
from tests.passes.differentiating import call, derived, module_of
from tests.passes.helpers import spread, tensor

torch = pytest.importorskip("torch", reason="gradients are compared with PyTorch's")

Array = np.ndarray[Any, Any]
INF, NAN = np.inf, np.nan
KINKS = np.array([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0])


def unary(kind: str) -> Callable[..., Value]:
    return lambda b, x: b.emit(Unary(x, kind))


def binary(kind: str) -> Callable[..., Value]:
    return lambda b, x, y: b.emit(Binary(x, y, kind))


def bounded(kind: str, bound: float) -> Callable[..., Value]:
    return lambda b, x: b.emit(Binary(x, spread(b, bound, x), kind))


def power(exponent: float) -> Callable[..., Value]:
    return lambda b, x: b.emit(Binary(x, spread(b, exponent, x), "pow"))


def masked_root(b: Builder, x: Value) -> Value:
    """``where(x > 0, sqrt(x), 0)``: the branch not taken is not finite."""
    zero = spread(b, 0, x)
    return b.emit(Select(b.emit(Compare(x, zero, "gt")), b.emit(Unary(x, "sqrt")), zero))


def guarded_division(b: Builder, x: Value, y: Value) -> Value:
    zero = spread(b, 0, y)
    safe = b.emit(Select(b.emit(Compare(y, zero, "eq")), spread(b, 1, y), y))
    return b.emit(Binary(x, safe, "div"))


def largest(b: Builder, x: Value) -> Value:
    return b.insert(TopK(x, 2, True)).results[0]


def pool(how: str) -> Callable[..., Value]:
    return lambda b, x: b.emit(ReduceWindow(x, (2, 3), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), how))


RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 3, (2, 2, 7, 6)).astype(np.float64)  # full of ties
PAIRS = (np.array([1.0, 2, 2, 0, 0, -1]), np.array([2.0, 1, 2, 0, -0.0, -1]))
TIED = np.array([[1.0, 3, 3, 2], [0, 0, 0, 0], [5, 1, 5, 5]])
ZEROS = np.array([[2.0, 0, 3], [0, 0, 1], [1, 2, 3]])

CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Array, ...]]] = {
    "abs": (unary("abs"), lambda x: x.abs(), (KINKS,)),
    "sign": (unary("sign"), lambda x: x.sign(), (KINKS,)),
    "sqrt at 0": (unary("sqrt"), lambda x: x.sqrt(), (np.array([0.0, 1, 4]),)),
    "rsqrt at 0": (unary("rsqrt"), lambda x: x.rsqrt(), (np.array([0.0, 1]),)),
    "log at 0": (unary("log"), lambda x: x.log(), (np.array([0.0, 1]),)),
    "reciprocal at 0": (unary("reciprocal"), lambda x: x.reciprocal(), (np.array([0.0, -2]),)),
    "asin at the edge": (unary("asin"), lambda x: x.asin(), (np.array([-1.0, 0, 1]),)),
    "acosh at the edge": (unary("acosh"), lambda x: x.acosh(), (np.array([1.0, 2]),)),
    "sigmoid far out": (unary("sigmoid"), lambda x: x.sigmoid(), (np.array([-800.0, 0, 800]),)),
    "relu": (bounded("max", 0), lambda x: x.relu(), (KINKS,)),
    "clamp below": (bounded("max", -0.5), lambda x: x.clamp(min=-0.5), (KINKS,)),
    "clamp above": (bounded("min", 1), lambda x: x.clamp(max=1), (KINKS,)),
    "maximum": (binary("max"), lambda x, y: torch.maximum(x, y), PAIRS),
    "minimum": (binary("min"), lambda x, y: torch.minimum(x, y), PAIRS),
    "remainder": (binary("mod"), lambda x, y: torch.remainder(x, y), (np.array([5.0, -5, 4]), np.array([3.0, 3, -2]))),
    "fmod": (binary("fmod"), lambda x, y: torch.fmod(x, y), (np.array([5.0, -5, 4]), np.array([3.0, 3, -2]))),
    "atan2": (binary("atan2"), lambda x, y: torch.atan2(x, y), (np.array([0.0, 1, -1]), np.array([1.0, 0, -1]))),
    "pow": (
        binary("pow"),
        lambda x, y: torch.pow(x, y),
        (np.array([0.0, 0, 2, 0, 3]), np.array([0.0, 2, 0, 1, -1])),
    ),
    "pow 2": (power(2), lambda x: x**2, (KINKS,)),
    "pow 0": (power(0), lambda x: x**0, (KINKS,)),
    "pow 1": (power(1), lambda x: x**1, (KINKS,)),
    "pow 3": (power(3), lambda x: x**3, (KINKS,)),
    "where": (masked_root, lambda x: torch.where(x > 0, x.sqrt(), torch.zeros_like(x)), (np.array([4.0, 0, -1]),)),
    "guarded": (
        guarded_division,
        lambda x, y: x / torch.where(y == 0, torch.ones_like(y), y),
        (np.array([1.0, 2]), np.array([0.0, 4])),
    ),
    "amax": (lambda b, x: b.emit(Reduce(x, (1,), "max")), lambda x: x.amax(1), (TIED,)),
    "amin": (lambda b, x: b.emit(Reduce(x, (0, 1), "min")), lambda x: x.amin((0, 1)), (TIED,)),
    "prod": (lambda b, x: b.emit(Reduce(x, (1,), "prod")), lambda x: x.prod(1), (ZEROS,)),
    "cumsum": (lambda b, x: b.emit(Cumulative(x, 1, "sum")), lambda x: x.cumsum(1), (ZEROS,)),
    "cumprod": (lambda b, x: b.emit(Cumulative(x, 1, "prod")), lambda x: x.cumprod(1), (ZEROS,)),
    "cummax": (lambda b, x: b.emit(Cumulative(x, 1, "max")), lambda x: x.cummax(1).values, (TIED,)),
    "cummin": (lambda b, x: b.emit(Cumulative(x, 1, "min")), lambda x: x.cummin(1).values, (TIED,)),
    "topk": (largest, lambda x: x.topk(2).values, (RNG.standard_normal((3, 5)),)),
    "max pool": (pool("max"), lambda x: torch.nn.functional.max_pool2d(x, 3, 2, 1), (IMAGE,)),
    "avg pool": (pool("mean"), lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1), (IMAGE,)),
    "avg pool valid": (
        pool("mean_valid"),
        lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        (IMAGE,),
    ),
    "embedding": (
        lambda b, i, x: b.emit(Gather(x, i, 0)),
        lambda i, x: torch.nn.functional.embedding(i, x),
        (np.array([[0, 2], [2, 2]]), RNG.standard_normal((4, 3))),
    ),
    "scatter amax": (
        lambda b, x, i, u: b.emit(ScatterElements(x, i, u, 0, "max")),
        lambda x, i, u: x.scatter_reduce(0, i, u, "amax"),
        (np.array([1.0, 2, 3]), np.array([0, 0, 1, 1, 2]), np.array([2.0, 2, 2, 1, 5])),
    ),
    "conv": (
        lambda b, x, w: b.emit(Conv(x, w, (2, 1), (1, 2), (1, 2), (1, 1), 2)),
        lambda x, w: torch.nn.functional.conv2d(x, w, None, (2, 1), (1, 2), 1, 2),
        (RNG.standard_normal((2, 4, 7, 6)), RNG.standard_normal((6, 2, 3, 2))),
    ),
    "conv transpose": (
        lambda b, x, w: b.emit(ConvTranspose(x, w, (2, 3), (1, 0), (1, 0), (1, 2), 2)),
        lambda x, w: torch.nn.functional.conv_transpose2d(x, w, None, (2, 3), (1, 0), 0, 2, (1, 2)),
        (RNG.standard_normal((2, 4, 3, 4)), RNG.standard_normal((4, 3, 3, 2))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_same_as_autograd(name: str) -> None:
    body, reference, arrays = CASES[name]
    types = [tensor(" ".join(map(str, a.shape)), dtypes.from_numpy(a.dtype).name) for a in arrays]
    module = module_of(body, types)
    wrt = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    reverse, _ = derived(module, "f", wrt)
    module.add(reverse)

    leaves = [torch.from_numpy(a.copy()).requires_grad_(a.dtype.kind == "f") for a in arrays]
    result = reference(*leaves)
    cotangent = np.random.default_rng(1).standard_normal(result.shape)
    result.backward(torch.from_numpy(cotangent))

    np.testing.assert_allclose(call(module, "f", arrays)[0], result.detach().numpy(), rtol=1e-12, atol=1e-12)
    gradients = call(module, reverse.name, [*arrays, cotangent])
    for index, gradient in zip(wrt, gradients, strict=True):
        expected = leaves[index].grad.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12, err_msg=f"operand {index}")
