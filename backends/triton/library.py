"""What generated kernels call: combining functions of reductions, and elementary functions that Triton lacks.

Triton's interpreter has no libdevice, so everything is written with Triton's own operations. Functions without a
fast form compute in double precision, which is exact enough for float32 with the plainest formula.
"""

from __future__ import annotations

import triton
import triton.language as tl


# -- combining ---------------------------------------------------------------------------------
@triton.jit
def add(a, b):
    return a + b


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def maximum(a, b):
    """The larger one; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    """The smaller one; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _pick(a, i, b, j, better, last: tl.constexpr):
    """(b, j) where it is `better` (a NaN beats all numbers), or equal and earlier (`last`: later); else (a, i)."""
    better = (better & (a == a)) | ((b != b) & (a == a))
    same = (b == a) | ((b != b) & (a != a))
    if last:
        take = better | (same & (j > i))
    else:
        take = better | (same & (j < i))
    return tl.where(take, b, a), tl.where(take, j, i)


@triton.jit
def max_first(a, i, b, j):
    return _pick(a, i, b, j, b > a, False)


@triton.jit
def max_last(a, i, b, j):
    return _pick(a, i, b, j, b > a, True)


@triton.jit
def min_first(a, i, b, j):
    return _pick(a, i, b, j, b < a, False)


@triton.jit
def min_last(a, i, b, j):
    return _pick(a, i, b, j, b < a, True)


# -- rounding ----------------------------------------------------------------------------------
@triton.jit
def trunc(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def round_half_even(x):
    """Adding and subtracting 1.5 * 2**mantissa rounds at the last place."""
    if x.dtype == tl.float64:
        rounded = (x + 6755399441055744.0) - 6755399441055744.0
        return tl.where(tl.abs(x) < 2251799813685248.0, rounded, x)
    else:
        rounded = (x + 12582912.0) - 12582912.0
        return tl.where(tl.abs(x) < 4194304.0, rounded, x)


# -- exponentials ------------------------------------------------------------------------------
@triton.jit
def sigmoid(x):
    """Without overflow: the exponential is of a number that is not positive."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def tanh(x):
    """(1 - e) / (1 + e) with e = exp(-2|x|); a polynomial near 0, where that cancels (float32: 2 ulp).

    Source of the polynomial: Cephes, tanhf.
    """
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    far = tl.where(x < 0, -1.0, 1.0) * ((1.0 - e) / (1.0 + e))
    if x.dtype == tl.float64:
        series = x * (1.0 - x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0 - x * x * (17.0 / 315.0))))
        return tl.where(a < 0.004, series, far)
    else:
        z = x * x
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = p * z - 5.37397155531e-2
        p = p * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
        return tl.where(a < 0.625, p * z * x + x, far)


@triton.jit
def expm1(x):
    """``(u - 1) * x / log(u)`` with u = exp(x): the errors of u cancel. Source: Kahan."""
    d = x.to(tl.float64)
    u = tl.exp(d)
    safe = (u != 1.0) & (tl.abs(d) < 1.0)
    near = (u - 1.0) * d / tl.log(tl.where(safe, u, 2.0))
    return tl.where(safe, near, tl.where(u == 1.0, d, u - 1.0)).to(x.dtype)


@triton.jit
def log1p(x):
    """``x * log(w) / (w - 1)`` with w = 1 + x. Source: Kahan."""
    d = x.to(tl.float64)
    w = 1.0 + d
    inexact = (w != 1.0) & (tl.abs(d) < 1.0)
    near = tl.log(w) * d / tl.where(inexact, w - 1.0, 1.0)
    return tl.where(inexact, near, tl.where(w == 1.0, d, tl.log(w))).to(x.dtype)


@triton.jit
def sinh(x):
    t = expm1(tl.abs(x.to(tl.float64)))
    value = 0.5 * (t + t / (t + 1.0))
    big = tl.exp(0.5 * tl.abs(x.to(tl.float64)))
    value = tl.where(tl.abs(x) > 22.0, (0.5 * big) * big, value)
    return tl.where(x < 0, -value, tl.where(x == 0, x, value)).to(x.dtype)


@triton.jit
def cosh(x):
    e = tl.exp(0.5 * tl.abs(x.to(tl.float64)))
    return ((0.5 * e) * e + 0.5 / (e * e)).to(x.dtype)


@triton.jit
def asinh(x):
    a = tl.abs(x.to(tl.float64))
    value = log1p(a + a * a / (1.0 + tl.sqrt(a * a + 1.0)))
    value = tl.where(a > 1e100, tl.log(a) + 0.6931471805599453, value)
    return tl.where(x < 0, -value, tl.where(x == 0, x, value)).to(x.dtype)


@triton.jit
def acosh(x):
    d = x.to(tl.float64)
    t = d - 1.0
    value = log1p(t + tl.sqrt(2.0 * t + t * t))
    return tl.where(d > 1e100, tl.log(d) + 0.6931471805599453, value).to(x.dtype)


@triton.jit
def atanh(x):
    a = tl.abs(x.to(tl.float64))
    value = 0.5 * log1p(2.0 * a / (1.0 - a))
    return tl.where(x < 0, -value, tl.where(x == 0, x, value)).to(x.dtype)


@triton.jit
def power(a, b):
    """a**b in double precision; a negative base takes integer exponents."""
    x, y = a.to(tl.float64), b.to(tl.float64)
    magnitude = tl.exp2(y * tl.log2(tl.abs(x)))
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    result = tl.where((x < 0) & odd, -magnitude, magnitude)
    result = tl.where((x < 0) & (whole == 0) & (tl.abs(x) != float("inf")), float("nan"), result)
    unit = (y == 0) | (x == 1.0) | ((x == -1.0) & (tl.abs(y) == float("inf")))
    return tl.where(unit, 1.0, result).to(a.dtype)


@triton.jit
def integer_power(a, b):
    """a**b of integers, wrapping; a negative exponent gives 0 unless the base is 1 or -1."""
    result = (a * 0 + 1).to(a.dtype)
    factor, rest = a, b
    for _ in range(b.dtype.primitive_bitwidth):
        result = tl.where((rest & 1) != 0, result * factor, result)
        factor = factor * factor
        rest = rest >> 1
    negative = tl.where(a == 1, 1, tl.where(a + 1 == 0, tl.where((b & 1) != 0, a, a * a), 0))
    return tl.where(b < 0, negative, result).to(a.dtype)


# -- trigonometry ------------------------------------------------------------------------------
@triton.jit
def tan(x):
    d = x.to(tl.float64)
    return (tl.sin(d) / tl.cos(d)).to(x.dtype)


@triton.jit
def _atan(d):
    """atan of a double, by two halvings of the angle and a series: |t| <= tan(pi/16)."""
    a = tl.abs(d)
    t = tl.where(a > 1.0, 1.0 / tl.where(a > 1.0, a, 1.0), a)
    t = t / (1.0 + tl.sqrt(1.0 + t * t))
    t = t / (1.0 + tl.sqrt(1.0 + t * t))
    z = t * t
    p = z * 0.0 + 1.0 / 21.0
    p = 1.0 / 19.0 - z * p
    p = 1.0 / 17.0 - z * p
    p = 1.0 / 15.0 - z * p
    p = 1.0 / 13.0 - z * p
    p = 1.0 / 11.0 - z * p
    p = 1.0 / 9.0 - z * p
    p = 1.0 / 7.0 - z * p
    p = 1.0 / 5.0 - z * p
    p = 1.0 / 3.0 - z * p
    value = 4.0 * (t - t * z * p)
    value = tl.where(a > 1.0, 1.5707963267948966 - value, value)
    return tl.where(d < 0, -value, value)


@triton.jit
def atan(x):
    return _atan(x.to(tl.float64)).to(x.dtype)


@triton.jit
def asin(x):
    d = x.to(tl.float64)
    return _atan(d / tl.sqrt((1.0 - d) * (1.0 + d))).to(x.dtype)


@triton.jit
def acos(x):
    d = x.to(tl.float64)
    half = _atan(tl.sqrt((1.0 - d) / (1.0 + d)))
    return (2.0 * half).to(x.dtype)


@triton.jit
def atan2(y, x):
    a, b = y.to(tl.float64), x.to(tl.float64)
    both = (tl.abs(a) == float("inf")) & (tl.abs(b) == float("inf"))
    ratio = tl.where(both, 1.0, tl.abs(a) / tl.where(b == 0, 1.0, tl.abs(b)))
    angle = tl.where(b == 0, tl.where(a == 0, 0.0, 1.5707963267948966), _atan(ratio))
    # 1/b tells -0 from 0 (an infinite b has the sign of b itself).
    negative = (b < 0) | ((b == 0) & (1.0 / b < 0))
    angle = tl.where(negative, 3.141592653589793 - angle, angle)
    below = (a < 0) | ((a == 0) & (1.0 / a < 0))
    angle = tl.where((a != a) | (b != b), float("nan"), angle)
    return tl.where(below, -angle, angle).to(y.dtype)


# -- remainders --------------------------------------------------------------------------------
@triton.jit
def floor_mod(a, b):
    """The remainder with the sign of the divisor, of floats or integers (0 for an integer divisor of 0)."""
    rest = remainder(a, b)
    wrong = (rest != 0) & ((rest < 0) != (b < 0))
    return tl.where(wrong, rest + b, rest)


@triton.jit
def remainder(a, b):
    """The remainder with the sign of the dividend."""
    if a.dtype.is_floating():
        return a % b
    else:
        return tl.where(b == 0, 0, a % tl.where(b == 0, 1, b))


@triton.jit
def integer_divide(a, b):
    """Towards zero; 0 where the divisor is 0."""
    return tl.where(b == 0, 0, a // tl.where(b == 0, 1, b))


# -- order -------------------------------------------------------------------------------------
@triton.jit
def comes_before(a, i, b, j, largest: tl.constexpr):
    """Whether `a` at position `i` comes before `b` at `j` among the largest (or smallest); NaN is above all numbers."""
    if a.dtype == tl.int1:
        above = a & (b == 0)
        below = b & (a == 0)
    else:
        above = (a > b) | ((a != a) & (b == b))
        below = (a < b) | ((b != b) & (a == a))
    first = above if largest else below
    return first | ((above == 0) & (below == 0) & (i < j))
