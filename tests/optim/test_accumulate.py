"""Gradient accumulation: a loop of the program, equal to the parts one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn, optim

xp = ds.numpy
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 5)).astype(np.float32), RNG.standard_normal((24, 2)).astype(np.float32)


def loss_of(p: Any, x: Any, y: Any) -> Any:
    return xp.mean((xp.tanh(x @ p["w"]) @ p["v"] - y) ** 2)


def weights() -> Any:
    rng = np.random.default_rng(1)
    return {"w": rng.standard_normal((5, 4)).astype(np.float32), "v": rng.standard_normal((4, 2)).astype(np.float32)}


def unrolled(value_and_grad: Any, parts: int) -> Any:
    def whole(p: Any, x: Any, y: Any) -> Any:
        size, total = x.shape[0] // parts, None
        for i in range(parts):
            found = value_and_grad(p, x[i * size : (i + 1) * size], y[i * size : (i + 1) * size])
            total = found if total is None else ds.tree_map(lambda a, b: a + b, total, found)
        return ds.tree_map(lambda a: a / parts, total)

    return whole


def stepping(gradients: Any) -> Any:
    optimizer = optim.AdamW(1e-2)

    @ds.compile(cache=False, threads=1)
    def step(p: Any, state: Any, x: Any, y: Any) -> Any:
        loss, g = gradients(p, x, y)
        return *optimizer.update(p, g, state), loss

    return step, optimizer


@pytest.mark.parametrize("parts", [1, 2, 6, 24])
def test_equal_to_unrolled(parts: int) -> None:
    looped, optimizer = stepping(optim.accumulate(ds.value_and_grad(loss_of), parts))
    plain, _ = stepping(unrolled(ds.value_and_grad(loss_of), parts))
    p = q = weights()
    s = t = optimizer.init(p)
    for _ in range(3):
        p, s, a = looped(p, s, X, Y)
        q, t, b = plain(q, t, X, Y)
        np.testing.assert_allclose(a, b, rtol=1e-6)
        for one, other in zip(ds.tree_leaves((p, s)), ds.tree_leaves((q, t))):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_program_does_not_grow() -> None:
    kernels = set()
    for parts in (2, 4, 24):
        step, optimizer = stepping(optim.accumulate(ds.value_and_grad(loss_of), parts))
        step(weights(), optimizer.init(weights()), X, Y)
        assert "scan" in step.ir("import")
        kernels.add(len(step.programs[0].report().kernels))
    assert max(kernels) - min(kernels) <= 2, kernels


def test_buffers_go_from_part_to_part() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, key=0), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3, key=1)
    )
    x, y = RNG.standard_normal((8, 1, 6, 6)).astype(np.float32), RNG.integers(0, 3, 8)

    def loss(m: Any, x: Any, y: Any) -> Any:
        return nn.cross_entropy(m(x), y)

    results = []
    for gradients in (optim.accumulate(ds.value_and_grad(loss), 4), unrolled(ds.value_and_grad(loss), 4)):

        @ds.compile(cache=False, threads=1)
        def step(m: Any, x: Any, y: Any, gradients: Any = gradients) -> Any:
            value, g = gradients(m, x, y)
            return m, value, g

        results.append(step(model.copy(), x, y))
    (looped, a, g), (plain, b, h) = results
    assert int(looped.state_dict()["1.num_batches_tracked"]) == 4
    for name, array in plain.state_dict().items():
        np.testing.assert_allclose(looped.state_dict()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    for name in h:
        np.testing.assert_allclose(g[name], h[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_outside_of_a_trace() -> None:
    loss, g = optim.accumulate(ds.value_and_grad(loss_of), 3)(weights(), X, Y)
    whole, h = ds.value_and_grad(loss_of)(weights(), X, Y)
    np.testing.assert_allclose(loss, whole, rtol=1e-5)
    for name in g:
        np.testing.assert_allclose(g[name], h[name], rtol=1e-4, atol=1e-6)


def test_a_batch_without_arrays() -> None:
    with pytest.raises(ds.TraceError, match="the batch holds no arrays"):
        optim.accumulate(ds.value_and_grad(loss_of), 2)(weights())
