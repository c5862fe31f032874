"""Elementwise operations against Python's own numbers, one element at a time."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_compiler.ir import CompileError, DType, dtypes
from ds_compiler.ops import Binary, Bitcast, Cast, Compare, Predicate, Select, Unary
from ds_compiler.ops.elementwise import BINARY, COMPARE, PREDICATE, UNARY
from tests.ir.random_modules import elements
from tests.ops.running import ALL, FLOATS, INTEGERS, NUMBERS, PROPERTY, Array, arrays, run, same, shapes, value

INF, NAN = math.inf, math.nan


def wrapped(number: int, dtype: DType) -> int:
    """`number` modulo 2^bits, as the type reads it."""
    number &= (1 << dtype.bits) - 1
    return number - (1 << dtype.bits) if dtype.kind == "i" and number >> (dtype.bits - 1) else number


def tolerance(dtype: DType) -> float:
    """Two units in the last place, of f32 where the type is computed there."""
    own = float(ml_dtypes.finfo(dtype.numpy).eps)
    return 2 * own if dtype.bits >= 32 else own + 2.0**-21


def close(got: Array, wanted: list[float], dtype: DType, ulps: int = 2) -> None:
    expected = np.array(wanted, np.float64).reshape(got.shape)
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32 if dtype.bits < 32 else dtype.numpy).astype(dtype.numpy)
    smallest = float(ml_dtypes.finfo(dtype.numpy).smallest_subnormal)
    np.testing.assert_allclose(
        got.astype(np.float64), rounded.astype(np.float64), rtol=ulps / 2 * tolerance(dtype), atol=2 * smallest
    )


def guarded(function: Callable[..., float]) -> Callable[..., float]:
    """Python raises where IEEE arithmetic has a value."""

    def call(*x: float) -> float:
        if any(math.isnan(v) for v in x):
            return NAN
        try:
            return function(*x)
        except (ValueError, ZeroDivisionError):
            return NAN
        except OverflowError:
            return INF

    return call


def rounding(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: float(function(x)) if math.isfinite(x) else x


def inverse(x: float) -> float:
    return 1 / x if x else math.copysign(INF, x)


def logarithm(x: float) -> float:
    return math.log(x) if x else -INF


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def atanh(x: float) -> float:
    return math.copysign(INF, x) if abs(x) == 1 else math.atanh(x)


def sinh(x: float) -> float:
    return math.copysign(INF, x) if abs(x) > 711 else math.sinh(x)


FLOAT_UNARY: dict[str, Callable[[float], float]] = {
    "neg": operator.neg, "abs": abs, "sign": lambda x: (x > 0) - (x < 0),
    "floor": rounding(math.floor), "ceil": rounding(math.ceil), "round": rounding(round), "trunc": rounding(math.trunc),
    "sqrt": math.sqrt, "rsqrt": lambda x: inverse(math.sqrt(x)), "reciprocal": inverse,
    "exp": math.exp, "expm1": math.expm1, "log": logarithm, "log1p": lambda x: -INF if x == -1 else math.log1p(x),
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "asin": math.asin, "acos": math.acos, "atan": math.atan,
    "sinh": sinh, "cosh": math.cosh, "tanh": math.tanh, "asinh": math.asinh, "acosh": math.acosh, "atanh": atanh,
    "erf": math.erf, "sigmoid": sigmoid,
}  # fmt: skip
INTEGER_UNARY: dict[str, Callable[[int], int]] = {
    "neg": operator.neg, "abs": abs, "sign": lambda x: (x > 0) - (x < 0), "not": operator.invert,
}  # fmt: skip


def numbers(x: Array) -> list[Any]:
    """Elements as Python numbers, in order."""
    convert = int if dtypes.from_numpy(x.dtype).kind in "iub" else float
    return [convert(e) for e in x.reshape(-1)]


def test_every_kind_has_a_formula() -> None:
    assert set(FLOAT_UNARY) | set(INTEGER_UNARY) == set(UNARY)
    assert set(FLOAT_BINARY) | set(INTEGER_BINARY) == set(BINARY)
    assert set(RELATIONS) == set(COMPARE)
    assert set(PREDICATES) == set(PREDICATE)


@pytest.mark.parametrize("kind", FLOAT_UNARY)
@PROPERTY
@given(data=st.data())
def test_unary_on_floats(kind: str, data: st.DataObject) -> None:
    x = data.draw(arrays(FLOATS))
    dtype = dtypes.from_numpy(x.dtype)
    expected = [guarded(FLOAT_UNARY[kind])(v) for v in numbers(x)]
    close(run(lambda v: Unary(v, kind), x), expected, dtype, ulps=8)


@pytest.mark.parametrize("kind", INTEGER_UNARY)
@PROPERTY
@given(data=st.data())
def test_unary_on_integers(kind: str, data: st.DataObject) -> None:
    allowed = [d for d in INTEGERS if d.kind in UNARY[kind].accepts]
    x = data.draw(arrays(allowed))
    dtype = dtypes.from_numpy(x.dtype)
    expected = [wrapped(INTEGER_UNARY[kind](v), dtype) for v in numbers(x)]
    assert numbers(run(lambda v: Unary(v, kind), x)) == expected


def test_not_on_bool() -> None:
    assert run(lambda v: Unary(v, "not"), np.array([True, False])).tolist() == [False, True]


# -- two operands -----------------------------------------------------------------------------
def quotient(a: float, b: float) -> float:
    if b:
        return a / b
    return NAN if a == 0 else math.copysign(INF, a) * math.copysign(1, b)


def power(a: float, b: float) -> float:
    odd = b == math.trunc(b) and abs(b) < 2**53 and int(b) % 2 == 1 if math.isfinite(b) else False
    if a == 0 and b < 0:
        return math.copysign(INF, a) if odd else INF
    try:
        return math.pow(a, b)
    except OverflowError:
        return -INF if a < 0 and odd else INF


def remainder(a: float, b: float) -> float:
    return math.fmod(a, b)


FLOAT_BINARY: dict[str, Callable[[float, float], float]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": quotient, "mod": operator.mod,
    "fmod": remainder, "pow": power, "max": max, "min": min, "atan2": math.atan2,
}  # fmt: skip


def truncated(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def integer_power(a: int, b: int) -> int:
    if b >= 0:
        return int(a**b)
    return 1 if a == 1 else (-1 if b % 2 else 1) if a == -1 else 0


INTEGER_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": truncated,
    "mod": lambda a, b: a % b if b else 0, "fmod": lambda a, b: a - b * truncated(a, b) if b else 0,
    "pow": integer_power, "max": max, "min": min, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
    "shl": operator.lshift, "shr": operator.rshift,
}  # fmt: skip


@st.composite
def pairs(draw: st.DrawFn, allowed: list[DType]) -> tuple[Array, Array]:
    dtype, shape = draw(st.sampled_from(allowed)), draw(shapes())
    return draw(elements(dtype, shape)), draw(elements(dtype, shape))


@pytest.mark.parametrize("kind", FLOAT_BINARY)
@PROPERTY
@given(data=st.data())
def test_binary_on_floats(kind: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs(FLOATS))
    dtype = dtypes.from_numpy(a.dtype)
    expected = []
    for x, y in zip(numbers(a), numbers(b), strict=True):
        exempt = kind == "pow" and (x == 1 or y == 0)  # 1 for NaN too, as IEEE 754 has it
        expected.append(1.0 if exempt else guarded(FLOAT_BINARY[kind])(x, y))
    close(run(lambda v, w: Binary(v, w, kind), a, b), expected, dtype, ulps=8)


@pytest.mark.parametrize("kind", INTEGER_BINARY)
@PROPERTY
@given(data=st.data())
def test_binary_on_integers(kind: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs([d for d in INTEGERS if d.kind in BINARY[kind].accepts]))
    dtype = dtypes.from_numpy(a.dtype)
    if kind in ("shl", "shr"):
        b = np.array([n % dtype.bits for n in numbers(b)]).reshape(b.shape).astype(b.dtype)
    if kind == "pow":
        b = np.array([n % 9 - 2 * (dtype.kind == "i") for n in numbers(b)]).reshape(b.shape).astype(b.dtype)
    expected = [wrapped(INTEGER_BINARY[kind](x, y), dtype) for x, y in zip(numbers(a), numbers(b), strict=True)]
    assert numbers(run(lambda v, w: Binary(v, w, kind), a, b)) == expected


@pytest.mark.parametrize("kind", [k for k, rule in BINARY.items() if "b" in rule.accepts])
def test_binary_on_bool(kind: str) -> None:
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    expected = [bool(INTEGER_BINARY[kind](int(x), int(y))) for x, y in zip(a, b, strict=True)]
    assert run(lambda v, w: Binary(v, w, kind), a, b).tolist() == expected


RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


@pytest.mark.parametrize("kind", RELATIONS)
@PROPERTY
@given(data=st.data())
def test_compare(kind: str, data: st.DataObject) -> None:
    a, b = data.draw(pairs([d for d in ALL if d.kind in COMPARE[kind].accepts]))
    if a.dtype.kind == "O":
        expected = [RELATIONS[kind](x, y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True)]
    else:
        expected = [RELATIONS[kind](x, y) for x, y in zip(numbers(a), numbers(b), strict=True)]
    assert run(lambda v, w: Compare(v, w, kind), a, b).reshape(-1).tolist() == expected


PREDICATES: dict[str, Callable[[float], bool]] = {
    "isnan": math.isnan, "isinf": math.isinf, "isfinite": math.isfinite,
}  # fmt: skip


@pytest.mark.parametrize("kind", PREDICATES)
@PROPERTY
@given(x=arrays(FLOATS))
def test_predicate(kind: str, x: Array) -> None:
    got = run(lambda v: Predicate(v, kind), x)
    assert got.reshape(-1).tolist() == [PREDICATES[kind](v) for v in numbers(x)]


@PROPERTY
@given(data=st.data())
def test_select(data: st.DataObject) -> None:
    a, b = data.draw(pairs(ALL))
    condition = data.draw(elements(dtypes.bool_, a.shape))
    expected = a.copy()
    for at in np.ndindex(*a.shape):
        expected[at] = a[at] if condition[at] else b[at]
    same(run(Select, condition, a, b), expected)


# -- cast -------------------------------------------------------------------------------------
@PROPERTY
@given(x=arrays(FLOATS), to=st.sampled_from(INTEGERS))
def test_cast_float_to_integer_saturates(x: Array, to: DType) -> None:
    low, high = int(ml_dtypes.iinfo(to.numpy).min), int(ml_dtypes.iinfo(to.numpy).max)
    expected = []
    for v in numbers(x):
        whole = 0 if math.isnan(v) else high if v == INF else low if v == -INF else math.trunc(v)
        expected.append(min(max(whole, low), high))
    assert numbers(run(lambda v: Cast(v, to), x)) == expected


@PROPERTY
@given(x=arrays([*INTEGERS, dtypes.bool_]), to=st.sampled_from(INTEGERS))
def test_cast_integer_to_integer_wraps(x: Array, to: DType) -> None:
    assert numbers(run(lambda v: Cast(v, to), x)) == [wrapped(v, to) for v in numbers(x)]


@PROPERTY
@given(x=arrays([*NUMBERS, dtypes.bool_]))
def test_cast_to_bool(x: Array) -> None:
    got = run(lambda v: Cast(v, dtypes.bool_), x)
    assert got.reshape(-1).tolist() == [v != 0 for v in numbers(x)]


@PROPERTY
@given(x=arrays([dtypes.f32]))
def test_bitcast_is_the_ieee_encoding(x: Array) -> None:
    got = run(lambda v: Bitcast(v, dtypes.dtype("u32")), x)
    assert numbers(got) == list(struct.unpack(f"<{x.size}I", x.tobytes()))
    back = run(lambda v: Bitcast(v, dtypes.f32), got)
    assert (back.dtype, back.shape, back.tobytes()) == (x.dtype, x.shape, x.tobytes())


def test_bitcast_keeps_the_width() -> None:
    with pytest.raises(CompileError, match="the bits of f32 are no i64"):
        Bitcast(value("2 f32"), dtypes.i64)


NARROW = [dtypes.f16, dtypes.bf16]
TABLES = {d: np.arange(2**16, dtype=np.uint16).view(d.numpy).astype(np.float64) for d in NARROW}


@pytest.mark.parametrize("to", NARROW, ids=str)
@PROPERTY
@given(x=arrays([dtypes.f32, dtypes.f64]))
def test_cast_to_a_narrower_float_rounds_to_nearest_even(to: DType, x: Array) -> None:
    with np.errstate(all="ignore"):
        check_nearest(run(lambda v: Cast(v, to), x), x, to)


@pytest.mark.parametrize("to", NARROW, ids=str)
def test_rounding_happens_once(to: DType) -> None:
    """Just above a tie: rounding to f32 first would make it one."""
    x = np.array([(1 + 2.0 ** -(8 if to == dtypes.bf16 else 11)) + 2.0**-40])
    check_nearest(run(lambda v: Cast(v, to), x), x, to)


def check_nearest(got: Array, x: Array, to: DType) -> None:
    table = TABLES[to]
    finite = table[np.isfinite(table)]
    for g, v in zip(got.reshape(-1), x.reshape(-1).astype(np.float64), strict=True):
        if not math.isfinite(v):
            assert math.isnan(g) if math.isnan(v) else float(g) == v
        elif math.isfinite(float(g)):
            nearest = np.min(np.abs(finite - v))
            assert abs(float(g) - v) == nearest
            if np.unique(finite[np.abs(finite - v) == nearest]).size == 2:
                assert int(g.view(np.uint16)) % 2 == 0
        else:
            assert abs(v) > finite.max()


@PROPERTY
@given(x=arrays([d for d in FLOATS if d.bits < 64]))
def test_cast_to_a_wider_float_is_exact(x: Array) -> None:
    same(run(lambda v: Cast(v, dtypes.f64), x), np.array(numbers(x), np.float64).reshape(x.shape))


# -- type rules -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unary(value("4 i32"), "exp"), "exp: does not take element type i32"),
        (lambda: Unary(value("4 u8"), "neg"), "neg: does not take element type u8"),
        (lambda: Unary(value("4 f32"), "not"), "not: does not take element type f32"),
        (lambda: Unary(value("4 f32"), "sqr"), "sqr: unknown kind 'sqr'"),
        (lambda: Binary(value("4 f32"), value("4 f64"), "add"), "add: operand 1 is tensor<4xf64>, operand 0 is"),
        (lambda: Binary(value("4 f32"), value("1 f32"), "add"), r"add: operand 1 is tensor<1xf32>"),
        (lambda: Binary(value("n f32"), value("m f32"), "add"), r"add: operand 1 is tensor<m x f32>"),
        (lambda: Binary(value("4 f32"), value("4 f32"), "shl"), "shl: does not take element type f32"),
        (lambda: Binary(value("str"), value("str"), "add"), "add: does not take element type str"),
        (lambda: Compare(value("str"), value("str"), "lt"), "lt: does not take element type str"),
        (lambda: Predicate(value("i8"), "isnan"), "isnan: does not take element type i8"),
        (lambda: Select(value("4 bool"), value("4 f32"), value("4 f64")), "select: on_false is tensor<4xf64>"),
        (lambda: Select(value("4 i8"), value("4 f32"), value("4 f32")), "select: condition is tensor<4xi8>, expected"),
        (lambda: Select(value("bool"), value("4 f32"), value("4 f32")), "select: condition is tensor<bool>, expected"),
        (lambda: Cast(value("str"), dtypes.f32), "cast: strings are not converted"),
        (lambda: Cast(value("f32"), dtypes.dtype("str")), "cast: strings are not converted"),
    ],
)
def test_type_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


def test_costs() -> None:
    exp = Unary(value("n 4 f32"), "exp").cost()
    assert [str(c) for c in (exp.flops, exp.read, exp.written)] == ["40*n", "16*n", "16*n"]
    x = value("8 f64")
    assert Binary(x, x, "mul").cost().read == 64  # one operand twice is read once
