"""Python numbers as arguments: part of the program until they change, then inputs, unless tracing needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy
RATE = 1.0
SHARED = 1.0
X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    return ds.compile(function, cache=False, threads=1, **options)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, r: x * r,
        lambda x, r: x - (1 - r) * 0.3,
        lambda x, r: r**2 * x + x**r * 0,
        lambda x, r: xp.where(x > r, x, r),
        lambda x, r: xp.clip(x, -r, r),
        lambda x, r: x + xp.full((3,), r),
        lambda x, r: xp.maximum(x, r) / (1e-3 + abs(r)),
        lambda x, r: ds.fori_loop(0, 3, lambda i, s: s * r, x),
        lambda x, r: ds.cond(xp.sum(x) > 0, lambda: x * r, lambda: x),
        lambda x, r: ds.grad(lambda y: xp.sum(y * y * r))(x),
        lambda x, r: (np.exp(r) * x, np.maximum(r, 0.3) * x),
        lambda x, r: (x.astype(xp.float64) * r, x.astype(xp.float16) * r),
    ],
)
def test_equal_to_fixed_numbers_bit_for_bit(function: Any) -> None:
    g, fixed = compiled(function), compiled(function, dynamic=False)
    for r in (0.5, 0.1, 1 / 3, 2.0):
        for a, b in zip(ds.tree_leaves(g(X, r)), ds.tree_leaves(fixed(X, r))):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    assert len(g.programs) == 2 and len(fixed.programs) == 4


def test_ints_stay_ints() -> None:
    g = compiled(lambda x, i: (x[i], x.astype(xp.int32) * i, i + 1, i / 2, -i // 2))
    for i in (0, 1, -1, -2):
        row, product, more, half, floor = g(X, i)
        np.testing.assert_array_equal(row, X[i])
        np.testing.assert_array_equal(product, X.astype(np.int32) * i)
        assert (more, half, floor) == (i + 1, i / 2, -i // 2) and type(more) is int and product.dtype == np.int32
    assert len(g.programs) == 2


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda x, k: x if k > 2 else -x, (1, 2, 3)),
        (lambda x, k: sum(x * i for i in range(k)), (2, 3, 4)),
        (lambda x, k: xp.zeros((k,)) + k, (1, 2, 3)),
        (lambda x, k: xp.sum(x, axis=k), (0, 1, -1)),
        (lambda x, k: x * {1: 2.0, 2: 3.0, 3: 5.0}[k], (1, 2, 3)),
        (lambda x, k: x[:k], (0, 1, 2)),
        (lambda x, k: x * float(f"{k}"), (1, 2, 3)),
    ],
)
def test_numbers_that_tracing_needs_are_part_of_the_program(function: Any, numbers: Any) -> None:
    g, fixed = compiled(function), compiled(function, dynamic=False)
    for k in (*numbers, *numbers):
        np.testing.assert_array_equal(g(X, k), fixed(X, k))
    assert len(g.programs) == len(numbers)


def test_only_what_is_needed_is_fixed() -> None:
    g = compiled(lambda x, layers, rate: x * rate * 2**layers if layers else x)
    for layers, rate in ((1, 0.1), (2, 0.2), (2, 0.3), (2, 0.4), (1, 0.5), (1, 0.6)):
        np.testing.assert_allclose(g(X, layers, rate), X * rate * 2**layers, rtol=1e-6)
    assert len(g.programs) == 3
    assert "layers was 2, now 1 (part of the program" in g.report().reasons[2]
    assert "test_numbers.py" in g.report().reasons[2]


def test_flags_are_part_of_the_program() -> None:
    g = compiled(lambda x, train: x * 2 if train else x)
    for train in (True, False, True, False):
        np.testing.assert_array_equal(g(X, train), X * 2 if train else X)
    assert len(g.programs) == 2


def test_a_mistake_is_told_as_such() -> None:
    g = compiled(lambda x, r: (x * r) @ xp.ones((7, 7)) if r != 1 else x)
    g(X, 1)
    with pytest.raises(ds.TraceError, match=r"has size 3.*test_numbers\.py"):
        g(X, 2)


def test_big_ints() -> None:
    g = compiled(lambda x, seed: ds.random.uniform(ds.random.key(seed), (2,)) + x[0, :2] * 0)
    fixed = compiled(lambda x, seed: ds.random.uniform(ds.random.key(seed), (2,)) + x[0, :2] * 0, dynamic=False)
    for seed in (1, 2, 2**40 + 5, -3, 2**62):
        np.testing.assert_array_equal(g(X, seed), fixed(X, seed))
    assert len(g.programs) == 2


def test_a_global_that_changes_becomes_an_input() -> None:
    global RATE
    g = compiled(lambda x: x * RATE + ds.fori_loop(0, 2, lambda i, s: s + RATE, 0.0))
    for RATE in (0.5, 0.25, 3.0, 1 / 3):
        np.testing.assert_allclose(g(X), X * np.float32(RATE) + np.float32(2 * RATE), rtol=1e-6)
    assert len(g.programs) == 2
    assert g.report().reasons[1] == "guard failed: RATE was 0.5, now 0.25: from now on it is an input"
    RATE = 2  # an int is another type: a program of its own
    np.testing.assert_allclose(g(X), X * 2 + 4)
    assert "RATE was any float, now 2" in g.report().reasons[2]


def test_a_variable_of_the_closure_that_changes_becomes_an_input() -> None:
    rate, count, layers = 1.0, 1, 1

    def f(x: Any) -> Any:
        scale = (lambda: rate * count)()  # functions inside of it are a part of it
        return x * scale if layers > 1 else x + scale

    g, fixed = compiled(f), compiled(f, dynamic=False)
    for rate, count in ((0.5, 1), (0.25, 2), (2.0, 3), (0.1, 5)):  # noqa: B007
        np.testing.assert_array_equal(g(X), fixed(X))
    assert (len(g.programs), len(fixed.programs)) == (2, 4)
    layers = 2
    np.testing.assert_array_equal(g(X), X * np.float32(rate * count))
    reason = g.report().reasons[2]
    assert "layers was 1, now 2 (part of the program: the truth of a traced array" in reason
    assert "test_numbers.py" in reason and "rate" not in reason
    rate = 7.0
    np.testing.assert_array_equal(g(X), X * np.float32(rate * count))
    assert len(g.programs) == 3


def helper(x: Any) -> Any:
    return x * SHARED


def test_a_variable_that_other_functions_read_stays_a_part() -> None:
    global SHARED
    g = compiled(lambda x: helper(x) + SHARED)
    for SHARED in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(g(X), X * np.float32(SHARED) + np.float32(SHARED))
    assert "SHARED was 1.0, now 2.0 (part of the program: helper reads it too)" in g.report().reasons[1]
    assert len(g.programs) == 3


def test_a_global_that_is_assigned_to_is_refused() -> None:
    global RATE

    def f(x: Any) -> Any:
        global RATE
        RATE = RATE * 2
        return x * RATE

    g = compiled(f)
    for RATE in (1.5, 2.5):  # noqa: B007
        with pytest.raises(ds.TraceError, match="changes 'RATE'"):
            g(X)


def test_methods_read_globals_too() -> None:
    global RATE

    class Scaled:
        def forward(self, x: Any) -> Any:
            return x * RATE

    g = compiled(Scaled().forward)
    for RATE in (1.0, 2.0, 3.0, 4.0):
        np.testing.assert_array_equal(g(X), X * np.float32(RATE))
    assert len(g.programs) == 2
