"""Optimizers and schedules against PyTorch's on the same gradients, and wrong use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn, optim

RANDOM = np.random.default_rng(0)
START = {"w": RANDOM.standard_normal((4, 3)).astype(np.float32), "b": RANDOM.standard_normal(3).astype(np.float32)}
SLOPES = [{n: RANDOM.standard_normal(a.shape).astype(np.float32) for n, a in START.items()} for _ in range(12)]

METHODS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "sgd": (optim.SGD(0.1), lambda t, p: t.SGD(p, 0.1)),
    "decay": (optim.SGD(0.1, weight_decay=0.2), lambda t, p: t.SGD(p, 0.1, weight_decay=0.2)),
    "momentum": (optim.SGD(0.1, 0.9), lambda t, p: t.SGD(p, 0.1, 0.9)),
    "nesterov": (
        optim.SGD(0.1, 0.9, 0.01, nesterov=True),
        lambda t, p: t.SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True),
    ),
    "adam": (optim.Adam(0.01), lambda t, p: t.Adam(p, 0.01)),
    "adam with decay": (optim.Adam(0.01, weight_decay=0.1), lambda t, p: t.Adam(p, 0.01, weight_decay=0.1)),
    "adamw": (optim.AdamW(0.01), lambda t, p: t.AdamW(p, 0.01)),
    "adamw of other numbers": (
        optim.AdamW(0.02, (0.8, 0.95), 1e-6, 0.3),
        lambda t, p: t.AdamW(p, 0.02, (0.8, 0.95), 1e-6, 0.3),
    ),
}


def run(optimizer: Any, slopes: Any = SLOPES, max_norm: float | None = None) -> list[Any]:
    @ds.compile
    def step(params: Any, grads: Any, state: Any) -> Any:
        if max_norm is not None:
            grads, _ = optim.clip_by_global_norm(grads, max_norm)
        return optimizer.update(params, grads, state)

    params, state, seen = START, optimizer.init(START), []
    for grads in slopes:
        params, state = step(params, grads, state)
        seen.append(params)
    assert state.step == len(slopes) and len(step.programs) == 1
    return seen


def run_torch(torch: Any, make: Callable[[Any, Any], Any], schedule: Any = None, max_norm: float | None = None) -> Any:
    tensors = {n: torch.nn.Parameter(torch.tensor(a)) for n, a in START.items()}
    optimizer = make(torch.optim, list(tensors.values()))
    planned = schedule(torch.optim.lr_scheduler, optimizer) if schedule else None
    seen = []
    for grads in SLOPES:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm)
        optimizer.step()
        if planned:
            planned.step()
        seen.append({n: t.detach().numpy().copy() for n, t in tensors.items()})
    return seen


def compare(ours: Any, theirs: Any) -> None:
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name in START:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-6, atol=1e-6, err_msg=f"step {index}, {name}")


@pytest.mark.parametrize("name", METHODS)
def test_method_is_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    ours, theirs = METHODS[name]
    compare(run(ours), run_torch(torch, theirs))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.cosine(0.1, 8, 0.01), lambda s, o: s.CosineAnnealingLR(o, 8, 0.01)),
        (optim.step_decay(0.1, 3, 0.5), lambda s, o: s.StepLR(o, 3, 0.5)),
        (optim.linear_warmup(0.1, 5, 0.2), lambda s, o: s.LinearLR(o, 0.2, 1.0, 5)),
        (optim.constant(0.1), None),
    ],
)
def test_schedule_is_pytorchs(ours: Any, theirs: Any) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    count = 8  # PyTorch's cosine rises again afterwards
    expected = run_torch(torch, lambda t, p: t.SGD(p, 0.1), theirs)[:count]
    compare(run(optim.SGD(ours), SLOPES[:count]), expected)


def test_schedules_outside_of_a_trace() -> None:
    plan = optim.linear_warmup(optim.cosine(1.0, 10), 4)
    rates = [float(plan(i)) for i in range(20)]
    np.testing.assert_allclose(rates[:5], [0, 0.25, 0.5, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(rates[9], 0.5, atol=1e-6)
    np.testing.assert_allclose(rates[14:], 0, atol=1e-6)


def test_clipping_is_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    ours = run(optim.SGD(0.1), max_norm=1.5)
    compare(ours, run_torch(torch, lambda t, p: t.SGD(p, 0.1), max_norm=1.5))


def test_small_gradients_are_not_clipped() -> None:
    grads = {"a": np.array([3.0, 0], np.float32), "b": np.array([4.0], np.float32)}
    clipped, norm = optim.clip_by_global_norm(grads, 6.0)
    assert norm == 5
    np.testing.assert_array_equal(clipped["a"], grads["a"])
    np.testing.assert_allclose(optim.clip_by_global_norm(grads, 1.0)[0]["b"], [0.8], rtol=1e-6)


def test_a_method_with_state_asks_for_it() -> None:
    with pytest.raises(ds.CompileError, match=r"AdamW\.update needs a state"):
        optim.AdamW().update(START, SLOPES[0])
    with pytest.raises(ds.CompileError, match=r"the state is not of these parameters"):
        optim.AdamW().update(START, SLOPES[0], optim.SGD(0.1).init(START))


def test_gradients_of_another_form_are_refused() -> None:
    with pytest.raises(ds.CompileError, match=r"SGD: gradients have the form"):
        optim.SGD(0.1).update(START, {"w": START["w"]})


def test_updates_of_a_model_keep_its_class() -> None:
    model = nn.Linear(3, 2)
    grads = {n: np.ones_like(a) for n, a in model.named_parameters()}
    made = optim.SGD(0.5).update(model, grads)
    assert isinstance(made, nn.Linear) and made.in_features == 3
    np.testing.assert_allclose(made.bias, model.bias - 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.SGD(-1.0),
        lambda: optim.SGD(0.1, nesterov=True),
        lambda: optim.Adam(betas=(1.0, 0.9)),
        lambda: optim.cosine(0.1, 0),
        lambda: optim.linear_warmup(0.1, 0),
        lambda: optim.step_decay(0.1, 0),
        lambda: optim.accumulate(lambda: None, 0),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        make()
