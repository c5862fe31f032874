"""Derivatives of Python functions, against finite differences in float64 and known results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy


def numeric(function: Any, x: np.ndarray[Any, Any], step: float = 1e-6) -> np.ndarray[Any, Any]:
    """Central differences of a scalar function."""
    result = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        moved = x.copy()
        moved[index] += step
        high = function(moved)
        moved[index] -= 2 * step
        result[index] = (high - function(moved)) / (2 * step)
    return result


def network(p: Any, x: Any, y: Any, namespace: Any = xp) -> Any:
    hidden = namespace.tanh(x @ p["w"] + p["b"]) @ p["v"]
    return namespace.mean((hidden - y) ** 2)


@pytest.fixture
def data() -> tuple[dict[str, Any], Any, Any]:
    rng = np.random.default_rng(0)
    p = {"w": rng.normal(size=(5, 4)), "b": np.zeros(4), "v": rng.normal(size=(4, 2))}
    return p, rng.normal(size=(3, 5)), rng.normal(size=(3, 2))


def test_gradients_have_the_form_of_the_argument(data: Any) -> None:
    p, x, y = data
    loss, gradient = ds.value_and_grad(network)(p, x, y)
    np.testing.assert_allclose(loss, network(p, x, y, np))
    assert list(gradient) == ["b", "v", "w"]
    for name in p:
        expected = numeric(lambda a, name=name: network({**p, name: a}, x, y, np), p[name])
        np.testing.assert_allclose(gradient[name], expected, atol=1e-8)


def test_a_step_with_aux_is_one_program(data: Any) -> None:
    p, x, y = data

    def loss(p: Any, x: Any, y: Any) -> Any:
        value = network(p, x, y)
        return value, {"loss": value, "tag": "t", "count": xp.asarray(3)}

    @ds.compile(cache=False, threads=1)
    def step(p: Any, x: Any, y: Any) -> Any:
        (value, aux), g = ds.value_and_grad(loss, has_aux=True)(p, x, y)
        return ds.tree_map(lambda a, b: a - 0.1 * b, p, g), value, aux

    first = network(p, x, y, np)
    for _ in range(5):
        p, value, aux = step(p, x, y)
    assert value < first and aux["tag"] == "t" and aux["loss"] == value and aux["count"] == 3
    assert len(step.programs) == 1


def test_several_arguments_and_surroundings(data: Any) -> None:
    _, x, _ = data
    scale = np.full(5, 2.0)

    @ds.compile(cache=False, threads=1)
    def f(x: Any, y: Any, z: Any) -> Any:
        return ds.grad(lambda a, b: xp.sum(a * b * z * scale), argnums=(0, 1))(x, y)

    gx, gy = f(x, 2 * x, 3 * x)
    np.testing.assert_allclose(gx, 2 * x * 3 * x * scale)
    np.testing.assert_allclose(gy, x * 3 * x * scale)


def test_second_order() -> None:
    assert ds.grad(ds.grad(lambda x: x**3))(np.float64(2.0)) == 12.0
    x = np.asarray([0.3, -1.2])
    hessian_product = ds.grad(
        lambda v: xp.sum(ds.grad(lambda u: xp.sum(xp.sin(u) * u))(v) * xp.asarray([1.0, 2.0], dtype=xp.float64))
    )
    expected = (2 * np.cos(x) - x * np.sin(x)) * np.asarray([1.0, 2.0])
    np.testing.assert_allclose(hessian_product(x), expected)


def test_vjp_and_jvp() -> None:
    a, b = np.asarray([1.0, 2.0]), np.asarray([3.0, 5.0])
    result, pull = ds.vjp(lambda x, y: {"p": x * y, "q": xp.exp(x)}, a, b)
    np.testing.assert_allclose(result["p"], a * b)
    ga, gb = pull({"p": np.ones(2), "q": np.full(2, 2.0)})
    np.testing.assert_allclose(ga, b + 2 * np.exp(a))
    np.testing.assert_allclose(gb, a)
    value, tangent = ds.jvp(lambda x, y: x * y, (a, b), (np.ones(2), np.zeros(2)))
    np.testing.assert_allclose(value, a * b)
    np.testing.assert_allclose(tangent, b)


def test_stated_derivatives_and_stopped_ones() -> None:
    @ds.custom_vjp
    def clipped(x: Any, limits: Any) -> Any:
        return xp.clip(x, *limits)

    clipped.defvjp(lambda x, limits: (xp.clip(x, *limits), {"x": x}), lambda kept, g: (g * 7 + kept["x"], None))
    x = np.asarray([1.0, 2.0, -1.0])
    np.testing.assert_allclose(ds.grad(lambda x: xp.sum(clipped(x, (0, 1))))(x), 7 + x)
    np.testing.assert_allclose(ds.grad(lambda x: xp.sum(ds.stop_gradient(x) * x))(x), x)


def test_open_sizes() -> None:
    @ds.compile(cache=False, threads=1, dynamic={"x": "n"})
    def f(w: Any, x: Any) -> Any:
        return ds.grad(lambda w: xp.sum(xp.reshape(x @ w, (-1,)) ** 2))(w)

    w = np.ones((2, 2))
    for n in (1, 3):
        x = np.arange(2.0 * n).reshape(n, 2)
        np.testing.assert_allclose(f(w, x), 2 * x.T @ x @ w)
    assert len(f.programs) == 1


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        (lambda x: x, np.ones(3), r"shape \(3,\).*expected a floating-point scalar"),
        (lambda x: xp.argmax(x), np.ones(3), "int64"),
        (lambda x: xp.sum(x), np.ones(3, np.int64), "int64.*only floating-point"),
        (lambda x: (xp.sum(x), x), np.ones(3), "expected one scalar"),
    ],
)
def test_what_has_no_gradient(function: Any, argument: Any, message: str) -> None:
    with pytest.raises(ds.TraceError, match=message) as error:
        ds.grad(function)(argument)
    assert "test_transforms.py:" in str(error.value)
