"""`ds.vmap` against a Python loop over the examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 5))
W = RNG.normal(size=(5, 2))
ROWS = np.asarray([2, 0, 3])

CASES: dict[str, Any] = {
    "elementwise": lambda x, i: xp.tanh(x) * 2 + i.astype("float64"),
    "matrix product": lambda x, i: x @ W,
    "product from the left": lambda x, i: xp.tensordot(W, x, axes=([0], [1])),
    "both factors": lambda x, i: x @ x.T,
    "reduction": lambda x, i: (xp.sum(x, axis=0), xp.mean(x), xp.argmax(x, axis=1), xp.max(x, axis=-1, keepdims=True)),
    "movement": lambda x, i: xp.concat([xp.flip(x, axis=0)[1:], xp.reshape(x.T, (4, 5))[None, 0]]),
    "constant result": lambda x, i: (xp.arange(3), W),
    "row of its own": lambda x, i: x[i],
    "element of its own": lambda x, i: x[i, i],
    "row of a table": lambda x, i: xp.asarray(W)[i],
    "columns": lambda x, i: x[:, xp.asarray([0, 2])],
    "rows and columns": lambda x, i: xp.take(x, xp.stack([i, i]), axis=1),
    "along an axis": lambda x, i: xp.take_along_axis(x, xp.argsort(x, axis=1), axis=1),
    "update": lambda x, i: x.at[i].add(1.0),
    "update by slices": lambda x, i: x.at[1:3, 0].set(i.astype("float64")),
    "window of its own": lambda x, i: ds.dynamic_slice(x, (i, 1), (1, 3)),
    "shared window": lambda x, i: ds.dynamic_slice(x, (1, 1), (1, 3)),
    "sorting": lambda x, i: xp.sort(x, axis=0),
    "running sum": lambda x, i: xp.cumulative_sum(x, axis=1),
    "padding": lambda x, i: xp.pad(x, 1),
    "where": lambda x, i: xp.where(x > 0, x, 0.0),
    "triangle": lambda x, i: xp.tril(x),
    "cond": lambda x, i: ds.cond(i > 1, lambda: x * 2, lambda: -x),
    "shared cond": lambda x, i: ds.cond(xp.sum(xp.asarray(W)) > 1, lambda: x * 2, lambda: -x),
    "while": lambda x, i: ds.while_loop(lambda s: xp.sum(s * s) < 1e4, lambda s: s * 2, x),
    "fori": lambda x, i: ds.fori_loop(0, i, lambda k, s: s * 1.5, x),
    "scan": lambda x, i: ds.scan(lambda c, v: (c + v, c * i.astype("float64")), xp.zeros(5, dtype=xp.float64), x),
    "gradient": lambda x, i: ds.grad(lambda v: xp.sum(xp.tanh(v @ W) ** 2))(x),
    "gradient of what it reads": lambda x, i: ds.grad(lambda w: xp.sum(xp.tanh(x @ w) ** 2))(xp.asarray(W)),
    "tangent": lambda x, i: ds.jvp(lambda v: xp.sin(v) * x, (x,), (x,)),
    "nested": lambda x, i: ds.vmap(lambda row: xp.sum(row * x[i, 0]))(x),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_like_a_loop(name: str) -> None:
    function = CASES[name]
    result = ds.compile(ds.vmap(function), cache=False, threads=1)(X, ROWS)
    single = ds.compile(function, cache=False, threads=1)
    rows = [single(x, i) for x, i in zip(X, ROWS)]
    expected = ds.tree_map(lambda *leaves: np.stack(leaves), rows[0], *rows[1:])
    for a, b in zip(ds.tree_leaves(result), ds.tree_leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(ds.tree_leaves(interpreted_batch(function)), ds.tree_leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def interpreted_batch(function: Any) -> Any:
    from ds_compiler.frontends.trace import tree
    from ds_compiler.frontends.trace.function import Output, trace_program
    from ds_compiler.ir import TensorType
    from ds_compiler.ir.dtypes import from_numpy
    from ds_compiler.ir.verifier import verify
    from ds_compiler.passes import run  # derivatives are expanded before they can be interpreted
    from ds_compiler.reference import interpret

    leaves, structure = tree.flatten(((X, ROWS), {}))
    types = [TensorType(x.shape, from_numpy(x.dtype)) for x in leaves]
    program = trace_program(ds.vmap(function), structure, leaves, types, {})
    verify(program.module)
    run(program.module, "grad,inline", verify=True)
    results = interpret(program.module, leaves)
    return tree.unflatten(program.structure, [results[x.index] if isinstance(x, Output) else x for x in program.leaves])


def test_axes() -> None:
    f = ds.vmap(lambda p, y: p["a"] * y + p["b"], in_axes=({"a": 1, "b": 0}, -1), out_axes=1)
    a, b, y = X[0], np.arange(5.0), RNG.normal(size=(4, 5))
    np.testing.assert_allclose(f({"a": a, "b": b}, y), a * y + b)
    g = ds.vmap(lambda x, s: x * s, in_axes=(0, None))
    np.testing.assert_allclose(g(a, np.float64(3)), a * 3)


def test_open_batch() -> None:
    f = ds.compile(ds.vmap(lambda x: xp.sum(x * x)), cache=False, threads=1, dynamic=True)
    for n in (1, 3):
        np.testing.assert_allclose(f(X[0, :n]), (X[0, :n] ** 2).sum(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ds.vmap(lambda a, b: a)(X, X[:2]), "size 3 in one argument and 2"),
        (lambda: ds.vmap(lambda a: a, in_axes=None)(X), "no argument has the axis"),
        (lambda: ds.vmap(lambda a: a, in_axes=(0, 0))(X), "2 entries for 1 arguments"),
        (lambda: ds.vmap(lambda a: a, in_axes=4)(X), "axis 4 is out of range"),
    ],
)
def test_misuse_names_the_line(call: Any, message: str) -> None:
    with pytest.raises(ds.TraceError, match=message) as error:
        call()
    assert "test_vmap.py:" in str(error.value)
