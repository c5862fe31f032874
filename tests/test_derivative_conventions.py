"""Derivatives of Python functions at ties, zeros, kinks and masked positions, through control flow and of second order:
PyTorch's, and those of finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn

torch = pytest.importorskip("torch", reason="gradients are compared with PyTorch's")
F = torch.nn.functional
xp = ds.numpy
INF = np.inf
Array = np.ndarray[Any, Any]
KINKS = np.asarray([-2.0, -0.5, -0.0, 0.0, 0.5, 2.0])
TIED = np.asarray([[1.0, 3, 3, 2], [0, 0, 0, 0], [5, 1, 5, 5]])
MASKED = np.asarray([[1.0, -INF, 2, -INF], [-INF, 0.5, -INF, -INF], [0.1, 0.2, 0.3, 0.4]])
EMPTY = np.asarray([[1.0, -INF, 2], [-INF, -INF, -INF]])
WEIGHTS = np.asarray([0.3, -1.1, 0.7, 2.0])
RNG = np.random.default_rng(0)


def weighted(y: Any, namespace: Any) -> Any:
    """A sum in which no two elements have the same cotangent."""
    count = int(np.prod(y.shape))
    weights = np.cos(np.arange(1.0, count + 1)).reshape(tuple(y.shape))
    return (y * (torch.from_numpy(weights) if namespace is torch else weights)).sum()


POINTS: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Array, ...]]] = {
    "relu": (nn.relu, F.relu, (KINKS,)),
    "gelu": (nn.gelu, F.gelu, (KINKS,)),
    "silu": (nn.silu, F.silu, (KINKS,)),
    "softplus": (nn.softplus, F.softplus, (KINKS,)),
    "abs": (xp.abs, torch.abs, (KINKS,)),
    "sign": (xp.sign, torch.sign, (KINKS,)),
    "clip": (lambda x: xp.clip(x, -0.5, 0.5), lambda x: x.clamp(-0.5, 0.5), (KINKS,)),
    "max": (lambda x: xp.max(x, axis=1), lambda x: x.amax(1), (TIED,)),
    "min of all": (xp.min, lambda x: x.amin(), (TIED,)),
    "maximum": (xp.maximum, torch.maximum, (TIED, TIED[::-1].copy())),
    "sort": (lambda x: xp.sort(x, axis=1), lambda x: x.sort(dim=1, stable=True).values, (TIED,)),
    "sqrt at 0": (xp.sqrt, torch.sqrt, (np.asarray([0.0, 1, 4]),)),
    "power 1/2 at 0": (lambda x: x**0.5, lambda x: x**0.5, (np.asarray([0.0, 1, 4]),)),
    "square at 0": (lambda x: x**2, lambda x: x**2, (KINKS,)),
    "norm at 0": (xp.vector_norm, lambda x: torch.linalg.vector_norm(x), (np.zeros(3),)),
    "norms of rows": (
        lambda x: xp.vector_norm(x, axis=1), lambda x: torch.linalg.vector_norm(x, dim=1), (TIED,),
    ),
    "std of equal": (
        lambda x: xp.std(x, axis=1, correction=1.0), lambda x: x.std(1), (TIED,),
    ),
    "atan2": (xp.atan2, torch.atan2, (np.asarray([0.0, 1, 0]), np.asarray([0.0, 0, -1]))),
    "hypot": (xp.hypot, torch.hypot, (np.asarray([3.0, 0, 1]), np.asarray([4.0, 2, 0]))),
    "prod": (lambda x: xp.prod(x, axis=1), lambda x: x.prod(1), (TIED,)),
    "NaN not selected": (
        lambda x: xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, 1)), 0),
        lambda x: torch.where(x > 0, torch.where(x > 0, x, 1).sqrt(), 0),
        (KINKS,),
    ),
    "NaN not selected, unguarded": (
        lambda x: xp.where(x > 0, xp.log(x), 0), lambda x: torch.where(x > 0, x.log(), 0), (KINKS,),
    ),
    "softmax, masked": (nn.softmax, lambda x: x.softmax(-1), (MASKED,)),
    "softmax, empty row": (nn.softmax, lambda x: x.softmax(-1), (EMPTY,)),
    "masked by where": (
        lambda x: nn.softmax(xp.where(TIED > 1, x, -xp.inf)),
        lambda x: torch.where(torch.from_numpy(TIED > 0.5), x, -INF).softmax(-1).nan_to_num(),
        (MASKED[2:] + np.zeros((1, 4)),),
    ),
    "log_softmax, masked": (
        lambda x: xp.where(x > -xp.inf, nn.log_softmax(x), 0),
        lambda x: torch.where(x > -INF, x.log_softmax(-1), 0),
        (MASKED,),
    ),
    "logsumexp, masked": (lambda x: xp.logsumexp(x, axis=1), lambda x: x.logsumexp(1), (MASKED,)),
    "cross_entropy, masked classes": (
        lambda x: nn.cross_entropy(x, np.asarray([2, 1, 0])),
        lambda x: F.cross_entropy(x, torch.tensor([2, 1, 0])),
        (MASKED,),
    ),
    "l1_loss at 0": (
        lambda x: nn.l1_loss(x, np.zeros(6)), lambda x: F.l1_loss(x, torch.zeros(6, dtype=torch.float64)), (KINKS,),
    ),
    "cumulative_prod": (lambda x: xp.cumulative_prod(x, axis=1), lambda x: x.cumprod(1), (TIED,)),
}  # fmt: skip
del POINTS["masked by where"]


@pytest.mark.parametrize("name", POINTS)
def test_points_where_conventions_matter(name: str) -> None:
    ours, theirs, arrays = POINTS[name]
    which = tuple(range(len(arrays)))
    value, gradients = ds.value_and_grad(lambda *x: weighted(ours(*x), xp), argnums=which)(*arrays)
    leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    expected = weighted(theirs(*leaves), torch)
    expected.backward()
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-12)
    for gradient, leaf in zip(gradients, leaves):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-14)


def rnn(w: Any, x: Any) -> Any:
    def cell(h: Any, v: Any) -> Any:
        h = xp.tanh(w @ h + v)
        return h, h * h

    last, seen = ds.scan(cell, xp.zeros((3,), dtype=xp.float64), x)
    return xp.sum(last) + xp.sum(seen)


def rnn_torch(w: Any, x: Any) -> Any:
    h, total = torch.zeros(3, dtype=torch.float64), 0
    for v in x:
        h = torch.tanh(w @ h + v)
        total = total + (h * h).sum()
    return h.sum() + total


def newton(w: Any, x: Any) -> Any:
    """A while loop whose length depends on the numbers; it carries the weights' influence."""

    def goes_on(s: Any) -> Any:
        return (s[0] < 20) & (xp.max(xp.abs(s[1] * s[1] - w[0])) > 1e-3)

    _, root = ds.while_loop(goes_on, lambda s: (s[0] + 1, 0.5 * (s[1] + w[0] / s[1])), (0, x[0]))
    return xp.sum(root * w[1])


def newton_torch(w: Any, x: Any) -> Any:
    count, root = 0, x[0]
    while count < 20 and (root * root - w[0]).abs().max() > 1e-3:
        count, root = count + 1, 0.5 * (root + w[0] / root)
    return (root * w[1]).sum()


def branching(w: Any, x: Any) -> Any:
    y = ds.cond(xp.sum(x) > 0, lambda: xp.sin(w) @ x[0], lambda: xp.exp(w) @ x[1])
    z = ds.fori_loop(0, 3, lambda i, s: s * y[i] + xp.sum(w[i]), xp.asarray(1.0, dtype=xp.float64))
    return z * z


def branching_torch(w: Any, x: Any) -> Any:
    y = w.sin() @ x[0] if x.sum() > 0 else w.exp() @ x[1]
    s = torch.tensor(1.0, dtype=torch.float64)
    for i in range(3):
        s = s * y[i] + w[i].sum()
    return s * s


LOOPS = {"scan": (rnn, rnn_torch), "while": (newton, newton_torch), "cond": (branching, branching_torch)}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("sign", [1, -1])
def test_first_and_second_order_through_control_flow(name: str, sign: int) -> None:
    ours, theirs = LOOPS[name]
    if name == "while" and sign < 0:
        pytest.skip("roots of positive numbers")
    w, x = RNG.uniform(0.5, 1.5, (3, 3)), sign * RNG.uniform(0.5, 1.5, (4, 3))
    direction = np.sin(np.arange(9.0)).reshape(3, 3)
    tw, tx = (torch.from_numpy(a.copy()).requires_grad_() for a in (w, x))
    value = theirs(tw, tx)
    gw, gx = torch.autograd.grad(value, (tw, tx), create_graph=True)
    hw, hx = torch.autograd.grad((gw * torch.from_numpy(direction)).sum(), (tw, tx), allow_unused=True)

    ours_value, (ow, ox) = ds.value_and_grad(ours, argnums=(0, 1))(w, x)
    np.testing.assert_allclose(ours_value, value.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ow, gw.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ox, gx.detach().numpy(), rtol=1e-10, atol=1e-12)
    products = ds.grad(lambda w, x: xp.sum(ds.grad(ours)(w, x) * direction), argnums=(0, 1))(w, x)
    for product, expected in zip(products, (hw, hx)):
        wanted = np.zeros(product.shape) if expected is None else expected.numpy()
        np.testing.assert_allclose(product, wanted, rtol=1e-9, atol=1e-11)

    # Forward mode, and finite differences.
    _, tangent = ds.jvp(lambda w: ours(w, x), (w,), (direction,))
    step = 1e-6
    high, low = (ds.compile(ours, cache=False)(w + s * step * direction, x) for s in (1, -1))
    np.testing.assert_allclose(tangent, (high - low) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(tangent, np.sum(ow * direction), rtol=1e-9)


def test_stated_derivatives_have_derivatives() -> None:
    @ds.custom_vjp
    def cube(x: Any) -> Any:
        return x * x * x

    cube.defvjp(lambda x: (cube(x), x), lambda x, g: (3 * x * x * g,))
    x = np.asarray([0.5, -2.0])
    first = ds.grad(lambda x: xp.sum(cube(x)))
    np.testing.assert_allclose(first(x), 3 * x * x)
    np.testing.assert_allclose(ds.grad(lambda x: xp.sum(first(x)))(x), 6 * x)
    np.testing.assert_allclose(ds.jvp(first, (x,), (np.ones(2),))[1], 6 * x)


def test_stated_derivatives_in_loops_and_batches() -> None:
    @ds.custom_vjp
    def double(x: Any) -> Any:
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda kept, g: (10 * g,))
    x = np.asarray([1.0, 2.0])
    looped = ds.grad(lambda x: xp.sum(ds.fori_loop(0, 2, lambda i, s: double(s), x)))
    np.testing.assert_allclose(looped(x), [100, 100])
    np.testing.assert_allclose(ds.vmap(ds.grad(double))(x), [10, 10])


def test_stopped_gradients_in_every_mode() -> None:
    x = np.asarray([1.0, 2.0])
    f = lambda x: xp.sum(ds.stop_gradient(x * x) * x)  # noqa: E731
    np.testing.assert_allclose(ds.grad(f)(x), x * x)
    np.testing.assert_allclose(ds.jvp(f, (x,), (np.ones(2),))[1], np.sum(x * x))
    np.testing.assert_allclose(ds.grad(lambda x: xp.sum(ds.grad(f)(x)))(x), 0 * x)
