"""Exponentials: exp, expm1, sigmoid, tanh, sinh, cosh, and the error function with its GELU.

All reduce ``x = n*ln2 + r`` with ``|r| <= ln2/2`` and evaluate a polynomial in `r`. Coefficients are
minimax fits, leading terms rounded to the working precision before the rest was fitted; each list states the largest
relative error of the whole expression over its interval.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of
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

_LOG2_E = 1.4426950408889634

# (e^r - 1 - r) / r^2 on |r| <= ln2/2. float: 2^-28.2 (as part of e^r); double: 2^-60.
_EXP_FLOAT = (0.4999999403953552, 0.1666652113199234, 0.04166827350854874, 0.008368685841560364, 0.0013820136664435267)
_EXP_DOUBLE = (
    0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326084, 0.0013888888888883711,
    0.0001984126987500228, 2.480158732567746e-05, 2.755725517000089e-06, 2.755727347871858e-07,
    2.5105312729622103e-08, 2.09147553258932e-09,
)  # fmt: skip
# The same for expm1, where the error is relative to e^r - 1. float: 2^-31.1; doubles rounded to float: 2^-36.5.
_EXPM1_FLOAT = (
    0.5, 0.1666666567325592, 0.04166649281978607, 0.008333544246852398, 0.001393234240822494, 0.0001976339699467644,
)  # fmt: skip
_EXPM1_NARROW = (
    0.5, 0.1666666671931248, 0.041666666719295684, 0.008333298344023092, 0.001388885390994504,
    0.00019899390183679232, 2.485969439475207e-05,
)  # fmt: skip


def _reduce(x: Num, f: Format) -> tuple[Num, Num]:
    """``x = n*ln2 + r``: returns (bits whose low part is `n`, r)."""
    shifted = mul_add(x, _LOG2_E, f.round_shift)
    n = shifted - f.round_shift
    r = mul_add(n, -f.ln2_high, x)
    return shifted.bits(), mul_add(n, -f.ln2_low, r)


def _plus_one_scaled(p: Num, n: Num, f: Format) -> Num:
    """``(p + 1) * 2**n`` in two multiplications, so that results may overflow or be subnormal; rounds once.

    `n` is in the low bits of shifted bits, as `_reduce` returns it; ``-2*bias <= n``.
    """
    biased = n - (f.round_shift_bits - 2 * f.bias)
    half = biased >> 1
    first = (half << f.mantissa).as_float()
    return mul_add(p, first, first) * ((biased - half) << f.mantissa).as_float()


def exp_scaled(x: Num, halvings: int = 0, tail: Num | None = None) -> Num:
    """``e**(x + tail) / 2**halvings`` without intermediate overflow; `tail` is below the last place of `x`."""
    f = format_of(x.v)
    limits = (-104.0, 89.0 + halvings) if f is FLOAT else (-746.0, 710.0 + halvings)
    n, r = _reduce(x.min_of(limits[1]).max_of(limits[0]), f)
    if tail is not None:
        r = r + tail
    p = mul_add(r * r, polynomial(r, _EXP_FLOAT if f is FLOAT else _EXP_DOUBLE), r)
    return _plus_one_scaled(p, n - halvings if halvings else n, f)


def exp_of_small(x: Num, narrow: bool = False) -> Num:
    """e**x where the result is a normal number; double only."""
    n, r = _reduce(x, DOUBLE)
    p = mul_add(r * r, polynomial(r, _EXPM1_NARROW if narrow else _EXP_DOUBLE), r) + 1.0
    return (p.bits() + (n << DOUBLE.mantissa)).as_float()


def exp(fb: FunctionBuilder, x: V) -> V:
    """e**x. float: 1.0 ulp; double: 1.0 ulp, subnormal results included. exp(-inf) = 0, overflow gives inf.

    Like all functions here, `x` is a float or double, scalar or vector of any number of lanes; the
    result has its type. TypeError for other types.
    """
    return exp_scaled(Num(fb, x)).v


def _power_of_two(x: Num, per_unit: float, parts: tuple[float, float], shift_down: int = 0) -> tuple[Num, Num, Num]:
    """``n = round(x * per_unit)``: returns (n, x - n * (sum of `parts`), 2**(n - shift_down)).

    The sum that rounds holds the exponent's bias too, so that shifting its bits makes the power; it is 0 for
    ``n - shift_down = -bias``. A NaN stays one in the second value.
    """
    f = format_of(x.v)
    shift = f.round_shift + (f.bias - shift_down)
    shifted = mul_add(x, per_unit, shift)
    n = shifted - shift
    rest = mul_add(n, -parts[1], mul_add(n, -parts[0], x))
    return n, rest, (shifted.bits() << f.mantissa).as_float()


def _horner(x: Num, coefficients: Sequence[float]) -> Num:
    """The polynomial with the constant term first, in as few instructions as there are."""
    total = x.lift(coefficients[-1])
    for c in coefficients[-2::-1]:
        total = mul_add(total, x, c)
    return total


def exp_nonpositive(fb: FunctionBuilder, x: V) -> V:
    """e**x for x <= 0 (softmax), a third cheaper than `exp`: results far below the smallest normal number are 0.

    NaN stays NaN. float: 1.02 ulp; double: 1 ulp. Positive arguments give anything.
    """
    v = Num(fb, x)
    f = format_of(x)
    # From here down n = -bias, and the power of two is 0.
    lowest = -(f.bias + 0.1) / _LOG2_E
    _, r, power = _power_of_two(v.max_of(lowest), _LOG2_E, (f.ln2_high, f.ln2_low))
    return (_horner(r, (1.0, 1.0, *(_EXP_FLOAT if f is FLOAT else _EXP_DOUBLE))) * power).v


def _expm1(x: Num, coefficients: Sequence[float], largest: float) -> Num:
    """e**x - 1 for ``-45 <= x <= largest``; a zero's sign is lost."""
    f = format_of(x.v)
    n, r = _reduce(x, f)
    p = mul_add(r * r, polynomial(r, coefficients), r)
    # 2^n * (e^r - 1) + (2^n - 1), everything halved while 2^n itself may overflow.
    if largest > 80.0:
        half = ((n << f.mantissa) + (f.one_bits - (1 << f.mantissa))).as_float()
        return mul_add(half, p, half - 0.5) * 2.0
    power = ((n << f.mantissa) + f.one_bits).as_float()
    return mul_add(power, p, power - 1.0)


def _expm1_coefficients(f: Format) -> Sequence[float]:
    return _EXPM1_FLOAT if f is FLOAT else _EXP_DOUBLE


def expm1(fb: FunctionBuilder, x: V) -> V:
    """e**x - 1, accurate near 0. float: 1.5 ulp; double: 2.0 ulp. expm1(-0) = -0."""
    v = Num(fb, x)
    f = format_of(x)
    low, high = (-25.0, 88.8) if f is FLOAT else (-45.0, 709.9)
    result = _expm1(v.min_of(high).max_of(low), _expm1_coefficients(f), high)
    return where(v.abs() < 2.0 ** -(f.mantissa + 2), v, result).v


def sigmoid(fb: FunctionBuilder, x: V) -> V:
    """1 / (1 + e**-x). float: 2.5 ulp; double: 2.5 ulp, down to subnormal results."""
    v = Num(fb, x)
    f = format_of(x)
    # One and the exponential are both scaled down by 2**-down, so that the latter does not overflow where the
    # result is subnormal; where it vanishes instead, it is nothing beside the one.
    down = f.mantissa + 1
    limits = (-104.0, 70.0) if f is FLOAT else (-746.0, 600.0)
    # x = r - n * ln2, so that e**-x = 2**n * e**-r.
    _, r, power = _power_of_two(
        v.min_of(limits[1]).max_of(limits[0]), -_LOG2_E, (-f.ln2_high, -f.ln2_low), shift_down=down
    )
    series = (1.0, 1.0, *(_EXP_FLOAT if f is FLOAT else _EXP_DOUBLE))
    e = _horner(r, [-c if k % 2 else c for k, c in enumerate(series)])
    one = 2.0**-down
    return (one / mul_add(e, power, one)).v


def tanh(fb: FunctionBuilder, x: V) -> V:
    """Hyperbolic tangent, ``t / (t + 2)`` with ``t = e**2x - 1``. float: 2.5 ulp; double: 2.5 ulp."""
    v = Num(fb, x)
    f = format_of(x)
    limit = 9.1 if f is FLOAT else 20.0
    # 2x = 2r + n * ln2; the polynomial is in r.
    _, r, power = _power_of_two(v.min_of(limit).max_of(-limit), 2 * _LOG2_E, (f.ln2_high / 2, f.ln2_low / 2))
    series = [c * 2.0 ** (k + 2) for k, c in enumerate(_expm1_coefficients(f))]
    p = mul_add(r * r, _horner(r, series), r + r)
    t = mul_add(p, power, power - 1.0)
    # Only a zero lost its sign.
    sign = v.bits() & -(1 << (8 * bytes_of(x.element) - 1))
    return ((t / (t + 2.0)).bits() | sign).as_float().v


def sinh(fb: FunctionBuilder, x: V) -> V:
    """Hyperbolic sine. float: 0.51 ulp; double: 2.5 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        a = v.abs()
        # Floats overflow long before 100, so only doubles need the form without e^-x.
        limit = 100.0 if narrow else 22.0
        t = _expm1(a.min_of(limit), _EXPM1_NARROW if narrow else _EXP_DOUBLE, 79.0)
        result = (t + t / (t + 1.0)) * 0.5
        if not narrow:
            result = where(a > limit, exp_scaled(a, 1), result)
        return result.with_sign_of(v)

    return through_double(fb, "sinh", (x,), body)


def cosh(fb: FunctionBuilder, x: V) -> V:
    """Hyperbolic cosine. float: 0.51 ulp; double: 1.5 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        e = exp_scaled(v.abs(), 1)
        return e + 0.25 / e

    return through_double(fb, "cosh", (x,), body)
