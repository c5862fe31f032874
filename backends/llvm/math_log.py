"""Logarithms and the inverse hyperbolic functions built on log1p."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.math_expr import (
    DOUBLE,
    FLOAT,
    Format,
    Num,
    format_of,
    mul_add,
    polynomial,
    through_double,
    where,
)

_LN2 = 0.6931471805599453
_LOG2_E_MINUS_1 = 0.4426950408889634
SQRT_HALF_BITS = {"i32": 0x3F3504F3, "i64": 0x3FE6A09E667F3BCD}

# (log(1+f) - f + f^2/2) / f^3, sqrt(1/2) - 1 <= f <= sqrt(2) - 1: 2^-27.4.
_LOG_FLOAT = (
    0.3333333134651184, -0.2500081956386566, 0.2000124156475067, -0.166234090924263, 0.14201581478118896,
    -0.1315961331129074, 0.12762199342250824, -0.07636399567127228,
)  # fmt: skip
# (2 atanh(s)/s - 2) / s^2 in s^2, for s = f/(2+f) with the same f: 2^-57.6, and 2^-35.8 for results rounded to float.
_LOG_DOUBLE = (
    0.666666666666667, 0.39999999999899505, 0.28571428625975487, 0.2222221113479508, 0.18182889125261723,
    0.15331721600556042, 0.14616449685043406,
)  # fmt: skip
_LOG_NARROW = (0.6666666655449709, 0.40000121839806124, 0.28550820815960665, 0.23330467216303835)


def split_exponent(x: Num, f: Format) -> tuple[Num, Num]:
    """``x = 2**e * m`` with sqrt(1/2) <= m < sqrt(2), for normal x > 0: (bits whose low part is e + bias, bits of m).

    Whole numbers stay in integer form because AVX2 lacks arithmetic 64-bit shifts and conversions.
    """
    sqrt_half = SQRT_HALF_BITS[f.integer]
    shifted = x.bits() + (f.one_bits - sqrt_half)
    return shifted >> f.mantissa, (shifted & ((1 << f.mantissa) - 1)) + sqrt_half


def exponent_to_float(biased: Num, f: Format) -> Num:
    """The integer ``e`` of `split_exponent` as a float."""
    return (biased + f.round_shift_bits).as_float() - (f.round_shift + f.bias)


def _log1p_small(g: Num, coefficients: Sequence[float]) -> Num:
    """log(1+g) - g for g between sqrt(1/2) - 1 and sqrt(2) - 1."""
    if format_of(g.v) is FLOAT:
        square = g * g
        return mul_add(square, -0.5, square * g * polynomial(g, coefficients))
    s = g / (g + 2.0)
    half_square = g * g * 0.5
    z = s * s
    return mul_add(s, mul_add(z, polynomial(z, coefficients), half_square), -half_square)


def _coefficients(f: Format, narrow: bool = False) -> Sequence[float]:
    return _LOG_FLOAT if f is FLOAT else _LOG_NARROW if narrow else _LOG_DOUBLE


def _special_cases(x: Num, result: Num) -> Num:
    """The logarithm's values at 0, below 0, at infinity and NaN."""
    result = where(x < float("inf"), result, x)
    return where(x <= 0.0, where(x < 0.0, x.lift(float("nan")), float("-inf")), result)


def _normalised(x: Num, f: Format) -> tuple[Num, Num]:
    """(e as a float, m - 1) for any x > 0, subnormal ones scaled up first."""
    tiny = x < f.smallest_normal
    biased, m = split_exponent(where(tiny, x * 2.0**f.mantissa, x), f)
    e = exponent_to_float(biased, f)
    return e - where(tiny, x.lift(float(f.mantissa)), 0.0), m.as_float() - 1.0


def log(fb: FunctionBuilder, x: V) -> V:
    """Natural logarithm. float: 1.0 ulp; double: 1.0 ulp. log(0) = -inf, of negative numbers NaN."""
    v = Num(fb, x)
    f = format_of(x)
    e, g = _normalised(v, f)
    small = mul_add(e, f.ln2_low, _log1p_small(g, _coefficients(f)))
    return _special_cases(v, mul_add(e, f.ln2_high, g + small)).v


def log_narrow(x: Num) -> Num:
    """log of a double to about 2^-35; x is 0, infinite, NaN or a positive normal number."""
    biased, m = split_exponent(x, DOUBLE)
    g = m.as_float() - 1.0
    result = mul_add(exponent_to_float(biased, DOUBLE), _LN2, g + _log1p_small(g, _LOG_NARROW))
    return _special_cases(x, result)


def log2(fb: FunctionBuilder, x: V) -> V:
    """Logarithm to base 2, exact for powers of two. float: 1.25 ulp; double: 1.25 ulp."""
    v = Num(fb, x)
    f = format_of(x)
    e, g = _normalised(v, f)
    small = _log1p_small(g, _coefficients(f))
    # log2(e) = 1 + 0.44...: the product with 1 is exact.
    fraction = mul_add(g, _LOG2_E_MINUS_1, mul_add(small, _LOG2_E_MINUS_1, small)) + g
    return _special_cases(v, e + fraction).v


def _log1p(x: Num, narrow: bool = False) -> Num:
    f = format_of(x.v)
    u = x + 1.0
    biased, _ = split_exponent(u, f)
    e = exponent_to_float(biased, f)
    # m - 1 = x * 2^-e + (2^-e - 1): what adding 1 to x rounded away is still in it. 2^-e can be subnormal.
    scale = ((2 * f.bias + 4 - biased) << f.mantissa).as_float() * 0.0625
    g = mul_add(x, scale, scale - 1.0)
    small = mul_add(e, f.ln2_low, _log1p_small(g, _coefficients(f, narrow)))
    result = _special_cases(u, mul_add(e, f.ln2_high, g + small))
    return where(x.equals(0.0), x, result)


def log1p(fb: FunctionBuilder, x: V) -> V:
    """log(1 + x), accurate near 0. float: 1.5 ulp; double: 1.5 ulp. log1p(-0) = -0, log1p(-1) = -inf."""
    return _log1p(Num(fb, x)).v


def _log_of_sum(x: Num, argument: Num, narrow: bool) -> Num:
    """log1p(argument), or log(2x) for an `x` so large that `argument` may have overflowed."""
    huge = x > 2.0**60
    return _log1p(where(huge, x, argument), narrow) + where(huge, x.lift(_LN2), 0.0)


def asinh(fb: FunctionBuilder, x: V) -> V:
    """Inverse hyperbolic sine. float: 0.51 ulp; double: 2.0 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        a = v.abs()
        square = a * a
        argument = a + square / ((square + 1.0).sqrt() + 1.0)
        return _log_of_sum(a, argument, narrow).with_sign_of(v)

    return through_double(fb, "asinh", (x,), body)


def acosh(fb: FunctionBuilder, x: V) -> V:
    """Inverse hyperbolic cosine, NaN below 1. float: 0.51 ulp; double: 2.5 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        t = v - 1.0
        result = _log_of_sum(v, t + (t * (t + 2.0)).sqrt(), narrow)
        return where(v < 1.0, v.lift(float("nan")), result)

    return through_double(fb, "acosh", (x,), body)


def atanh(fb: FunctionBuilder, x: V) -> V:
    """Inverse hyperbolic tangent, +-inf at +-1. float: 0.51 ulp; double: 2.0 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        a = v.abs()
        return (_log1p((a + a) / (1.0 - a), narrow) * 0.5).with_sign_of(v)

    return through_double(fb, "atanh", (x,), body)
