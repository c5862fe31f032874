"""Exponentials: exp, expm1, sigmoid, tanh, sinh, cosh, and the error function with its GELU.

All reduce ``x = n*ln2 + r`` with ``|r| <= ln2/2`` and evaluate a polynomial in `r`. Coefficients are
minimax fits, leading terms rounded to the working precision before the rest was fitted; each list states the largest
relative error of the whole expression over its interval.
"""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.math_expr import (
    FLOAT,
    Format,
    Num,
    format_of,
    mul_add,
    polynomial,
)

_LOG2_E = 1.4426950408889634

# (e^r - 1 - r) / r^2 on |r| <= ln2/2. float: 2^-28.2 (as part of e^r); double: 2^-60.
_EXP_FLOAT = (0.4999999403953552, 0.1666652113199234, 0.04166827350854874, 0.008368685841560364, 0.0013820136664435267)
_EXP_DOUBLE = (
    0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326084, 0.0013888888888883711,
    0.0001984126987500228, 2.480158732567746e-05, 2.755725517000089e-06, 2.755727347871858e-07,
    2.5105312729622103e-08, 2.09147553258932e-09,
)  # fmt: skip


def _reduce(x: Num, f: Format) -> tuple[Num, Num]:
    """``x = n*ln2 + r``: returns (bits whose low part is `n`, r)."""
    shifted = mul_add(x, _LOG2_E, f.round_shift)
    n = shifted - f.round_shift
    r = mul_add(n, -f.ln2_high, x)
    return shifted.bits(), mul_add(n, -f.ln2_low, r)


def _times_power_of_two(p: Num, n: Num, f: Format) -> Num:
    """``p * 2**n`` in two multiplications, so that results may overflow or be subnormal; rounds once.

    `n` is in the low bits of shifted bits, as `_reduce` returns it; ``-2*bias <= n``.
    """
    biased = n - (f.round_shift_bits - 2 * f.bias)
    half = biased >> 1
    p = p * (half << f.mantissa).as_float()
    return p * ((biased - half) << f.mantissa).as_float()


def exp_scaled(x: Num, halvings: int = 0) -> Num:
    """``e**x / 2**halvings`` without intermediate overflow."""
    f = format_of(x.v)
    limits = (-104.0, 89.0 + halvings) if f is FLOAT else (-746.0, 710.0 + halvings)
    n, r = _reduce(x.min_of(limits[1]).max_of(limits[0]), f)
    p = mul_add(r * r, polynomial(r, _EXP_FLOAT if f is FLOAT else _EXP_DOUBLE), r) + 1.0
    return _times_power_of_two(p, n - halvings if halvings else n, f)


def exp(fb: FunctionBuilder, x: V) -> V:
    """e**x. float: 1 ulp; double: 1 ulp, subnormal results included. exp(-inf) = 0, overflow gives inf.

    Like all functions here, `x` is a float or double, scalar or vector of any number of lanes; the
    result has its type. TypeError for other types.
    """
    return exp_scaled(Num(fb, x)).v
