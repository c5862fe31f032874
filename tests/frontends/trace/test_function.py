"""`ds.compile` on functions: structures, guards, open sizes, surroundings, donation."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy
Pair = namedtuple("Pair", "left right")
SCALE = 2.0
TABLE = np.arange(6, dtype=np.float32)


@dataclass
class State:
    weight: Any
    name: str


class Layer:
    def __init__(self) -> None:
        self.weight = np.ones((3, 2), np.float32)
        self.scale = 2.0

    def apply(self, x: Any) -> Any:
        return x @ self.weight * self.scale


def rows(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n * 3, dtype=np.float32).reshape(n, 3)


def test_structures_go_in_and_come_out() -> None:
    @ds.compile(cache=False, threads=1)
    def f(p: Any, s: State, flag: bool) -> Any:
        assert flag is True
        return {"a": [p["w"] + 1, None], "b": Pair(p["w"] * 2, s.weight)}, State(s.weight * 3, s.name), "text"

    out, state, text = f({"w": rows(1)}, State(rows(2), "n"), True)
    assert list(out) == ["a", "b"] and out["a"][1] is None and text == "text"
    np.testing.assert_array_equal(out["a"][0], rows(1) + 1)
    assert isinstance(out["b"], Pair)
    np.testing.assert_array_equal(out["b"].right, rows(2))
    assert isinstance(state, State) and state.name == "n"
    np.testing.assert_array_equal(state.weight, rows(2) * 3)


def test_shapes_types_and_values_are_guards() -> None:
    @ds.compile(cache=False, threads=1)
    def f(x: Any, k: int = 1) -> Any:
        return x * k

    f(rows(1))
    f(rows(1))
    f(rows(2))
    f(rows(2).astype(np.float64))
    f(rows(2), k=2)
    for k in (3, 4, -7):
        np.testing.assert_array_equal(f(rows(2), k=k), rows(2) * k)
    reasons = f.report().reasons
    assert reasons[0] == "first call" and len(reasons) == 5
    assert "x was float32[1, 3], now float32[2, 3]" in reasons[1]
    assert "x was float32[2, 3], now float64[2, 3]" in reasons[2]
    assert "k = 2 is given" in reasons[3]
    assert "k was 2 and changes: from now on it is an input" in reasons[4]
    assert f.report().calls[0] == 2
    assert "guard failed" in str(f.report())


def test_globals_are_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        return x * SCALE + TABLE[:3] + TABLE_SUM()

    def TABLE_SUM() -> Any:
        return xp.sum(TABLE)

    np.testing.assert_array_equal(f(rows(1)), rows(1) * 2 + TABLE[:3] + TABLE.sum())
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    np.testing.assert_array_equal(f(rows(1)), rows(1) * 3 + TABLE[:3] + TABLE.sum())
    assert "SCALE was 2.0, now 3.0" in f.report().reasons[1]


def test_arrays_of_the_surroundings_are_read_at_each_call() -> None:
    weight = np.ones((3, 2), np.float32)

    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        return x @ weight

    np.testing.assert_array_equal(f(rows(2)), rows(2) @ weight)
    weight[:] = 5
    np.testing.assert_array_equal(f(rows(2)), rows(2) @ weight)
    weight = np.zeros((3, 2), np.float32)
    np.testing.assert_array_equal(f(rows(2)), rows(2) @ weight)
    assert len(f.programs) == 1
    weight = np.zeros((3, 4), np.float32)
    np.testing.assert_array_equal(f(rows(2)), rows(2) @ weight)
    assert "weight was float32[3, 2], now float32[3, 4]" in f.report().reasons[1]


def test_an_array_that_python_reads_while_tracing_is_guarded_by_its_elements() -> None:
    shift = np.ones(3, np.float32)

    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        return x + shift * 2

    f(rows(1))
    shift[0] = 7
    np.testing.assert_array_equal(f(rows(1)), rows(1) + shift * 2)
    assert "elements of shift have changed" in f.report().reasons[1]


def test_attributes_of_objects_are_watched() -> None:
    layer = Layer()

    @ds.compile(cache=False, threads=1)
    def f(x: Any) -> Any:
        return layer.apply(x)

    np.testing.assert_array_equal(f(rows(2)), rows(2) @ layer.weight * 2)
    layer.weight = layer.weight * 4
    layer.weight[0] = -1
    np.testing.assert_array_equal(f(rows(2)), rows(2) @ layer.weight * 2)
    assert len(f.programs) == 1
    layer.scale = 3.0
    np.testing.assert_array_equal(f(rows(2)), rows(2) @ layer.weight * 3)
    assert "layer.scale was 2.0, now 3.0" in f.report().reasons[1]


def test_one_program_for_all_batch_sizes() -> None:
    @ds.compile(cache=False, threads=1, dynamic=True)
    def f(x: Any, y: Any, w: Any) -> Any:
        return xp.mean(x @ w["w"] + y[:, None], axis=0), x[1:], x.shape[0] * x, xp.arange(x.shape[0])

    w = {"w": np.ones((3, 2), np.float32)}
    for n in (1, 2, 7):
        mean, tail, scaled, count = f(rows(n), np.ones(n, np.float32), w)
        np.testing.assert_allclose(mean, np.mean(rows(n) @ w["w"] + 1, axis=0), rtol=1e-6)
        np.testing.assert_array_equal(tail, rows(n)[1:])
        np.testing.assert_array_equal(scaled, n * rows(n))
        np.testing.assert_array_equal(count, np.arange(n))
    assert len(f.programs) == 1


def test_named_open_sizes_are_verified() -> None:
    @ds.compile(cache=False, threads=1, dynamic={"x": ("rows", None), "y": {0: "rows"}})
    def f(x: Any, y: Any) -> Any:
        return x * y[:, None]

    for n in (0, 1, 4):
        np.testing.assert_array_equal(f(rows(n), np.full(n, 2, np.float32)), rows(n) * 2)
    assert len(f.programs) == 1
    with pytest.raises(ds.TraceError, match=r"'rows' is 2 in one argument and 3 in y.*test_function\.py"):
        f(rows(2), np.ones(3, np.float32))


def test_donated_arrays_are_updated_in_place() -> None:
    def step(w: Any, v: Any, g: Any) -> Any:
        v = 0.5 * v + w * w * g
        return w - 0.25 * v, v

    plain, donating = (ds.compile(step, cache=False, threads=1, donate=d) for d in ((), ("w", "v")))
    random = np.random.default_rng(0)
    w, v = random.standard_normal((2, 40, 600)).astype(np.float32)
    own = w.copy(), v.copy()
    first = [a.ctypes.data for a in own]
    for _ in range(3):
        g = random.standard_normal(w.shape).astype(np.float32)
        w, v = plain(w, v, g)
        own = donating(*own, g)
        np.testing.assert_array_equal(own, (w, v))
        assert [a.ctypes.data for a in own] == first


@pytest.mark.parametrize(
    "step",
    [
        lambda w, x: (w - x, xp.sum(xp.exp(w - x) @ w.T, axis=0)),  # w is read after its successor is made
        lambda w, x: (w[::-1, :] + x, x[0, :]),  # at another place
        lambda w, x: (x + 1, w),  # returned as it is
        lambda w, x: (w + x, w * 2 - x),  # two results: one at most goes there
        lambda w, x: (xp.cumulative_sum(w, axis=0) + w, x * w),
        lambda w, x: ((w @ w.T) @ x + w, x),  # its last reader is the epilogue of a product
        lambda w, x: (xp.sum(w, axis=1, keepdims=True) * w + x, w[:, :1]),
        lambda w, x: (w - xp.mean(w) * x, x),
        lambda w, x: (xp.where(w > 0, w, x), xp.where(x > 0, w, x)),
    ],
)
@pytest.mark.parametrize("size", [3, 150])
def test_donation_never_changes_a_result(step: Any, size: int) -> None:
    random = np.random.default_rng(1)
    w, x = random.standard_normal((2, size, size)).astype(np.float32)
    expected = ds.compile(step, cache=False, threads=1)(w, x)
    for donate in ("w", "x", ("w", "x")):
        got = ds.compile(step, cache=False, threads=2, donate=donate)(w.copy(), x.copy())
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_arrays_that_share_memory_or_are_read_only_are_not_overwritten() -> None:
    f = ds.compile(lambda a, b, c: (a + c, b - c), cache=False, threads=1, donate=("a", "b"))
    both, c = np.arange(12, dtype=np.float32).reshape(4, 3), np.ones((3, 3), np.float32)
    results = f(both[:3], both[1:], c)
    np.testing.assert_array_equal(both, np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(results, (both[:3] + 1, both[1:] - 1))
    fixed = rows(3).copy()
    fixed.flags.writeable = False
    assert f(fixed, np.zeros_like(fixed), np.ones_like(fixed))[0] is not fixed


def test_a_compiled_function_inside_of_another_is_part_of_it() -> None:
    @ds.compile
    def inner(x: Any) -> Any:
        return x + 1

    @ds.compile(cache=False, threads=1)
    def outer(x: Any) -> Any:
        return inner(x) * 2

    np.testing.assert_array_equal(outer(rows(2)), (rows(2) + 1) * 2)
    assert not inner.programs


def test_the_cache_has_the_program_of_the_second_process(tmp_path: Any) -> None:
    def f(x: Any) -> Any:
        return xp.tanh(x) + 1

    first, second = (ds.compile(f, cache=tmp_path, threads=1) for _ in range(2))
    np.testing.assert_array_equal(first(rows(2)), second(rows(2)))
    assert not first.report().programs[0].cached and second.report().programs[0].cached


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="no parameter 'z'"):
        ds.compile(lambda x: x, donate="z")
    with pytest.raises(ds.CompileError, match="does not support dims="):
        ds.compile(lambda x: x, dims={"n": 1})
