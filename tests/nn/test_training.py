"""Models in compiled steps: gradients by name, buffers carried, dropout by key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn, optim

X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 8)


def loss_fn(model: Any, x: Any, y: Any) -> Any:
    return nn.cross_entropy(model(x), y)


def test_gradients_of_a_model_are_those_of_its_parameters() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    loss, grads = ds.value_and_grad(loss_fn)(model, X, Y)
    assert list(grads) == sorted(n for n, _ in model.named_parameters())
    wide = model.replace({n: a.astype(np.float64) for n, a in model.named_parameters()})
    for name, array in wide.named_parameters():
        index = tuple(d // 2 for d in array.shape)
        changed = []
        for step in (1e-5, -1e-5):
            moved = array.copy()
            moved[index] += step
            changed.append(float(loss_fn(wide.replace({name: moved}), X.astype(np.float64), Y)))
        assert grads[name][index] == pytest.approx((changed[0] - changed[1]) / 2e-5, rel=1e-3, abs=1e-6)
    assert loss == pytest.approx(float(loss_fn(model, X, Y)), rel=1e-6)


def test_the_printed_step_runs() -> None:
    """`step(params, batch)` with an optimizer that keeps no state."""
    optimizer = optim.SGD(0.5)

    def of_batch(params: Any, batch: Any) -> Any:
        return loss_fn(params, *batch)

    @ds.compile
    def step(params: Any, batch: Any) -> Any:
        loss, grads = ds.value_and_grad(of_batch)(params, batch)
        return optimizer.update(params, grads), loss

    params: Any = nn.Linear(5, 3)
    losses = []
    for _ in range(20):
        params, loss = step(params, (X, Y))
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    assert len(step.programs) == 1


def test_batch_statistics_come_out_of_the_step() -> None:
    optimizer = optim.SGD(0.1, momentum=0.9)
    images = np.random.default_rng(2).standard_normal((4, 3, 6, 6)).astype(np.float32) + 2

    def loss_of(model: Any, x: Any) -> Any:
        return ds.numpy.mean(ds.numpy.square(model(x)))

    @ds.compile
    def step(model: Any, state: Any, x: Any) -> Any:
        loss, grads = ds.value_and_grad(loss_of)(model, x)
        model, state = optimizer.update(model, grads, state)
        return model, state, loss

    model: Any = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
    state = optimizer.init(model)
    for _ in range(3):
        model, state, _ = step(model, state, images)
    share = 1 - 0.9**3
    np.testing.assert_allclose(model[0].running_mean, share * images.mean((0, 2, 3)), rtol=1e-5)
    variance = images.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(model[0].running_var, 1 - share + share * variance, rtol=1e-5)
    assert model[0].num_batches_tracked == 3 and state.step == 3
    assert len(step.programs) == 1


def test_aux_results_stand_beside_the_loss() -> None:
    def with_logits(model: Any, x: Any, y: Any) -> Any:
        logits = model(x)
        return nn.cross_entropy(logits, y), logits

    model = nn.Linear(5, 3)
    (loss, logits), grads = ds.value_and_grad(with_logits, has_aux=True)(model, X, Y)
    np.testing.assert_allclose(logits, model(X), rtol=1e-6)
    assert sorted(grads) == ["bias", "weight"] and loss.shape == ()


def test_parts_of_a_batch_accumulate_to_the_whole() -> None:
    model = nn.Linear(5, 3)

    @ds.compile
    def both(model: Any, x: Any, y: Any) -> Any:
        compute = ds.value_and_grad(loss_fn)
        return compute(model, x, y), optim.accumulate(compute, 4)(model, x, y)

    (loss, grads), (again, parts) = both(model, X, Y)
    assert again == pytest.approx(float(loss), rel=1e-6)
    for name in grads:
        np.testing.assert_allclose(parts[name], grads[name], rtol=1e-5, atol=1e-7)


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(ds.CompileError, match=r"shape \(8, 5\) is not cut into 3 equal parts"):
        ds.compile(optim.accumulate(ds.value_and_grad(loss_fn), 3))(nn.Linear(5, 3), X, Y)
