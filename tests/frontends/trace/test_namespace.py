"""`ds.numpy` against NumPy: every function, natively compiled and interpreted, with empty and size-1 arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from tests.frontends.trace.running import interpreted

xp = ds.numpy
Case = tuple[Callable[..., Any], Callable[..., Any]]

SHAPES = ((3, 4), (1, 1), (2, 0), (0, 3), ())
SPECIAL = np.asarray([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, np.inf, -np.inf, np.nan, 3e-8, 100.0])


def same(name: str) -> Case:
    return getattr(xp, name), getattr(np, name)


_FLOAT = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh exp expm1 floor isfinite isinf isnan log log1p log2 log10 "
    "negative positive reciprocal sign signbit sin sinh square sqrt tan tanh trunc"
)
_INTEGER = "abs bitwise_invert ceil floor isfinite negative positive sign square trunc"
_TWO_FLOATS = (
    "add atan2 copysign divide equal floor_divide greater greater_equal hypot less less_equal logaddexp maximum "
    "minimum multiply nextafter not_equal pow remainder subtract"
)
_TWO_INTEGERS = "add bitwise_and bitwise_or bitwise_xor equal greater less maximum minimum multiply not_equal subtract"
UNARY_FLOAT: dict[str, Case] = {name: same(name) for name in _FLOAT.split()} | {"round": (xp.round, np.rint)}
UNARY_INTEGER: dict[str, Case] = {name: same(name) for name in _INTEGER.split()}
BINARY_FLOAT: dict[str, Case] = {name: same(name) for name in _TWO_FLOATS.split()}
BINARY_INTEGER: dict[str, Case] = {name: same(name) for name in _TWO_INTEGERS.split()}
REDUCTIONS: dict[str, Case] = {
    "sum": same("sum"), "prod": same("prod"), "all": same("all"), "any": same("any"),
    "count_nonzero": same("count_nonzero"),
}  # fmt: skip
FLOAT_REDUCTIONS: dict[str, Case] = {
    **REDUCTIONS, "mean": same("mean"), "max": same("max"), "min": same("min"), "var": same("var"), "std": same("std"),
    "var1": (lambda x, **k: xp.var(x, correction=1, **k), lambda x, **k: np.var(x, ddof=1, **k)),
}  # fmt: skip


def check(function: Callable[[Any], Callable[..., Any]], arguments: Any, tolerance: float) -> None:
    """``function(namespace index)(*arguments)`` natively and interpreted against NumPy; trees of arrays."""
    with np.errstate(all="ignore"):
        expected = function(1)(*arguments)
    native = ds.compile(function(0), cache=False, threads=1)(*arguments)
    for actual in (native, interpreted(function(0), *arguments)):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            wanted = np.asarray(value)
            assert actual[name].shape == wanted.shape, name
            assert actual[name].dtype == wanted.dtype, name
            np.testing.assert_allclose(actual[name], wanted, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_one_float(dtype: str) -> None:
    def function(which: int) -> Callable[..., Any]:
        return lambda x: {name: case[which](x) for name, case in UNARY_FLOAT.items()}

    tolerance = 4e-7 if dtype == "float32" else 2e-14
    check(function, [SPECIAL.astype(dtype)], tolerance)
    check(function, [np.zeros((2, 0), dtype)], tolerance)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32", "uint64"])
def test_functions_of_integers(dtype: str) -> None:
    limits = np.iinfo(dtype)
    x = np.asarray([0, 1, 2, 5, 7, limits.max, limits.min, limits.max - 3], dtype)
    y = np.asarray([3, 1, 0, 7, 2, limits.max, 1, 5], dtype)

    def function(which: int) -> Callable[..., Any]:
        def both(x: Any, y: Any) -> Any:
            one = {name: case[which](x) for name, case in UNARY_INTEGER.items()}
            two = {f"{name} of two": case[which](x, y) for name, case in BINARY_INTEGER.items()}
            safe = (xp, np)[which].maximum(y, (xp, np)[which].asarray(1, dtype=dtype))
            shift = {
                "shl": (xp.bitwise_left_shift, np.left_shift)[which](x, safe & 3),
                "shr": (xp.bitwise_right_shift, np.right_shift)[which](x, safe & 3),
                "//": x // safe,
                "%": x % safe,
                "**": safe ** (x & 3),
            }
            return one | two | shift

        return both

    check(function, [x, y], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_two_floats(dtype: str) -> None:
    x, y = (a.reshape(-1) for a in np.meshgrid(SPECIAL, SPECIAL))

    def function(which: int) -> Callable[..., Any]:
        return lambda x, y: {name: case[which](x, y) for name, case in BINARY_FLOAT.items()}

    check(function, [x.astype(dtype), y.astype(dtype)], 1e-6 if dtype == "float32" else 1e-13)


def test_functions_of_bool() -> None:
    def function(which: int) -> Callable[..., Any]:
        n = (xp, np)[which]
        return lambda x, y: {
            "and": n.logical_and(x, y), "or": x | y, "xor": n.logical_xor(x, y), "not": ~x, "eq": x == y, "ne": x != y,
            "where": n.where(x, n.asarray(1.0, dtype="float32"), n.asarray(2.0, dtype="float32")),
            "sum": n.sum(x), "any": n.any(x), "all": n.all(x, axis=0),
        }  # fmt: skip

    check(function, [np.asarray([True, False, True, False]), np.asarray([True, True, False, False])], 0)


@pytest.mark.filterwarnings("ignore:Degrees of freedom")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_reductions(shape: tuple[int, ...], dtype: str) -> None:
    x = (np.arange(np.prod(shape, dtype=int)).reshape(shape) - 3).astype(dtype)
    cases = FLOAT_REDUCTIONS if dtype == "float64" and x.size else REDUCTIONS

    def function(which: int) -> Callable[..., Any]:
        def reduced(x: Any) -> Any:
            found = {}
            for name, case in cases.items():
                for axis in (None, *range(len(shape))):
                    for keep in (False, True):
                        found[f"{name} {axis} {keep}"] = case[which](x, axis=axis, keepdims=keep)
            return found

        return reduced

    check(function, [x], 1e-14)


def test_manipulation() -> None:
    def function(which: int) -> Callable[..., Any]:
        n: Any = (xp, np)[which]
        return lambda x, y, z: {
            "reshape": n.reshape(x, (-1, 6)), "permute": n.permute_dims(x, (2, 0, 1)), "flip": n.flip(x),
            "flip 1": n.flip(x, axis=1), "roll": n.roll(x, 5), "roll axis": n.roll(x, (1, -1), axis=(0, 2)),
            "moveaxis": n.moveaxis(x, 0, -1), "expand": n.expand_dims(x, axis=1), "squeeze": n.squeeze(z, axis=0),
            "concat": n.concat([x, y], axis=1), "concat flat": n.concat([x, y], axis=None),
            "stack": n.stack([x, x], axis=-1), "tile": n.tile(x, (2, 1, 3)), "tile long": n.tile(z, (2, 1, 1, 2)),
            "repeat": n.repeat(x, 2), "repeat axis": n.repeat(x, 3, axis=1), "pad": n.pad(x, ((1, 0), (0, 2), (1, 1))),
            "broadcast": n.broadcast_to(z, (2, 3, 4)), "take": n.take(x, n.asarray([1, 0, 1]), axis=1),
            "tril": n.tril(x), "triu": n.triu(x, k=1), "cumsum": n.cumulative_sum(x, axis=1),
            "repeat counts": n.repeat(x, np.asarray([2, 0, 1]), axis=1),
            "diff": n.diff(x, axis=2), "diff joined": n.diff(x, prepend=y[:, :1, :1] + x[:, :, :1], append=x),
            "T": x.T, "mT": x.mT, "swap": n.swapaxes(x, 0, 2), "sort": n.sort(-x, axis=1),
            "argsort": n.argsort(-x, axis=2), "argmax": n.argmax(x, axis=0), "argmin": n.argmin(x),
            "split": n.split(x, 2, axis=2)[1], "unstack": n.unstack(x, axis=1)[2], "clip": n.clip(x, 3.0, 9.0),
            "meshgrid": n.meshgrid(x[0, 0], y[0, :, 0])[0],
            "along": n.take_along_axis(x, n.argsort(-x, axis=1), axis=1),
            "search": n.searchsorted(x[0, 0], y[0, :, 0], side="right"),
        }  # fmt: skip

    x = np.arange(24.0).reshape(2, 3, 4)
    check(function, [x, x[:, :2] + 1, x[:1]], 0)


def test_creation() -> None:
    def function(which: int) -> Callable[..., Any]:
        n: Any = (xp, np)[which]
        f = "float32"
        return lambda x: {
            "arange": n.arange(5), "arange step": n.arange(7, 1, -2), "arange float": n.arange(0.0, 1.0, 0.3, dtype=f),
            "linspace": n.linspace(0.0, 1.0, 5, dtype=f), "eye": n.eye(3, 4, k=1, dtype=f),
            "zeros": n.zeros((2,), dtype=f),
            "ones": n.ones_like(x), "full": n.full((2, 2), 7), "full_like": n.full_like(x, 2.5),
            "asarray": n.asarray([[1, 2], [3, 4]]),
        }  # fmt: skip

    check(function, [np.zeros((2, 3), np.float32)], 1e-7)


def test_products() -> None:
    def function(which: int) -> Callable[..., Any]:
        n: Any = (xp, np)[which]
        return lambda a, b, v, w: {
            "matmul": n.matmul(a, b), "batch": a[None] @ n.stack([b, b]), "row": v @ a, "column": b @ w,
            "dot": n.vecdot(w, w), "vecdot": n.vecdot(a, a), "tensordot": n.tensordot(a, b, axes=1),
            "pairs": n.tensordot(a, b, axes=([0, 1], [1, 0])), "outer": n.outer(v, w), "mT": n.matrix_transpose(a),
            "einsum": n.einsum("ij,jk->ki", a, b), "trace": n.einsum("ij,ji", a, b),
            "three": n.einsum("i,ij,jk->k", v, a, b),
            "empty": a[:0] @ b, "none": a[:, :0] @ b[:0],
        }  # fmt: skip

    rng = np.random.default_rng(0)
    check(function, [rng.normal(size=s) for s in ((2, 3), (3, 2), (2,), (2,))], 1e-12)


def test_operators_and_their_reflections() -> None:
    def function(which: int) -> Callable[..., Any]:
        return lambda x, i: {
            "a": 1 - x, "b": 2.0 / x, "c": x**2, "d": 2.0**x, "e": -x, "f": abs(-x), "g": x // 2, "h": 7 % x,
            "i": 5 & i,
            "j": i << 2, "k": ~i, "l": x > 1, "m": x >= 1, "n": x == 2, "o": np.ones(3, np.float32) * x,
            "p": np.float32(2) - x, "q": x**0.5, "r": x**3, "s": x @ x, "t": x.astype("int32"), "u": i.astype("bool"),
        }  # fmt: skip

    check(function, [np.asarray([1, 2, 3], np.float32), np.asarray([1, 0, 6], np.int32)], 1e-6)


def test_the_namespace_is_found_from_an_array() -> None:
    def f(x: Any) -> Any:
        n = x.__array_namespace__()
        return n.sin(x) + n.pi

    x = np.ones(3)
    np.testing.assert_allclose(ds.compile(f, cache=False)(x), np.sin(x) + np.pi)
    assert set(xp.__all__) <= set(dir(xp))


def test_outside_of_a_trace_it_computes_at_once() -> None:
    assert isinstance(xp.zeros((2,)), np.ndarray) and xp.zeros((2,)).dtype == np.float32
    np.testing.assert_array_equal(xp.concat([np.ones(2), np.zeros(1)]), [1, 1, 0])


def test_numbers_next_to_others() -> None:
    """Across 0, into subnormals, out to infinity; bit for bit."""
    for dtype in ("float32", "float64"):
        tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
        points = np.asarray([0.0, -0.0, tiny, -tiny, 1.0, -1.0, huge, -huge, np.inf, -np.inf], dtype)
        x, y = (a.reshape(-1) for a in np.meshgrid(points, points))
        result = ds.compile(xp.nextafter, cache=False, threads=1)(x, y)
        integers = f"int{result.dtype.itemsize * 8}"
        with np.errstate(all="ignore"):
            expected = np.nextafter(x, y)
        np.testing.assert_array_equal(result.view(integers), expected.view(integers))


def test_the_sign_of_a_nan() -> None:
    x = np.asarray([np.nan, -np.nan, 0.0, -0.0], np.float32)
    np.testing.assert_array_equal(ds.compile(xp.signbit, cache=False, threads=1)(x), np.signbit(x))
    magnitudes = ds.compile(lambda x: xp.copysign(xp.ones_like(x), x), cache=False, threads=1)(x)
    np.testing.assert_array_equal(magnitudes, np.copysign(np.ones_like(x), x))


def test_shapes_that_depend_on_data() -> None:
    x = np.asarray([[3, 0, 3], [0, 1, 0]])
    for ours, numpys in (
        (xp.nonzero, np.nonzero),
        (xp.unique_all, lambda x: (*np.unique(x, True)[:2], *np.unique(x, False, True, True)[1:])),
        (xp.unique_counts, lambda x: np.unique(x, return_counts=True)),
        (xp.unique_inverse, lambda x: np.unique(x, return_inverse=True)),
        (xp.unique_values, lambda x: (np.unique(x),)),
    ):
        found = ours(x)
        for a, b in zip(found if isinstance(found, tuple) else (found,), numpys(x), strict=True):
            np.testing.assert_array_equal(a, b)
        with pytest.raises(ds.TraceError, match=r"depends on the data of a traced array.*test_namespace\.py"):
            ds.compile(ours, cache=False, threads=1)(x)

    def at_known_places(y: Any) -> Any:
        return y[xp.nonzero(x)]

    np.testing.assert_array_equal(ds.compile(at_known_places, cache=False, threads=1)(x * 2), [6, 6, 2])


def test_arrays_of_others_without_a_copy() -> None:
    x = np.ones(3)
    assert xp.from_dlpack(x).base is not None and np.shares_memory(xp.from_dlpack(x), x)
    assert xp.asarray(x, copy=False) is x and not np.shares_memory(xp.from_dlpack(x, copy=True), x)
    with pytest.raises(ValueError, match="needs a copy"):
        xp.asarray(x, dtype=xp.float32, copy=False)
