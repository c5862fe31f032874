"""General and integer powers."""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.math_exp import exp_of_small, exp_scaled
from ds_compiler.backends.llvm.math_expr import (
    DOUBLE,
    Num,
    exact_fma,
    outlined,
    polynomial,
    round_with,
    through_double,
    where,
)
from ds_compiler.backends.llvm.math_log import exponent_to_float, log_narrow, split_exponent

# (2 atanh(s)/s - 2 - 2 s^2/3) / s^4 in s^2, for s = f/(2+f), sqrt(1/2) <= 1+f <= sqrt(2): 2^-66.4 of the logarithm.
_LOG_TAIL = (
    0.4, 0.28571428571429364, 0.22222222221656232, 0.18181818335314404, 0.15384594970895457, 0.13334804238225345,
    0.11706248540922386, 0.11723051028097753,
)  # fmt: skip
_TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)


def _two_sum_ordered(large: Num | float, small: Num) -> tuple[Num, Num]:
    """``large + small`` and its rounding error, exactly, for abs(large) >= abs(small)."""
    s = large + small
    return s, (large - s) + small


def _log_in_two_parts(x: Num) -> tuple[Num, Num]:
    """log(x) for finite double x > 0 as a sum of two doubles, relative error about 2^-65."""
    f = DOUBLE
    tiny = x < f.smallest_normal
    biased, m_bits = split_exponent(where(tiny, x * 2.0**f.mantissa, x), f)
    e = exponent_to_float(biased, f) - where(tiny, x.lift(float(f.mantissa)), 0.0)
    m = m_bits.as_float()
    g = m - 1.0
    # s = g / (m + 1)
    d, d_low = _two_sum_ordered(1.0, m)
    inverse = 1.0 / d
    s = g * inverse
    s_low = exact_fma(-s, d_low, exact_fma(-s, d, g)) * inverse
    # z = s^2, u = 2/3 + z * tail(z), w = 2 + z*u, log(m) = s*w
    z = s * s
    z_low = exact_fma(s, s, -z) + s * s_low * 2.0
    u, u_low = _two_sum_ordered(z.lift(_TWO_THIRDS[0]), z * polynomial(z, _LOG_TAIL))
    u_low = u_low + _TWO_THIRDS[1]
    product = z * u
    product_low = exact_fma(z, u, -product) + (z * u_low + z_low * u)
    w, w_low = _two_sum_ordered(z.lift(2.0), product)
    w_low = w_low + product_low
    log_m = s * w
    log_m_low = exact_fma(s, w, -log_m) + (s * w_low + s_low * w)
    total, total_low = _two_sum_ordered(e * f.ln2_high, log_m)
    return total, total_low + (log_m_low + e * f.ln2_low)


def _exponential_of_product(base: Num, y: Num, narrow: bool) -> Num:
    """base**y for base >= 0."""
    unit = base.equals(1.0)
    if narrow:
        # Beyond 150 a float is infinite or zero.
        exponent = (y * log_narrow(base)).min_of(150.0).max_of(-150.0)
        return exp_of_small(where(unit, 0.0, exponent), narrow=True)
    log, log_low = _log_in_two_parts(base)
    log = where(base.equals(0.0), float("-inf"), where(base < float("inf"), log, base))
    high = y * log
    low = where(high.abs() < 800.0, exact_fma(y, log, -high) + y * log_low, 0.0)
    return exp_scaled(where(unit, 0.0, high), tail=where(unit, 0.0, low))


def pow(fb: FunctionBuilder, x: V, y: V) -> V:
    """x**y with C99's special cases, which are NumPy's.

    ``x**0 = 1`` and ``1**y = 1`` even for NaN; negative `x` needs a whole `y` (NaN otherwise), whose
    oddness gives the sign; ``0**y`` is infinite for y < 0. float: 0.52 ulp; double: 1.5 ulp. Called out of line.
    """

    def body(x: Num, y: Num, narrow: bool) -> Num:
        base = x.abs()
        result = _exponential_of_product(base, y, narrow)
        result = where(x.is_nan(), x, where(y.is_nan(), y, result))
        whole = round_with(y, "trunc").equals(y)
        half = y * 0.5
        # Infinite exponents count as even.
        even = round_with(half, "trunc").equals(half)
        negative = x.lift(1.0).with_sign_of(x) < 0.0
        signed = where(even, result, -result)
        fractional = where(base.equals(0.0), result, where(base < float("inf"), x.lift(float("nan")), result))
        result = where(negative, where(whole, signed, fractional), result)
        return where(x.equals(1.0), x, where(y.equals(0.0), x.lift(1.0), result))

    return through_double(fb, "pow", (x, y), body)


def pow_constant(fb: FunctionBuilder, x: V, exponent: int) -> V:
    """x**exponent by repeated squaring, for a small constant exponent; float or integer `x`.

    Floats: 0.5 ulp for 2, 2 ulp for 3, 3 ulp for 4; take `pow` for larger exponents. A negative exponent
    divides 1 by the power.

    Raises:
        ValueError: a negative exponent for integers.
    """
    base = Num(fb, x)
    if exponent < 0:
        if base.v.element.startswith("i"):
            raise ValueError(f"integer power with the negative exponent {exponent}")
        return (1.0 / Num(fb, pow_constant(fb, x, -exponent))).v
    result: Num | None = None
    while exponent:
        if exponent & 1:
            result = base if result is None else result * base
        exponent >>= 1
        if exponent:
            base = base * base
    return base.lift(1).v if result is None else result.v


def pow_integer(fb: FunctionBuilder, x: V, y: V) -> V:
    """x**y of equal integer types by squaring, wrapping on overflow.

    Negative exponents give the truncated quotient 1 / x**-y: 1 for 1, +-1 for -1, otherwise 0 (0 too for
    x = 0). Called out of line.
    """
    width = int(x.element[1:])

    def body(x: Num, y: Num) -> Num:
        fb = x.fb
        with fb.loop(fb.i64(0), fb.i64(width - 1), carried=[x.lift(1).v, x.v, y.v], hint="square") as loop:
            result, base, rest = (Num(fb, v) for v in loop.carried)
            result = where((rest & 1).equals(0), result, result * base)
            loop.carry(result.v, (base * base).v, (rest >> 1).v)
        power = Num(fb, loop.results[0])
        unit = where(x.equals(1), x, where(x.equals(-1), where((y & 1).equals(0), x.lift(1), x), 0))
        return where(y < 0, unit, power)

    return outlined(fb, "pow_integer", (x, y), body)
