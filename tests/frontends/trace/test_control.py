"""Control flow against Python's own, compiled natively and interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from tests.frontends.trace.running import interpreted

xp = ds.numpy
X = np.arange(6, dtype=np.float64).reshape(2, 3)


def both(function: Any, *arguments: Any) -> Any:
    """The native result; the interpreter's must be the same."""
    native = ds.compile(function, cache=False, threads=1)(*arguments)
    for a, b in zip(ds.tree_leaves(native), ds.tree_leaves(interpreted(function, *arguments)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    return native


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cond_runs_one_branch(sign: float) -> None:
    def f(x: Any) -> Any:
        return ds.cond(xp.sum(x) > 0, lambda v: {"r": v * 2, "n": 1}, lambda v: {"r": -v, "n": 2}, x)

    out = both(f, sign * X)
    np.testing.assert_array_equal(out["r"], sign * X * 2 if sign > 0 else X)
    assert out["n"] == (1 if sign > 0 else 2)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_loops(count: int) -> None:
    def f(x: Any, n: Any) -> Any:
        loop = ds.while_loop(lambda s: s["i"] < n, lambda s: {"i": s["i"] + 1, "v": s["v"] * 1.5}, {"i": 0, "v": x})
        return (
            loop,
            ds.fori_loop(0, n, lambda i, v: v + i, 0),
            ds.fori_loop(1, 4, lambda i, v: v + i.astype("float64"), x),
        )

    state, total, known = both(f, X, np.int64(count))
    assert state["i"] == count and total == sum(range(count))
    np.testing.assert_allclose(state["v"], X * 1.5**count)
    np.testing.assert_array_equal(known, X + 6)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse: bool) -> None:
    def f(x: Any) -> Any:
        return ds.scan(
            lambda c, v: (c + v["a"], (c * v["b"], None)),
            xp.zeros(3, dtype=xp.float64),
            {"a": x, "b": 2 * x},
            reverse=reverse,
        )

    last, (stacked, nothing) = both(f, X)
    state, rows = np.zeros(3), [np.zeros(3)] * 2
    for i in (1, 0) if reverse else (0, 1):
        rows[i] = state * 2 * X[i]
        state = state + X[i]
    np.testing.assert_allclose(last, state)
    np.testing.assert_allclose(stacked, rows)
    assert nothing is None


def test_scan_reads_its_surroundings_and_can_be_differentiated() -> None:
    def f(x: Any, w: Any) -> Any:
        def loss(w: Any) -> Any:
            last, _ = ds.scan(lambda c, v: (xp.tanh(c * w + v), None), xp.zeros(3, dtype=xp.float64), x)
            return xp.sum(last)

        return ds.grad(loss)(w)

    def reference(w: Any) -> Any:
        state = np.zeros(3)
        for row in X:
            state = np.tanh(state * w + row)
        return state.sum()

    w = np.asarray([0.3, -0.7, 0.1])
    gradient = ds.compile(f, cache=False, threads=1)(X, w)
    for i in range(3):
        step = np.eye(3)[i] * 1e-6
        assert abs((reference(w + step) - reference(w - step)) / 2e-6 - gradient[i]) < 1e-8


def test_dynamic_slice_is_moved_into_the_array() -> None:
    def f(x: Any, i: Any) -> Any:
        return ds.dynamic_slice(x, (0, i), (2, 2))

    for i in (-3, 0, 1, 9):
        first = min(max(i, 0), 1)
        np.testing.assert_array_equal(both(f, X, np.int64(i)), X[:, first : first + 2])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: ds.cond(x, lambda: 1, lambda: 2), "expected a scalar bool"),
        (lambda x: ds.cond(xp.sum(x) > 0, lambda: x, lambda: x[0]), r"second branch gives.*tensor<3xf64>"),
        (lambda x: ds.cond(xp.sum(x) > 0, lambda: x, lambda: (x, x)), "has the form"),
        (lambda x: ds.while_loop(lambda s: s > 0, lambda s: s.astype("float32"), xp.sum(x)), "body makes the state"),
        (lambda x: ds.while_loop(lambda s: s, lambda s: s, xp.sum(x)), "the condition gives"),
        (lambda x: ds.scan(lambda c, v: c, 0, x), r"returns \(state, output\)"),
        (lambda x: ds.scan(lambda c, v: (c, v), 0), "no arrays to run over"),
        (lambda x: ds.scan(lambda c, v: (c, v), 0, (x, x[:1])), "1 slices, others 2"),
    ],
)
def test_misuse_names_the_line(function: Any, message: str) -> None:
    with pytest.raises(ds.TraceError, match=message) as error:
        ds.compile(function, cache=False)(X)
    assert "test_control.py:" in str(error.value)
