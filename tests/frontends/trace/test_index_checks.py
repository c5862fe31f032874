"""Traced indices out of range end the program where NumPy raises IndexError; the error names the user's line."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler.frontends.trace import tree
from ds_compiler.frontends.trace.function import trace_program
from ds_compiler.ir import CompileError, TensorType
from ds_compiler.ir.dtypes import from_numpy
from ds_compiler.ops import Check
from ds_compiler.runtime import ExecutionError

xp = ds.numpy
X = np.arange(24, dtype=np.float64).reshape(4, 6)
I = np.asarray([0, -4, 3])  # noqa: E741


def element(x: Any, i: Any) -> Any:
    return x[i]  # HERE


def points(x: Any, i: Any) -> Any:
    return x[i, 0]  # HERE


def both_axes(x: Any, i: Any) -> Any:
    return x[i, i]  # HERE


def take(x: Any, i: Any) -> Any:
    return xp.take(x, i, axis=0)  # HERE


def along_axis(x: Any, i: Any) -> Any:
    return xp.take_along_axis(x, i[:, None], axis=0)  # HERE


def embedding(x: Any, i: Any) -> Any:
    return ds.nn.functional.embedding(i, x)  # HERE


def rows_set(x: Any, i: Any) -> Any:
    return x.at[i].set(1.0)  # HERE


def elements_added(x: Any, i: Any) -> Any:
    return x.at[i, 1:3].add(1.0)  # HERE


def gradient(x: Any, i: Any) -> Any:
    def loss(x: Any) -> Any:
        return xp.sum(xp.take(x, i, axis=0) ** 3)  # HERE

    return ds.grad(loss)(x)


def second_order(x: Any, i: Any) -> Any:
    def loss(x: Any) -> Any:
        return xp.sum(x[i] ** 3)  # HERE

    return ds.jvp(ds.grad(loss), (x,), (x,))


def in_scan(x: Any, i: Any) -> Any:
    def loss(x: Any) -> Any:
        def step(total: Any, k: Any) -> Any:
            return total + xp.sum(x[k] ** 3), None  # HERE

        return ds.scan(step, xp.asarray(0.0, dtype=xp.float64), i)[0]

    return ds.grad(loss)(x), ds.jvp(ds.grad(loss), (x,), (x,))


def batched(x: Any, i: Any) -> Any:
    return ds.vmap(lambda k: x[k])(i)  # HERE


PROGRAMS = [
    element, points, both_axes, take, along_axis, embedding, rows_set, elements_added, gradient, second_order, in_scan,
    batched,
]  # fmt: skip


def checks(function: Any, *arguments: Any) -> int:
    """How many checks the traced program holds."""
    leaves, structure = tree.flatten((arguments, {}))
    types = [TensorType(a.shape, from_numpy(a.dtype)) for a in leaves]
    module = trace_program(function, structure, leaves, types, {}).module
    return sum(isinstance(op, Check) for f in module.functions.values() for op in f.walk())


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8"])
@pytest.mark.parametrize("function", PROGRAMS)
def test_out_of_range(function: Any, dtype: str) -> None:
    lines, start = inspect.getsourcelines(function)
    line = start + next(n for n, text in enumerate(lines) if "# HERE" in text)
    program = ds.compile(function, cache=False, threads=1)
    program(X, I.astype(dtype))
    for wrong in (4, -5):
        with pytest.raises(ExecutionError, match=rf"test_index_checks\.py:{line}: an index of axis 0 is out of range"):
            program(X, np.asarray([0, wrong, 3], dtype))
    program(X, I.astype(dtype))


def test_derivatives_are_those_of_negative_indices_too() -> None:
    expected = np.zeros_like(X)
    np.add.at(expected, I, 3 * X[I] ** 2)
    np.testing.assert_allclose(ds.compile(gradient, cache=False)(X, I), expected)
    once, (_, tangent) = ds.compile(in_scan, cache=False)(X, I)
    np.testing.assert_allclose(once, expected)
    np.testing.assert_allclose(tangent, 2 * expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint64"])
def test_unsigned_indices(dtype: str) -> None:
    program = ds.compile(take, cache=False)
    np.testing.assert_array_equal(program(X, np.asarray([3, 0], dtype)), X[[3, 0]])
    with pytest.raises(ExecutionError, match="out of range"):
        program(X, np.asarray([0, np.iinfo(dtype).max], dtype))


@pytest.mark.parametrize(
    "indices",
    [
        lambda x, i: xp.arange(4),
        lambda x, i: xp.argmax(x, axis=0) % 4,
        lambda x, i: xp.argmax(x, axis=0),
        lambda x, i: xp.argsort(x, axis=0)[0],
        lambda x, i: i % 4,
        lambda x, i: i % 4 - 4,
        lambda x, i: xp.clip(i, -4, 3),
        lambda x, i: xp.asarray([0, -4]),
    ],
)
def test_what_is_in_range_is_not_checked(indices: Any) -> None:
    for program in (lambda x, i: x[indices(x, i)], lambda x, i: x.at[indices(x, i)].add(1.0)):
        assert checks(program, X, I) == 0
        ds.compile(program, cache=False)(X, I)


def test_known_to_be_out_of_range() -> None:
    with pytest.raises(CompileError, match=r"test_index_checks\.py:\d+"):
        ds.compile(lambda x: xp.take(x, xp.arange(3) + 4, axis=0), cache=False)(X)


def test_sizes_of_the_run_decide() -> None:
    program = ds.compile(take, cache=False, dynamic=[{0: "n"}, None])
    program(X, I)
    with pytest.raises(ExecutionError, match="out of range"):
        program(X[:3], I)


def test_examples_that_do_not_run_a_branch_are_not_checked() -> None:
    def one(x: Any, k: Any) -> Any:
        return ds.cond(k < 4, lambda: x[k] * 1.0, lambda: x[0] * 0.0)

    def counted(x: Any, k: Any) -> Any:
        return ds.while_loop(lambda s: s[0] < k, lambda s: (s[0] + 1, s[1] + x[s[0] + 4 - k]), (k * 0, x[0] * 0.0))[1]

    keys = np.asarray([1, 9, 3])
    out = ds.compile(lambda x, i: ds.vmap(lambda k: one(x, k))(i), cache=False)(X, keys)
    np.testing.assert_array_equal(out, [X[1], X[0] * 0, X[3]])
    with pytest.raises(ExecutionError, match="out of range"):
        ds.compile(lambda x, i: ds.vmap(lambda k: one(x, k))(i), cache=False)(X, np.asarray([1, -5]))
    out = ds.compile(lambda x, i: ds.vmap(lambda k: counted(x, k))(i), cache=False)(X, np.asarray([1, 4, 2]))
    np.testing.assert_array_equal(out, [X[3], X.sum(0), X[2] + X[3]])
