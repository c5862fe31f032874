"""The error function and the GELU built on it."""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.math_exp import exp_of_small
from ds_compiler.backends.llvm.math_expr import FLOAT, Num, format_of, mul_add, polynomial, where

# erf(x)/x - 1 in x^2, |x| <= 1: 2^-29.4.
_ERF_FLOAT = (
    0.12837916612625122, -0.3761262595653534, 0.11283578723669052, -0.026853347197175026, 0.005187162198126316,
    -0.0007997853099368513, 7.806903158780187e-05,
)  # fmt: skip
# log2(erfc(x)), 1 <= x <= 3.95; absolute error of erfc 2^-29.3.
_LOG2_ERFC_FLOAT = (
    -0.0005102762370370328, -1.625975251197815, -0.9207646250724792, -0.14865194261074066, 0.031458690762519836,
    -0.004241038579493761, 0.00026773670106194913,
)  # fmt: skip
# (2^f - 1)/f, |f| <= 1/2: 2^-23.3, enough since erfc(1) = 0.157 scales it.
_EXP2_FLOAT = (
    0.6931472420692444,
    0.24022237956523895,
    0.05550277233123779,
    0.009671724401414394,
    0.0013415596913546324,
)

# erf(x)/x - 1 in x^2, |x| <= 1: 2^-56.8.
_ERF_DOUBLE = (
    0.1283791670955126, -0.37612638903183754, 0.11283791670955111, -0.026866170645123838, 0.005223977625303518,
    -0.0008548327010033328, 0.00012055332214716276, -1.4925622504489842e-05, 1.6461446656928561e-06,
    -1.6355118610877705e-07, 1.4692484859133263e-08, -1.1500357159785296e-09, 6.174097221305255e-11,
)  # fmt: skip
# e^(x^2) erfc(x) in t = (x - 3)/(x + 3), 1 <= x <= 6: 2^-53.4.
_ERFCX_DOUBLE = (
    0.17900115118138996, -0.3262335600430372, 0.2456038017123309, -0.15011593650077742, 0.07166583719797347,
    -0.024392499318655416, 0.004269136333148302, 0.0007077464385177353, -0.0005970619586158305,
    4.5255298034073955e-05, 6.405673342206844e-05, -1.2860318447907675e-05, -7.979817704348727e-06,
    2.1169509641489688e-06, 1.2598817267482604e-06, -2.7269500546476834e-07, -2.389387463474792e-07,
    -2.5925894581233316e-08,
)  # fmt: skip


def _erf(v: Num) -> Num:
    f = format_of(v.v)
    if f is FLOAT:
        a = v.abs().min_of(3.95)
        near = mul_add(a, polynomial(a * a, _ERF_FLOAT), a)
        power = polynomial(a, _LOG2_ERFC_FLOAT)
        shifted = power + f.round_shift
        fraction = power - (shifted - f.round_shift)
        root = mul_add(fraction, polynomial(fraction, _EXP2_FLOAT), 1.0)
        far = 1.0 - (root.bits() + (shifted.bits() << f.mantissa)).as_float()
    else:
        a = v.abs().min_of(6.0)
        near = mul_add(a, polynomial(a * a, _ERF_DOUBLE), a)
        far = 1.0 - exp_of_small(-(a * a)) * polynomial((a - 3.0) / (a + 3.0), _ERFCX_DOUBLE)
    return where(a < 1.0, near, far).with_sign_of(v)


def erf(fb: FunctionBuilder, x: V) -> V:
    """Error function. float: 1.25 ulp; double: 1.5 ulp. Odd; erf(inf) = 1."""
    return _erf(Num(fb, x)).v


def gelu_erf(fb: FunctionBuilder, x: V) -> V:
    """``x/2 * (1 + erf(x/sqrt(2)))``, the exact GELU.

    The absolute error is at most one epsilon times max(1, abs(x)); for x < 0 the sum cancels, as it does in
    every implementation of the formula, so that small results are not accurate to the ulp.
    """
    v = Num(fb, x)
    half = v * 0.5
    return mul_add(half, _erf(v * 0.7071067811865476), half).v
