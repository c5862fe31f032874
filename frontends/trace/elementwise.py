"""Functions of each element (array API standard, "Element-wise Functions")."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, dtype_of, read, together, wrap
from ds_compiler.frontends.trace.dtypes import DEFAULT_FLOAT, name_of
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import bool_, i16, i32, i64
from ds_compiler.ops import Bitcast, Predicate

_SIGNED = {16: i16, 32: i32, 64: i64}
_KINDS = {
    "f": "floating-point",
    "fi": "signed",
    "fiu": "numeric",
    "iu": "integer",
    "iub": "integer or bool",
    "b": "bool",
}


def _check(name: str, value: Value, kinds: str) -> Value:
    dtype = value.type.dtype
    if dtype.kind not in kinds:
        raise located(f"{name}: needs {_KINDS[kinds]} arrays, got {name_of(dtype)}", help="convert with .astype()")
    return value


def _one(name: str, compute: Callable[[Value], Value], kinds: str, doc: str) -> Callable[[ArrayLike], TracedArray]:
    def function(x: ArrayLike, /) -> TracedArray:
        (value,) = together(x)
        return wrap(compute(_check(name, value, kinds)))

    named: Callable[[ArrayLike], TracedArray] = _named(function, name, doc)
    return named


def _two(
    name: str, compute: Callable[[Value, Value], Value], kinds: str, doc: str
) -> Callable[[ArrayLike, ArrayLike], TracedArray]:
    def function(x1: ArrayLike, x2: ArrayLike, /) -> TracedArray:
        a, b = compose.aligned(*together(x1, x2))
        _check(name, a, kinds)
        return wrap(compute(a, b))

    named: Callable[[ArrayLike, ArrayLike], TracedArray] = _named(function, name, doc)
    return named


def _named(function: Any, name: str, doc: str) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return public(function)


def _kind(kind: str) -> Callable[[Value], Value]:
    return lambda v: compose.unary(kind, v)


def _pair(kind: str) -> Callable[[Value, Value], Value]:
    return lambda a, b: compose.binary(kind, a, b)


def _relation(kind: str) -> Callable[[Value, Value], Value]:
    return lambda a, b: compose.compare(kind, a, b)


def _float(name: str, kind: str, doc: str) -> Callable[[ArrayLike], TracedArray]:
    return _one(name, _kind(kind), "f", doc)


def _rounding(kind: str) -> Callable[[Value], Value]:
    """Integers stay as they are."""
    return lambda v: compose.unary(kind, v) if v.type.dtype.is_float else v


def _predicate(kind: str) -> Callable[[Value], Value]:
    def compute(v: Value) -> Value:
        if v.type.dtype.is_float:
            return current().emit(Predicate(v, kind))
        return compose.full(kind == "isfinite", v.type.shape, bool_)

    return compute


def _negative(v: Value) -> Value:
    if v.type.dtype.kind == "u":
        return compose.binary("sub", compose.full_like(0, v), v)
    return compose.unary("neg", v)


def _floor_divide(a: Value, b: Value) -> Value:
    if a.type.dtype.is_integer:
        return compose.binary("div", compose.binary("sub", a, compose.binary("mod", a, b)), b)
    # C's remainder is exact; what its sign leaves to do is a step down. (Python's own float division does the same.)
    rest = compose.binary("fmod", a, b)
    quotient = compose.binary("div", compose.binary("sub", a, rest), b)
    signs = compose.compare("ne", compose.compare("lt", rest, 0.0), compose.compare("lt", b, 0.0))
    down = compose.binary("and", signs, compose.compare("ne", rest, 0.0))
    quotient = compose.select(down, compose.binary("sub", quotient, 1.0), quotient)
    low = compose.unary("floor", quotient)
    near = compose.compare("gt", compose.binary("sub", quotient, low), 0.5)
    result = compose.select(near, compose.binary("add", low, 1.0), low)
    plain = compose.binary("div", a, b)
    zero = compose.compare("eq", quotient, 0.0)
    result = compose.select(zero, _copysign(compose.full_like(0.0, a), plain), result)
    return compose.select(compose.compare("eq", b, 0.0), plain, result)


def _divide(a: Value, b: Value) -> Value:
    if not a.type.dtype.is_float:
        a, b = compose.cast(a, DEFAULT_FLOAT), compose.cast(b, DEFAULT_FLOAT)
    return compose.binary("div", a, b)


def _bits(v: Value) -> Value:
    """The bits of floating-point numbers as signed integers."""
    return current().emit(Bitcast(v, _SIGNED[v.type.dtype.bits]))


def _signbit(v: Value) -> Value:
    return compose.compare("lt", _bits(v), 0)


def _nextafter(a: Value, b: Value) -> Value:
    """The bits of numbers of one sign are in the order of the numbers: the neighbour's differ by 1."""
    bits, zero = _bits(a), compose.compare("eq", a, 0.0)
    away = compose.compare("eq", compose.compare("gt", b, a), compose.compare("gt", a, 0.0))
    step = compose.select(away, compose.full_like(1, bits), compose.full_like(-1, bits))
    near = current().emit(Bitcast(compose.binary("add", bits, step), a.type.dtype))
    least = current().emit(Bitcast(compose.full_like(1, bits), a.type.dtype))
    near = compose.select(zero, _copysign(least, b), near)
    near = compose.select(compose.compare("eq", a, b), b, near)
    unordered = compose.binary("or", *(current().emit(Predicate(v, "isnan")) for v in (a, b)))
    return compose.select(unordered, compose.binary("add", a, b), near)


def _copysign(a: Value, b: Value) -> Value:
    magnitude = compose.unary("abs", a)
    return compose.select(_signbit(b), compose.unary("neg", magnitude), magnitude)


def _hypot(a: Value, b: Value) -> Value:
    a, b = compose.unary("abs", a), compose.unary("abs", b)
    large, small = compose.binary("max", a, b), compose.binary("min", a, b)
    ratio = compose.binary("div", small, large)
    result = compose.binary(
        "mul", large, compose.unary("sqrt", compose.binary("add", compose.binary("mul", ratio, ratio), 1.0))
    )
    result = compose.select(compose.compare("eq", large, 0.0), large, result)
    endless = compose.binary("or", *(current().emit(Predicate(v, "isinf")) for v in (a, b)))
    return compose.select(endless, compose.full_like(math.inf, a), result)


def _logaddexp(a: Value, b: Value) -> Value:
    large, small = compose.binary("max", a, b), compose.binary("min", a, b)
    gap = compose.binary("sub", small, large)
    result = compose.binary("add", large, compose.unary("log1p", compose.unary("exp", gap)))
    same = compose.compare("eq", a, b)  # covers equal infinities, whose difference is NaN
    return compose.select(same, compose.binary("add", a, math.log(2.0)), result)


def _logical(kind: str) -> Callable[[Value, Value], Value]:
    return lambda a, b: compose.binary(kind, compose.cast(a, bool_), compose.cast(b, bool_))


abs = _one("abs", lambda v: compose.unary("abs", v), "fiu", "The magnitude of each element.")
acos = _float("acos", "acos", "Arc cosine.")
acosh = _float("acosh", "acosh", "Inverse hyperbolic cosine.")
add = _two("add", _pair("add"), "fiu", "x1 + x2.")
asin = _float("asin", "asin", "Arc sine.")
asinh = _float("asinh", "asinh", "Inverse hyperbolic sine.")
atan = _float("atan", "atan", "Arc tangent.")
atan2 = _two("atan2", _pair("atan2"), "f", "Angle of the point (x2, x1).")
atanh = _float("atanh", "atanh", "Inverse hyperbolic tangent.")
bitwise_and = _two("bitwise_and", _pair("and"), "iub", "x1 & x2.")
bitwise_left_shift = _two("bitwise_left_shift", _pair("shl"), "iu", "x1 << x2.")
bitwise_invert = _one("bitwise_invert", _kind("not"), "iub", "~x.")
bitwise_or = _two("bitwise_or", _pair("or"), "iub", "x1 | x2.")
bitwise_right_shift = _two("bitwise_right_shift", _pair("shr"), "iu", "x1 >> x2.")
bitwise_xor = _two("bitwise_xor", _pair("xor"), "iub", "x1 ^ x2.")
ceil = _one("ceil", _rounding("ceil"), "fiu", "Rounded up.")
copysign = _two("copysign", _copysign, "f", "Magnitude of x1, sign of x2.")
conj = _one("conj", lambda v: v, "fiu", "Complex conjugate: x itself, since there are no complex element types.")
cos = _float("cos", "cos", "Cosine.")
cosh = _float("cosh", "cosh", "Hyperbolic cosine.")
divide = _two("divide", _divide, "fiu", "x1 / x2; of integers in the default floating-point type.")
erf = _float("erf", "erf", "The error function (an extension of the standard).")
exp = _float("exp", "exp", "e to the power of each element.")
expm1 = _float("expm1", "expm1", "exp(x) - 1, exact near 0.")
floor = _one("floor", _rounding("floor"), "fiu", "Rounded down.")
floor_divide = _two("floor_divide", _floor_divide, "fiu", "x1 // x2, rounded down (integers: 0 where x2 is 0).")
hypot = _two("hypot", _hypot, "f", "sqrt(x1*x1 + x2*x2) without overflow.")
imag = _one("imag", lambda v: compose.full_like(0, v), "fiu", "Imaginary part: 0, as there are no complex types.")
isfinite = _one("isfinite", _predicate("isfinite"), "fiu", "Whether neither infinite nor NaN.")
isinf = _one("isinf", _predicate("isinf"), "fiu", "Whether infinite.")
isnan = _one("isnan", _predicate("isnan"), "fiu", "Whether NaN.")
log = _float("log", "log", "Natural logarithm.")
log1p = _float("log1p", "log1p", "log(1 + x), exact near 0.")
log2 = _one("log2", lambda v: compose.binary("mul", compose.unary("log", v), 1 / math.log(2.0)), "f", "Logarithm to 2.")
log10 = _one(
    "log10", lambda v: compose.binary("mul", compose.unary("log", v), 1 / math.log(10.0)), "f", "Logarithm to 10."
)
logaddexp = _two("logaddexp", _logaddexp, "f", "log(exp(x1) + exp(x2)) without overflow.")
logical_and = _two("logical_and", _logical("and"), "b", "x1 and x2.")
logical_not = _one("logical_not", _kind("not"), "b", "not x.")
logical_or = _two("logical_or", _logical("or"), "b", "x1 or x2.")
logical_xor = _two("logical_xor", _logical("xor"), "b", "Whether exactly one is true.")
maximum = _two("maximum", _pair("max"), "fiu", "The larger element; NaN if either is.")
minimum = _two("minimum", _pair("min"), "fiu", "The smaller element; NaN if either is.")
multiply = _two("multiply", _pair("mul"), "fiu", "x1 * x2.")
nextafter = _two("nextafter", _nextafter, "f", "The next number from x1 towards x2.")
negative = _one("negative", _negative, "fiu", "-x.")
positive = _one("positive", lambda v: v, "fiu", "+x.")
real = _one("real", lambda v: v, "fiu", "Real part: x itself, since there are no complex element types.")
reciprocal = _float("reciprocal", "reciprocal", "1 / x.")
remainder = _two("remainder", _pair("mod"), "fiu", "x1 % x2, with the sign of x2.")
round = _one("round", _rounding("round"), "fiu", "Rounded to the nearest, ties to even.")
rsqrt = _float("rsqrt", "rsqrt", "1 / sqrt(x) (an extension of the standard).")
sigmoid = _float("sigmoid", "sigmoid", "1 / (1 + exp(-x)) (an extension of the standard).")
sign = _one("sign", _kind("sign"), "fiu", "-1, 0 or 1.")
signbit = _one("signbit", _signbit, "f", "Whether the sign bit is set (-0.0 has it).")
sin = _float("sin", "sin", "Sine.")
sinh = _float("sinh", "sinh", "Hyperbolic sine.")
square = _one("square", lambda v: compose.binary("mul", v, v), "fiu", "x * x.")
sqrt = _float("sqrt", "sqrt", "Square root.")
subtract = _two("subtract", _pair("sub"), "fiu", "x1 - x2.")
tan = _float("tan", "tan", "Tangent.")
tanh = _float("tanh", "tanh", "Hyperbolic tangent.")
trunc = _one("trunc", _rounding("trunc"), "fiu", "Rounded towards zero.")

_ANY = "fiub"
_KINDS[_ANY] = "any"
equal = _two("equal", _relation("eq"), _ANY, "x1 == x2.")
not_equal = _two("not_equal", _relation("ne"), _ANY, "x1 != x2.")
less = _two("less", _relation("lt"), "fiu", "x1 < x2.")
less_equal = _two("less_equal", _relation("le"), "fiu", "x1 <= x2.")
greater = _two("greater", _relation("gt"), "fiu", "x1 > x2.")
greater_equal = _two("greater_equal", _relation("ge"), "fiu", "x1 >= x2.")


@public
def pow(x1: ArrayLike, x2: ArrayLike, /) -> TracedArray:
    """x1 ** x2. A small whole number as exponent is multiplied out, which is exact at 0 and for negative bases."""
    if isinstance(x2, int | float) and not isinstance(x2, bool) and x2 in (1, 2, 3, 4) and dtype_of(x1) is not None:
        (base,) = together(x1)
        if base.type.dtype.is_float or (base.type.dtype.is_integer and isinstance(x2, int)):
            square_ = compose.binary("mul", base, base) if x2 > 1 else base
            return wrap(
                {1: lambda: base, 2: lambda: square_, 3: lambda: compose.binary("mul", square_, base)}.get(
                    int(x2), lambda: compose.binary("mul", square_, square_)
                )()
            )
    a, b = compose.aligned(*together(x1, x2))
    _check("pow", a, "fiu")
    return wrap(compose.binary("pow", a, b))


@public
def clip(x: ArrayLike, /, min: ArrayLike | None = None, max: ArrayLike | None = None) -> TracedArray:
    """Each element moved into [min, max]; None leaves a side open. The element type is that of `x`."""
    value = read(x)
    _check("clip", value, "fiu")
    for bound, kind in ((min, "max"), (max, "min")):
        if bound is not None:
            limit = read(bound, value.type.dtype)
            if limit.type.dtype != value.type.dtype:
                raise located(f"clip: the bound is of {name_of(limit.type.dtype)}, x of {name_of(value.type.dtype)}")
            value = compose.binary(kind, value, limit)
    return wrap(value)


@public
def where(condition: ArrayLike, x1: ArrayLike, x2: ArrayLike, /) -> TracedArray:
    """x1 where `condition` holds, else x2."""
    test = read(condition)
    _check("where: the condition", test, "b")
    return wrap(compose.select(test, *together(x1, x2)))
