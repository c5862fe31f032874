"""Elementary functions against NumPy in higher precision: all exponents, usual arguments, special values."""

from __future__ import annotations

import ctypes
import functools
import math as libm
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ds_compiler.backends.llvm import math
from ds_compiler.backends.llvm.builder import ModuleBuilder, V, vector_of
from ds_compiler.backends.llvm.target import parse_target
from tests.backends.jit import compile_module

Array = np.ndarray[Any, Any]
Emit = Callable[..., V]
ELEMENTS = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat"}
WIDE_ENOUGH = np.finfo(np.longdouble).nmant > 60


def element_of(dtype: np.dtype[Any]) -> str:
    return ELEMENTS.get(dtype.name) or dtype.name.replace("uint", "i").replace("int", "i")


def kernel_text(emit: Emit, operands: int, source: str, result: str, lanes: int) -> str:
    """LLVM text of ``apply(n, out, in...)`` over `n` (a multiple of `lanes`) elements."""
    module = ModuleBuilder()
    names = [f"a{i}" for i in range(operands)]
    fb = module.function("apply", [("i64", "n"), ("ptr", "out"), *(("ptr", a) for a in names)])
    n, out, *inputs = fb.args
    type_ = vector_of(source, lanes)
    with fb.loop(fb.i64(0), n, max(lanes, 1)) as loop:
        values = [fb.load(type_, fb.gep(source, p, loop.index)) for p in inputs]
        fb.store(emit(fb, *values), fb.gep(result, out, loop.index))
    fb.ret()
    fb.finish()
    return module.text()


@functools.cache
def native(emit: Emit, operands: int, source: str, result: str, lanes: int) -> Callable[..., None]:
    text = kernel_text(emit, operands, source, result, lanes)
    return compile_module(text).function("apply", [ctypes.c_int64] + [ctypes.c_void_p] * (operands + 1))


def apply(emit: Emit, *arrays: Array, lanes: int = 8, to: Any = None) -> Array:
    """`emit` on whole arrays, padded to a multiple of the lanes."""
    dtype = arrays[0].dtype
    n = arrays[0].size
    padded = [np.concatenate([a, np.ones(-n % 48, dtype)]) for a in arrays]
    out = np.empty(padded[0].size, dtype if to is None else to)
    run = native(emit, len(arrays), element_of(dtype), element_of(out.dtype), lanes)
    run(out.size, out.ctypes.data, *(p.ctypes.data for p in padded))
    return out[:n]


def every_exponent(dtype: Any, count: int) -> Array:
    """Finite values evenly spread over all bit patterns, both signs, subnormals included."""
    integer, largest = (np.uint32, 0x7F7FFFFF) if dtype == np.float32 else (np.uint64, 0x7FEFFFFFFFFFFFFF)
    steps = np.arange(count // 2, dtype=np.uint64) * np.uint64(largest // (count // 2 - 1))
    positive = steps.astype(integer).view(dtype)
    return np.concatenate([positive, -positive])


def log_uniform(dtype: Any, low: float, high: float, count: int) -> Array:
    """Values of both signs whose logarithms are even between those of the bounds."""
    rng = np.random.default_rng(1)
    magnitude = np.exp(rng.uniform(np.log(low), np.log(high), count))
    return (magnitude * rng.choice([-1.0, 1.0], count)).astype(dtype)


def around_one(dtype: Any, count: int) -> Array:
    return (1 + log_uniform(np.float64, 1e-8, 0.9, count)).astype(dtype)


def ulps(got: Array, want: Array) -> Array:
    """Distance from the exact value in ulps of the result; 0 where correctly rounded, NaN for NaN included."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        distance = np.abs(got.astype(want.dtype) - want) / np.spacing(np.abs(rounded)).astype(want.dtype)
        return np.asarray(np.where(same, 0, np.where(np.isnan(distance), np.inf, distance)), np.float64)


def check(emit: Emit, reference: Callable[..., Array], bound: float, *arrays: Array) -> None:
    wide = np.float64 if arrays[0].dtype == np.float32 else np.longdouble
    with np.errstate(all="ignore"):
        want = reference(*(a.astype(wide) for a in arrays))
    distance = ulps(apply(emit, *arrays), want)
    worst = int(distance.argmax())
    arguments = ", ".join(repr(a[worst]) for a in arrays)
    assert distance[worst] <= bound, f"{emit.__name__}({arguments}): {distance[worst]:.3f} ulp > {bound}"


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, 1) / (1 + e))


def erf(x: Array) -> Array:
    if x.dtype != np.longdouble:
        return np.fromiter(map(libm.erf, x), np.float64, x.size)
    # e^(-x^2) * sum of 2^n x^(2n+1) / (2n+1)!!: all terms have one sign, so nothing cancels.
    z = np.clip(x, -6.5, 6.5)
    total = term = z
    for n in range(1, 160):
        term = term * (2 * z * z / (2 * n + 1))
        total = total + term
    return np.asarray(total * np.exp(-z * z) * 2 / np.sqrt(4 * np.arctan(np.longdouble(1))))


# Name, reference, bound for float, bound for double: the ones the docstrings state.
FUNCTIONS: list[tuple[str, Callable[..., Array], float, float]] = [
    ("exp", np.exp, 1.0, 1.0),
    ("expm1", np.expm1, 1.5, 2.0),
    ("sigmoid", sigmoid, 2.5, 2.5),
    ("tanh", np.tanh, 2.5, 2.5),
    ("erf", erf, 1.25, 1.5),
    ("log", np.log, 1.0, 1.0),
    ("log2", np.log2, 1.25, 1.25),
    ("log1p", np.log1p, 1.5, 1.5),
    ("sin", np.sin, 1.75, 2.5),
    ("cos", np.cos, 1.75, 2.5),
    ("tan", np.tan, 0.51, 4.0),
    ("asin", np.arcsin, 0.51, 2.0),
    ("acos", np.arccos, 0.51, 2.0),
    ("atan", np.arctan, 0.51, 2.0),
    ("sinh", np.sinh, 0.51, 2.5),
    ("cosh", np.cosh, 0.51, 1.5),
    ("asinh", np.arcsinh, 0.51, 2.0),
    ("acosh", np.arccosh, 0.51, 2.5),
    ("atanh", np.arctanh, 0.51, 2.0),
    ("sqrt", np.sqrt, 0.5, 0.501),
    ("reciprocal", np.reciprocal, 0.5, 0.501),
    ("rsqrt", lambda x: 1 / np.sqrt(x), 1.5, 1.5),
    ("floor", np.floor, 0, 0),
    ("ceil", np.ceil, 0, 0),
    ("trunc", np.trunc, 0, 0),
    ("round_half_even", np.rint, 0, 0),
]
NAMES = [f[0] for f in FUNCTIONS]


@pytest.mark.parametrize(("name", "reference", "bound", "_double"), FUNCTIONS, ids=NAMES)
def test_float32(name: str, reference: Callable[..., Array], bound: float, _double: float) -> None:
    function = getattr(math, name)
    check(function, reference, bound, every_exponent(np.float32, 1_000_000))
    check(function, reference, bound, log_uniform(np.float32, 1e-5, 110, 250_000))
    check(function, reference, bound, around_one(np.float32, 100_000))


@pytest.mark.skipif(not WIDE_ENOUGH, reason="NumPy's long double is no wider than double here")
@pytest.mark.parametrize(("name", "reference", "_float", "bound"), FUNCTIONS, ids=NAMES)
def test_float64(name: str, reference: Callable[..., Array], _float: float, bound: float) -> None:
    function = getattr(math, name)
    check(function, reference, bound, every_exponent(np.float64, 50_000))
    check(function, reference, bound, log_uniform(np.float64, 1e-9, 750, 100_000))
    check(function, reference, bound, around_one(np.float64, 50_000))


@pytest.mark.parametrize(("name", "bound"), [("sin", 1.75), ("cos", 1.75), ("tan", 0.51)])
def test_angles_next_to_multiples_of_a_quarter_turn(name: str, bound: float) -> None:
    quarters = np.concatenate([np.arange(70_000), 2.0 ** np.arange(17, 127)]) * (np.pi / 2)
    check(getattr(math, name), getattr(np, name), bound, quarters.astype(np.float32))


def test_worst_case_of_the_angle_reduction() -> None:
    # The double closest to a multiple of pi/2: cosine 4.7e-19 (Muller, Elementary Functions, 2016, section 11.3).
    x = np.full(8, 6381956970095103.0 * 2.0**797)
    assert apply(math.cos, x)[0] == pytest.approx(-4.68716592425462761112e-19, rel=1e-15)
    assert abs(apply(math.sin, x)[0]) == 1.0


SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, -1e-45, 1e-40, -1e-40, 5e-324, 2.0, -2.0, 3e38, -3e38]
SPECIAL_POWERS = [
    *SPECIAL, 3.0, -3.0, 0.5, -0.5, -2.5, 16777217.0, 1e10, -1e10 + 1, 9007199254740991.0, 0.99999994, -104.0, 89.0,
]  # fmt: skip


def assert_same_special(got: Array, want: Array, arguments: list[tuple[Any, ...]]) -> None:
    """Equal to two ulps, zeros and infinities exactly, with their signs."""
    with np.errstate(all="ignore"):
        close = (got == want) | (np.abs(got - want) <= 2 * np.spacing(np.abs(want)))
    same = (np.isnan(got) & np.isnan(want)) | (close & (np.signbit(got) == np.signbit(want)))
    wrong = [(a, g, w) for a, g, w, ok in zip(arguments, got, want, same) if not ok]
    assert not wrong, wrong


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lanes", [0, 2, 3, 8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, lanes: int, dtype: Any) -> None:
    x = np.array(SPECIAL).astype(dtype)
    reference = {n: r for n, r, *_ in FUNCTIONS}[name]
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64)).astype(dtype)
    assert_same_special(apply(getattr(math, name), x, lanes=lanes), want, list(zip(x)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "reference"), [("pow", np.power), ("atan2", np.arctan2)])
def test_special_pairs(name: str, reference: Callable[..., Array], dtype: Any) -> None:
    grid = np.meshgrid(np.array(SPECIAL_POWERS).astype(dtype), np.array(SPECIAL_POWERS).astype(dtype))
    x, y = (a.ravel() for a in grid)
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.longdouble), y.astype(np.longdouble)).astype(dtype)
    assert_same_special(apply(getattr(math, name), x, y), want, list(zip(x, y)))


@pytest.mark.parametrize(
    ("dtype", "limits", "bound"),
    [
        (np.float32, (-104, 89), 0.52),
        pytest.param(
            np.float64, (-745, 710), 1.5, marks=pytest.mark.skipif(not WIDE_ENOUGH, reason="long double is double")
        ),
    ],
)
def test_pow(dtype: Any, limits: tuple[float, float], bound: float) -> None:
    rng = np.random.default_rng(2)
    count = 200_000 if dtype == np.float32 else 60_000
    wide = np.exp(rng.uniform(max(limits[0], -708), limits[1] - 1, count))
    near = np.abs(around_one(np.float64, count))
    for base in (wide, near):
        with np.errstate(divide="ignore"):
            y = np.clip(rng.uniform(*limits, count) / np.log(base.astype(dtype).astype(np.float64)), -1e30, 1e30)
        check(math.pow, np.power, bound, base.astype(dtype), y.astype(dtype))
    whole = rng.integers(-40, 40, count).astype(dtype)
    check(math.pow, np.power, bound, rng.normal(size=count).astype(dtype) * dtype(3), whole)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 0.51), (np.float64, 2.5)])
def test_atan2(dtype: Any, bound: float) -> None:
    if dtype == np.float64 and not WIDE_ENOUGH:
        pytest.skip("long double is double")
    y, x = log_uniform(dtype, 1e-6, 1e6, 150_000), log_uniform(dtype, 1e-6, 1e6, 150_000)[::-1].copy()
    check(math.atan2, np.arctan2, bound, y, x)


def test_gelu() -> None:
    for dtype in (np.float32, np.float64):
        x = np.concatenate([log_uniform(dtype, 1e-6, 40, 200_000), np.array([0.0, np.inf], dtype)])
        wide = x.astype(np.float64)
        with np.errstate(invalid="ignore"):
            want = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
            error = np.abs(apply(math.gelu_erf, x) - want)[:-1] / np.maximum(1, np.abs(wide[:-1]))
        assert error.max() <= 2 * np.finfo(dtype).eps / 2
        assert apply(math.gelu_erf, x)[-1] == np.inf


def test_pow_constant() -> None:
    x = log_uniform(np.float32, 1e-3, 1e3, 20_000)
    for exponent, bound in ((0, 0), (1, 0), (2, 0.5), (3, 2.0), (4, 3.0), (-1, 0.5), (-2, 1.5)):
        emit = functools.partial(lambda fb, v, e: math.pow_constant(fb, v, e), e=exponent)
        emit.__name__ = f"pow_constant_{exponent}"  # type: ignore[attr-defined]
        check(emit, lambda v, e=exponent: v**e, bound, x)
    with pytest.raises(ValueError, match="negative exponent -2"):
        math.pow_constant(ModuleBuilder().function("f", [("i32", "x")]), V("i32", "%x"), -2)


def test_rejects_other_types() -> None:
    fb = ModuleBuilder().function("f", [("half", "x")])
    for name in ("exp", "sin", "tan", "log"):
        with pytest.raises(TypeError, match="half"):
            getattr(math, name)(fb, fb.args[0])


# -- integers and 16-bit floats ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.uint32, np.uint64])
def test_integer_division(dtype: Any) -> None:
    info, rng = np.iinfo(dtype), np.random.default_rng(3)
    edge = np.array([info.min, info.min + 1, info.max, 0, 1, 2, 3, 7, *([-1, -2, -3, -7] if info.min else [])], dtype)
    a, b = (g.ravel() for g in np.meshgrid(edge, edge))
    more = rng.integers(info.min, info.max, 1000, dtype), rng.integers(max(info.min, -9), 9, 1000).astype(dtype)
    a, b = np.concatenate([a, more[0]]), np.concatenate([b, more[1]])
    signed = info.min < 0
    with np.errstate(all="ignore"):
        wants = {"floor_div": a // b, "floor_mod": a % b, "trunc_mod": np.fmod(a, b)}
        wants["trunc_div"] = np.where(b == 0, 0, (a - wants["trunc_mod"]) // b).astype(dtype)
    for name, want in wants.items():
        emit = functools.partial(getattr(math, name), signed=signed)
        np.testing.assert_array_equal(apply(emit, a, b, lanes=4), want, err_msg=name)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integer_power(dtype: Any) -> None:
    x, y = (g.ravel() for g in np.meshgrid(np.arange(-9, 10, dtype=dtype), np.arange(0, 70, dtype=dtype)))
    np.testing.assert_array_equal(apply(math.pow_integer, x, y, lanes=4), x**y)
    base, exponent = np.array([1, -1, -1, 2, 0], dtype), np.array([-3, -3, -4, -1, -1], dtype)
    np.testing.assert_array_equal(apply(math.pow_integer, base, exponent), [1, -1, 1, 0, 0])


@pytest.mark.parametrize("f16c", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_to_float(dtype: Any, f16c: bool) -> None:
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    got = apply(functools.partial(math.to_f32, f16c=f16c), x, to=np.float32)
    want = x.astype(np.float32)
    np.testing.assert_array_equal(got.view(np.uint32)[~np.isnan(want)], want.view(np.uint32)[~np.isnan(want)])
    assert np.isnan(got[np.isnan(want)]).all()


@pytest.mark.parametrize("f16c", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_float_to_half(dtype: Any, f16c: bool) -> None:
    finite = np.arange(0x7C00 if dtype == np.float16 else 0x7F80, dtype=np.uint16).view(dtype).astype(np.float32)
    ties = (finite[1:].astype(np.float64) + finite[:-1]) / 2
    x = np.concatenate([finite, ties, np.nextafter(ties.astype(np.float32), np.float32(0)), [65520, np.inf, np.nan]])
    x = np.concatenate([x, -x, every_exponent(np.float32, 100_000)]).astype(np.float32)
    with np.errstate(over="ignore"):
        want = x.astype(dtype)
    got = apply(functools.partial(math.from_f32, element=ELEMENTS[np.dtype(dtype).name], f16c=f16c), x, to=dtype)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got.view(np.uint16)[number], want.view(np.uint16)[number])
    assert np.isnan(got[~number].astype(np.float32)).all()


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sin", "log", "pow", "to_f32"])
def test_no_library_calls(name: str) -> None:
    """On a target with FMA and F16C nothing leaves the module."""
    source = "half" if name == "to_f32" else "float"
    text = kernel_text(getattr(math, name), 2 if name == "pow" else 1, source, "float", 8)
    assembly = compile_module(text, parse_target("x86-64-v3")).assembly()
    called = re.findall(r"\bcall\w*\s+(\S+)", assembly)
    assert all(c.strip('"').startswith("math.") for c in called), called
