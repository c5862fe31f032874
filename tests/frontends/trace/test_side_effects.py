"""Functions that change their surroundings while they are traced are refused, with the line that does it."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn

X = np.ones((2, 3), np.float32)
history: list[Any] = []
losses: dict[str, Any] = {}
total: Any = 0


class Holder:
    last: Any = None
    count: Any = 0


holder = Holder()
norm = nn.BatchNorm2d(3)


def appending(x: Any) -> Any:
    history.append(x * 2)  # HERE
    return x


def appending_numbers(x: Any) -> Any:
    history.append(1)  # HERE
    return x


def filling_a_dict(x: Any) -> Any:
    losses["now"] = x  # HERE
    return x


def setting_an_attribute(x: Any) -> Any:
    holder.last = x * 2  # HERE
    return x


def counting(x: Any) -> Any:
    holder.count += 1  # HERE
    return x


def setting_a_global(x: Any) -> Any:
    global total
    total = x  # HERE
    return x


def adding_to_a_global(x: Any) -> Any:
    global total
    total = total + 1  # HERE
    return x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (appending, "stores a traced array in 'history'"),
        (appending_numbers, "changes 'history'"),
        (filling_a_dict, "stores a traced array in 'losses"),
        (setting_an_attribute, "stores a traced array in 'holder.last'"),
        (counting, "changes 'holder.count'"),
        (setting_a_global, "stores a traced array in 'total'"),
        (adding_to_a_global, "changes 'total'"),
    ],
)
def test_refused(function: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "history", [])
    monkeypatch.setitem(globals(), "losses", {})
    monkeypatch.setitem(globals(), "total", 0)
    monkeypatch.setitem(globals(), "holder", Holder())
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "# HERE" in text)
    with pytest.raises(ds.TraceError) as error:
        ds.compile(function, cache=False, threads=1)(X)
    assert message in str(error.value) and f"test_side_effects.py:{line}" in str(error.value)


def test_a_variable_of_the_enclosing_function() -> None:
    kept = None

    def f(x: Any) -> Any:
        nonlocal kept
        kept = x
        return x

    with pytest.raises(ds.TraceError, match=r"stores a traced array in 'kept'.*test_side_effects\.py"):
        ds.compile(f, cache=False, threads=1)(X)
    assert kept is not None


def test_buffers_of_a_model_that_is_no_argument() -> None:
    model = nn.BatchNorm2d(3)

    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        return model(x)

    with pytest.raises(ds.TraceError, match=r"stores a traced array in 'model\.\w+'.*test_side_effects\.py"):
        f(np.ones((2, 3, 4, 4), np.float32))


def test_what_is_computed_once_and_kept_is_allowed() -> None:
    cache: dict[int, Any] = {}

    @functools.cache
    def table(n: int) -> Any:
        return np.arange(n, dtype=np.float32)

    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        if 3 not in cache:
            cache[3] = np.arange(3, dtype=np.float32)
        return x + cache[3] + table(3)

    for _ in range(3):
        np.testing.assert_array_equal(f(X), X + 2 * np.arange(3, dtype=np.float32))
    assert len(f.programs) == 1


def test_own_objects_and_results_may_be_changed() -> None:
    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        parts = []
        for i in range(3):
            parts.append(x * i)
        return {"parts": parts}

    assert len(f(X)["parts"]) == 3
    f(X)
    assert len(f.programs) == 1
