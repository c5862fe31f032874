"""`check_nan=True`: the line that made a result infinite or no number."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy
POSITIVE, MIXED = np.asarray([1.0, 2.0, 4.0], np.float32), np.asarray([1.0, -2.0, 4.0], np.float32)


def line_of(function: Callable[..., Any]) -> str:
    lines, first = inspect.getsourcelines(function)
    return f"test_check_nan.py:{first + next(i for i, text in enumerate(lines) if '# HERE' in text)}"


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    return ds.compile(function, cache=False, threads=1, check_nan=True, **options)


def root(x: Any) -> Any:
    y = x * 2
    z = xp.sqrt(y)  # HERE
    return xp.mean(z + 1)


def overflow(x: Any) -> Any:
    y = xp.exp(x * x * 100)  # HERE
    return xp.sum(y) / (1 + xp.sum(y))


def masked(x: Any) -> Any:
    safe = xp.where(x > 0, xp.sqrt(x), 0)
    scores = xp.where(x > 100, x, -xp.inf)
    good = xp.sum(xp.exp(scores))
    return xp.log(xp.sum(safe) * good + x[1])  # HERE


def in_a_loop(x: Any) -> Any:
    def body(state: Any, _: Any) -> Any:
        return xp.log(state - 1), None  # HERE

    return ds.scan(body, x, None, length=3)[0]


def in_a_branch(x: Any) -> Any:
    return ds.cond(
        xp.sum(x) < 100,
        lambda: xp.log(x),  # HERE
        lambda: x,
    )


def in_while(x: Any) -> Any:
    return ds.while_loop(
        lambda s: s[0] < 3,
        lambda s: (s[0] + 1, xp.sqrt(s[1] - 1)),  # HERE
        (0, x),
    )[1]


def in_a_gradient(x: Any) -> Any:
    def loss(x: Any) -> Any:
        return xp.sum(xp.sqrt(xp.abs(x - 1)))  # HERE

    return ds.grad(loss)(x)


@pytest.mark.parametrize(
    "function", [root, overflow, masked, in_a_loop, in_a_branch, in_while, in_a_gradient], ids=lambda f: f.__name__
)
def test_the_first_operation_is_named(function: Any) -> None:
    with pytest.raises(ds.NonFiniteError, match=r"holds 1|holds [23]") as error:
        compiled(function)(MIXED)
    assert line_of(function) in str(error.value)
    assert isinstance(error.value, FloatingPointError)


def test_finite_results_pass_and_the_next_call_works() -> None:
    f = compiled(root)
    assert np.isfinite(f(POSITIVE))
    with pytest.raises(ds.NonFiniteError):
        f(MIXED)
    assert np.isfinite(f(POSITIVE)) and len(f.programs) == 1


def test_inputs_are_told_apart() -> None:
    with pytest.raises(ds.NonFiniteError, match=r"the input 'x' holds 1 NaN of 3 elements"):
        compiled(lambda x: x + 1)(np.asarray([1, np.nan, 2], np.float32))


def test_infinities_between_do_no_harm() -> None:
    def attend(x: Any) -> Any:
        return ds.nn.softmax(xp.where(x > 0, x, -xp.inf))

    assert np.isfinite(compiled(attend)(MIXED)).all()


def test_donated_arrays_are_kept() -> None:
    def step(w: Any, x: Any) -> Any:
        return w - xp.log(x)

    f = compiled(step, donate="w")
    w = POSITIVE.copy()
    for _ in range(3):
        new = f(w, POSITIVE)
        np.testing.assert_array_equal(w, w.copy())
    before = new.copy()
    with pytest.raises(ds.NonFiniteError):
        f(new, MIXED)
    np.testing.assert_array_equal(new, before)


def test_a_training_step_names_the_line_of_its_loss() -> None:
    def loss(p: Any, x: Any) -> Any:
        return xp.mean(xp.log(x @ p["w"]))  # HERE

    optimizer = ds.optim.SGD(0.1)

    @ds.compile(cache=False, threads=1, check_nan=True)
    def step(p: Any, x: Any) -> Any:
        value, g = ds.value_and_grad(loss)(p, x)
        return optimizer.update(p, g), value

    with pytest.raises(ds.NonFiniteError) as error:
        step({"w": -np.ones((3, 2), np.float32)}, np.ones((4, 3), np.float32))
    assert line_of(loss) in str(error.value)


def test_models_have_no_such_option() -> None:
    with pytest.raises(ds.CompileError, match="does not support check_nan="):
        ds.compile(b"", check_nan=True)
