"""What Python code asks of open sizes: comparisons are guards, arithmetic gives numbers, values are refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy


def rows(n: int) -> Any:
    return np.arange(3.0 * n, dtype=np.float32).reshape(n, 3)


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    return ds.compile(function, cache=False, threads=1, dynamic={"x": "n"}, **options)


def test_a_comparison_is_a_guard() -> None:
    def f(x: Any) -> Any:
        return x * 2 if x.shape[0] == 32 else -x

    g = compiled(f)
    for n in (2, 7, 32, 5, 32):
        np.testing.assert_array_equal(g(rows(n)), rows(n) * 2 if n == 32 else -rows(n))
    assert len(g.programs) == 2 and g.report().calls == (3, 2)
    line = inspect.getsourcelines(f)[1] + 1
    (guard,), (other,) = g.report().sizes
    assert guard.startswith("n != 32 (") and f"test_sizes.py:{line}" in guard
    assert other.startswith("n == 32 (")
    assert "the size guard n != 32" in g.report().reasons[1]
    assert "only for n != 32" in str(g.report())


@pytest.mark.parametrize(
    ("ask", "numbers"),
    [
        (lambda n: n > 4, (1, 4, 5, 9)),
        (lambda n: n <= 4, (1, 4, 5, 9)),
        (lambda n: n < 3 or n > 6, (2, 3, 6, 7)),
        (lambda n: n % 2 == 0, (1, 2, 3, 4)),
        (lambda n: n != 3, (2, 3)),
        (lambda n: (n, 3) == (2, 3), (2, 3)),
        (lambda n: n in (2, 4), (2, 3, 4)),
        (lambda n: bool(n), (0, 1)),
        (lambda n: max(n, 4) == 4, (3, 4, 5)),
        (lambda n: n == np.int64(2), (2, 3)),
    ],
)
def test_answers_are_those_of_the_call(ask: Callable[[Any], bool], numbers: tuple[int, ...]) -> None:
    g = compiled(lambda x: xp.sum(x) * 0 + (1 if ask(x.shape[0]) else 0))
    for n in (*numbers, *reversed(numbers)):
        assert bool(g(rows(n))) == ask(n), n
    assert len(g.programs) < len(numbers) or len(numbers) <= 3


def test_what_holds_for_all_sizes_is_no_guard() -> None:
    g = compiled(lambda x: x if x.shape[0] >= 0 and x.shape[0] + 1 > x.shape[0] and x.shape == x.shape else -x)
    g(rows(2))
    g(rows(3))
    assert len(g.programs) == 1 and g.report().sizes == ((),)


@pytest.mark.parametrize(
    "calculate",
    [
        lambda n: 1.0 / n,
        lambda n: n / 2,
        lambda n: n * 0.5 + 1,
        lambda n: n**0.5,
        lambda n: 2.0**-n,
        lambda n: (n + 1) ** 2 / 7 - 0.1,
        lambda n: abs(-(n / 3)),
        lambda n: n // 2 * 1.5,
        lambda n: np.float32(0.25) * n,
        lambda n: 7 // n + 7 % n,
        lambda n: math.pi * n,
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arithmetic_with_numbers(calculate: Callable[[Any], Any], dtype: str) -> None:
    g = compiled(lambda x: x * calculate(x.shape[0]))
    for n in (1, 2, 5):
        x = rows(n).astype(dtype)
        result = g(x)
        assert result.dtype == x.dtype
        np.testing.assert_allclose(result, x * calculate(n), rtol=1e-6 if dtype == "float32" else 1e-15)
    assert len(g.programs) == 1


def test_sizes_and_numbers_are_results() -> None:
    g = compiled(lambda x: (x.shape[0], x.shape[0] / 4, {"n": x.shape[0] + 1}))
    for n in (2, 5):
        assert g(rows(n)) == (n, n / 4, {"n": n + 1})
    assert len(g.programs) == 1


def unrolling(x: Any) -> Any:
    return sum(x[i] for i in range(x.shape[0]))  # HERE


def rooting(x: Any) -> Any:
    return x * math.sqrt(x.shape[0])  # HERE


def allocating(x: Any) -> Any:
    return x + np.zeros(x.shape)  # HERE


def counting_data(x: Any) -> Any:
    return x if xp.sum(x).shape == () and x.shape[0] / 2 > 3 else -x  # HERE


@pytest.mark.parametrize("function", [unrolling, rooting, allocating, counting_data])
def test_values_are_refused(function: Any) -> None:
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "# HERE" in text)
    with pytest.raises(ds.TraceError, match=r"is not known while the function is traced") as error:
        compiled(function)(rows(2))
    assert f"test_sizes.py:{line}" in str(error.value)


@pytest.mark.parametrize(
    "calculate",
    [
        lambda n: np.sqrt(n),
        lambda n: np.exp(-n / 7),
        lambda n: np.maximum(n, 3),
        lambda n: np.float32(2) * n,
        lambda n: np.int64(3) - n,
        lambda n: np.asarray([1.0, 2.0], np.float32) * n,
        lambda n: abs(n - 5),
        lambda n: round(n),
        lambda n: sum(divmod(n, 3)),
        lambda n: np.power(n, 2),
        lambda n: 1 if np.less(n, 4) else 2,
        lambda n: 1 if np.int64(4) == n else 2,
        lambda n: 1 if np.int64(4) > n else 2,
    ],
)
def test_functions_of_numpy_take_sizes(calculate: Any) -> None:
    """Values and element types are those of NumPy."""
    g = compiled(lambda x: xp.asarray(calculate(x.shape[0])))
    for n in (1, 4, 9):
        result, expected = g(rows(n)), np.asarray(calculate(n))
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        assert result.dtype == expected.dtype


@pytest.mark.parametrize(
    "ask",
    [
        lambda n: math.sqrt(n), lambda n: math.log(n), lambda n: int(n), lambda n: float(n), lambda n: range(n),
        lambda n: [1, 2, 3][n], lambda n: [1] * n, lambda n: f"{n:03d}", lambda n: np.float32(n),
        lambda n: np.ones((n, 3)), lambda n: np.linspace(0, 1, n), lambda n: np.full((n, 2), 1.0), lambda n: np.eye(n),
        lambda n: xp.linspace(0, 1, n),
    ],
)  # fmt: skip
def test_the_value_of_a_size_is_refused_at_the_users_line(ask: Any) -> None:
    line = inspect.getsourcelines(ask)[1]
    with pytest.raises(ds.TraceError, match=r"the value of the open size 'n'.*calculate with the size itself") as error:
        compiled(lambda x: ask(x.shape[0]))(rows(3))
    assert "numpy/" not in str(error.value) and "test_sizes.py:" in str(error.value)
    assert abs(int(str(error.value).split("test_sizes.py:")[1].split("'")[0]) - line) <= 6


def test_looking_up_a_size_is_told_what_it_is() -> None:
    with pytest.raises(KeyError) as error:
        compiled(lambda x: x * {3: 1.0}[x.shape[0]])(rows(3))
    assert "sizes that dynamic= leaves open are symbols" in error.value.__notes__[0]
