"""Sine, cosine, tangent and their inverses."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, vector_of
from ds_compiler.backends.llvm.math_expr import (
    DOUBLE,
    FLOAT,
    Num,
    exact_fma,
    format_of,
    mul_add,
    outlined,
    polynomial,
    round_with,
    through_double,
    where,
)

_TWO_OVER_PI = 0.6366197723675814
# pi/2 as an unevaluated sum.
_HALF_PI_FLOAT = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
_HALF_PI_DOUBLE = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)

# (sin(r)/r - 1)/r^2 and (cos(r) - 1 + r^2/2)/r^4 in r^2, |r| <= pi/4. float: 2^-28.0 and 2^-33.0; double: 2^-57.1 and
# 2^-59.5; doubles rounded to float: 2^-35.6 and 2^-39.5.
_SIN_FLOAT = (-0.16666655242443085, 0.008332189172506332, -0.00019518188491929322)
_COS_FLOAT = (0.04166664555668831, -0.0013887308305129409, 2.443210905767046e-05)
_SIN_DOUBLE = (
    -0.16666666666666666, 0.008333333333333331, -0.00019841269841264968, 2.755731921926441e-06,
    -2.5052106206531682e-08, 1.605852751943773e-10, -7.586455940017973e-13,
)  # fmt: skip
_COS_DOUBLE = (
    0.041666666666666664, -0.0013888888888888887, 2.4801587301584594e-05, -2.755731922136126e-07,
    2.0876755776671767e-09, -1.1470458608341428e-11, 4.745737811425911e-14,
)  # fmt: skip
_SIN_NARROW = (-0.1666666666381008, 0.008333331857164982, -0.0001984007727607258, 2.7248701708232046e-06)
_COS_NARROW = (0.041666666664283473, -0.001388888765737401, 2.4800592482329196e-05, -2.7299937534284773e-07)

# (atan(t)/t - 1)/t^2 in t^2, |t| <= tan(pi/8). 2^-58.2; narrow 2^-33.4.
_ATAN_DOUBLE = (
    -0.3333333333333333, 0.199999999999998, -0.14285714285659326, 0.11111111105106705, -0.09090908751076636,
    0.0769229630497447, -0.06666423628069258, 0.058789145444006215, -0.052303478730160745, 0.04551108126325172,
    -0.034558092551413795, 0.01627194475162406,
)  # fmt: skip
_ATAN_NARROW = (
    -0.33333333278951577, 0.19999977153974205, -0.14284145548273774, 0.11071260444313767, -0.08623896669600505,
    0.05046128167603517,
)  # fmt: skip
# (asin(a)/a - 1)/a^2 in a^2, |a| <= 1/2. 2^-58.6; narrow 2^-34.0.
_ASIN_DOUBLE = (
    0.16666666666666666, 0.07500000000000118, 0.044642857142551895, 0.03038194447553234, 0.02237215744350722,
    0.017352816540325496, 0.01396378001220357, 0.011566459612121669, 0.009621842970100282, 0.009319560794767446,
    0.0030448799094556773, 0.019554513336123378, -0.01924167174674304, 0.02961201126495512,
)  # fmt: skip
_ASIN_NARROW = (
    0.16666666686085643, 0.07499992404401838, 0.04464766388813485, 0.030269138728589183, 0.023611817008891752,
    0.010574415516912909, 0.030974540371355073,
)  # fmt: skip


# -- argument reduction -----------------------------------------------------------------------

# 2/pi in binary: floor(2/pi * 2**1280).
_TWO_OVER_PI_BITS = 1280
_TABLE_FIRST = (1023 + 20) >> 4
_TABLE_PARTS = 4


def _two_over_pi() -> int:
    """``floor(2/pi * 2**1280)``, by Machin's formula in integers."""
    one = 1 << (_TWO_OVER_PI_BITS + 64)

    def arctan_of_inverse(n: int) -> int:
        total = power = one // n
        k = 1
        while power:
            power //= -n * n
            k += 2
            total += power // k
        return total

    pi = 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))
    return ((2 * one) << _TWO_OVER_PI_BITS) // pi


@functools.cache
def _reduction_table() -> tuple[float, ...]:
    """For each group of 16 exponents, ``2**(16 g - 1075) * 2/pi mod 4`` as a sum of four doubles."""
    table = []
    two_over_pi = Fraction(_two_over_pi(), 1 << _TWO_OVER_PI_BITS)
    for group in range(_TABLE_FIRST, 128):
        rest = two_over_pi * Fraction(2) ** (16 * group - 1075) % 4
        for _ in range(_TABLE_PARTS):
            part = float(rest)
            table.append(part)
            rest -= Fraction(part)
    return tuple(table)


def _two_sum(a: Num, b: Num) -> tuple[Num, Num]:
    """``a + b`` and its rounding error, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _mod4(x: Num) -> Num:
    return x - round_with(x * 0.25, "rint") * 4.0


def _table_lookup(group: Num, part: int) -> Num:
    fb, lanes = group.fb, group.v.lanes
    values = ", ".join(str(constant("double", v)) for v in _reduction_table())
    count = (128 - _TABLE_FIRST) * _TABLE_PARTS
    table = fb.module.global_("math.two_over_pi", f"private constant [{count} x double] [{values}], align 64")

    def entry(index: V) -> V:
        position = fb.add(fb.mul(index, fb.i64(_TABLE_PARTS)), fb.i64(part))
        return fb.load("double", fb.gep("double", table, position))

    if not lanes:
        return Num(fb, entry(group.v))
    result = V(vector_of("double", lanes), "poison")
    for lane in range(lanes):
        result = fb.insert(result, entry(fb.extract(group.v, lane)), lane)
    return Num(fb, result)


def _reduce_any(a: Num) -> tuple[Num, Num]:
    """Payne and Hanek's reduction of doubles ``a >= 2**20``: multiply by the bits of 2/pi that matter.

    Returns (integers whose low two bits count the quarter turns, the remaining angle). Smaller
    numbers and NaN give an unspecified result.
    """
    f = DOUBLE
    bits = a.bits()
    exponent = bits >> f.mantissa
    group = exponent >> 4
    row = where(group < _TABLE_FIRST, group.lift(0), group - _TABLE_FIRST) & 63
    row = where(row > 127 - _TABLE_FIRST, row.lift(0), row)
    mantissa = (bits & ((1 << f.mantissa) - 1)) | (f.one_bits + (f.mantissa << f.mantissa))
    # 53 bits times 2^(exponent mod 16): at most 2^68, so four parts leave an error of 2^-140.
    m = (mantissa + ((exponent & 15) << f.mantissa)).as_float()
    t = [_table_lookup(row, part) for part in range(_TABLE_PARTS)]
    high = [m * part for part in t[:3]]
    low = [exact_fma(m, part, -h) for part, h in zip(t, high)]
    s, e1 = _two_sum(_mod4(high[0]), _mod4(low[0]))
    s, e2 = _two_sum(s, _mod4(high[1]))
    small, e3 = _two_sum(low[1], high[2])
    shifted = s + f.round_shift
    s, e4 = _two_sum(s - (shifted - f.round_shift), small)
    fraction = s + (e1 + e2 + e3 + e4 + (low[2] + m * t[3]))
    angle = fraction * _HALF_PI_DOUBLE[0]
    return shifted.bits(), where(a < float("inf"), angle, float("nan"))


def _reduce_quarter_turns(a: Num) -> tuple[Num, Num]:
    """``a = q*pi/2 + r`` for a >= 0: returns (integers whose low two bits are those of q, r)."""
    fb, f = a.fb, format_of(a.v)
    high, middle, low = _HALF_PI_FLOAT if f is FLOAT else _HALF_PI_DOUBLE
    shifted = mul_add(a, _TWO_OVER_PI, f.round_shift)
    n = shifted - f.round_shift
    # The first step is exact: a and n*high are multiples of the last bit of `high`, and cancel to below 1.
    r = exact_fma(n, -low, exact_fma(n, -middle, exact_fma(n, -high, a)))
    # The parts of pi/2 run out at 2^20 (float), and n at 2^50 (double).
    far = (a > (2.0**20 if f is FLOAT else 2.0**50)).v
    any_far = far
    if a.v.lanes:
        mask = fb.cast("bitcast", far, f"i{a.v.lanes}")
        any_far = fb.icmp("ne", mask, V(mask.type, "0"))

    def far_turns(v: Num) -> Num:
        return _reduce_any(v)[0].as_float()

    def far_angle(v: Num) -> Num:
        return _reduce_any(v)[1]

    branches = fb.if_else(any_far)
    with branches.then():
        wide = a.convert("fpext", "double") if f is FLOAT else a
        q = Num(fb, outlined(fb, "far_turns", (wide.v,), far_turns)).bits()
        angle = Num(fb, outlined(fb, "far_angle", (wide.v,), far_angle))
        if f is FLOAT:
            q, angle = q.convert("trunc", "i32"), angle.convert("fptrunc", "float")
        is_far = Num(fb, far)
        branches.give(where(is_far, q, shifted.bits()).v, where(is_far, angle, r).v)
    with branches.otherwise():
        branches.give(shifted.bits().v, r.v)
    turns, rest = branches.results()
    return Num(fb, turns), Num(fb, rest)


# -- the functions ----------------------------------------------------------------------------


def _sin_cos(r: Num, narrow: bool = False) -> tuple[Num, Num]:
    """sin(r) and cos(r), |r| <= pi/4."""
    f = format_of(r.v)
    sin_c: Sequence[float] = _SIN_FLOAT if f is FLOAT else _SIN_NARROW if narrow else _SIN_DOUBLE
    cos_c: Sequence[float] = _COS_FLOAT if f is FLOAT else _COS_NARROW if narrow else _COS_DOUBLE
    z = r * r
    half = mul_add(z, -0.5, 1.0)
    # 1 - z/2 rounds; what it lost goes into the small term.
    lost = mul_add(z, -0.5, 1.0 - half)
    return mul_add(r * z, polynomial(z, sin_c), r), half + mul_add(z * z, polynomial(z, cos_c), lost)


def _pick(q: Num, sine: Num, cosine: Num, sign: Num) -> Num:
    """`sine` or `cosine` by the low bit of `q`, negated by its next bit and by the sign bit of `sign`."""
    f = format_of(sine.v)
    top = f.mantissa + (8 if f is FLOAT else 11)
    chosen = where((q & 1).equals(0), sine, cosine)
    return (chosen.bits() ^ ((q & 2) << (top - 1)) ^ sign).as_float()


def _sign_mask(f_integer: str) -> int:
    return -(1 << (31 if f_integer == "i32" else 63))


def sin(fb: FunctionBuilder, x: V) -> V:
    """Sine of an angle in radians, for every finite angle. float: 1.75 ulp; double: 2.5 ulp. NaN at infinity.

    Vectors with a lane beyond 2**20 (float) or 2**50 (double) take a slower path out of line.
    """
    v = Num(fb, x)
    q, r = _reduce_quarter_turns(v.abs())
    return _pick(q, *_sin_cos(r), v.bits() & _sign_mask(format_of(x).integer)).v


def cos(fb: FunctionBuilder, x: V) -> V:
    """Cosine of an angle in radians; see `sin`. float: 1.75 ulp; double: 2.5 ulp."""
    q, r = _reduce_quarter_turns(Num(fb, x).abs())
    return _pick(q + 1, *_sin_cos(r), q.lift(0)).v


def tan(fb: FunctionBuilder, x: V) -> V:
    """Tangent of an angle in radians; see `sin`. float: 0.51 ulp; double: 4.0 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        q, r = _reduce_quarter_turns(v.abs())
        s, c = _sin_cos(r, narrow)
        even = (q & 1).equals(0)
        return where(even, s, -c) / where(even, c, s) * v.lift(1.0).with_sign_of(v)

    return through_double(fb, "tan", (x,), body)


def _atan_positive(numerator: Num, denominator: Num, narrow: bool) -> Num:
    """atan(numerator/denominator) for values >= 0; 0/0 counts as 0 and inf/inf as 1."""
    infinity = float("inf")
    both = where(denominator.equals(numerator), numerator.lift(1.0), numerator / denominator)
    q = where(numerator.equals(0.0), numerator, both)
    # Thirds of [0, inf): q, (q-1)/(q+1) from pi/4, and -1/q from pi/2.
    low, high = q <= 0.41421356237309503, q > 2.414213562373095
    top = where(low, q, where(high, q.lift(-1.0), q - 1.0))
    bottom = where(low, q.lift(1.0), where(high, q, q + 1.0))
    t = top / bottom
    t = where(q.equals(infinity), 0.0, t)
    z = t * t
    base = where(low, q.lift(0.0), where(high, q.lift(_HALF_PI_DOUBLE[0]), 0.7853981633974483))
    rest = where(low, q.lift(0.0), where(high, q.lift(_HALF_PI_DOUBLE[1]), 3.061616997868383e-17))
    return base + (mul_add(t * z, polynomial(z, _ATAN_NARROW if narrow else _ATAN_DOUBLE), rest) + t)


def atan(fb: FunctionBuilder, x: V) -> V:
    """Arc tangent. float: 0.51 ulp; double: 2.0 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        return _atan_positive(v.abs(), v.lift(1.0), narrow).with_sign_of(v)

    return through_double(fb, "atan", (x,), body)


def atan2(fb: FunctionBuilder, y: V, x: V) -> V:
    """Angle of the point (x, y) in (-pi, pi], with C99's signed zeros and infinities.

    float: 0.51 ulp; double: 2.5 ulp. Called out of line.
    """

    def body(y: Num, x: Num, narrow: bool) -> Num:
        angle = _atan_positive(y.abs(), x.abs(), narrow)
        negative = x.lift(1.0).with_sign_of(x) < 0.0
        other = (3.141592653589793 - angle) + 1.2246467991473532e-16
        result = where(negative, other, angle)
        result = where(x.is_nan(), x, where(y.is_nan(), y, result))
        return result.with_sign_of(y)

    return through_double(fb, "atan2", (y, x), body)


def _asin_half(a: Num, z: Num, narrow: bool) -> Num:
    """asin(a) - a for 0 <= a <= 1/2 and z = a^2."""
    return a * z * polynomial(z, _ASIN_NARROW if narrow else _ASIN_DOUBLE)


def asin(fb: FunctionBuilder, x: V) -> V:
    """Arc sine, NaN outside [-1, 1]. float: 0.51 ulp; double: 2.0 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        a = v.abs()
        big = a > 0.5
        z = where(big, (1.0 - a) * 0.5, a * a)
        root = where(big, z.sqrt(), a)
        tail = _asin_half(root, z, narrow)
        # pi/2 - 2 asin(root), the low part of pi/2 added to the small terms.
        far = _HALF_PI_DOUBLE[0] - ((root * 2.0) - (_HALF_PI_DOUBLE[1] - tail * 2.0))
        return where(big, far, root + tail).with_sign_of(v)

    return through_double(fb, "asin", (x,), body)


def acos(fb: FunctionBuilder, x: V) -> V:
    """Arc cosine, NaN outside [-1, 1]. float: 0.51 ulp; double: 2.0 ulp. Called out of line."""

    def body(v: Num, narrow: bool) -> Num:
        a = v.abs()
        big = a > 0.5
        z = where(big, (1.0 - a) * 0.5, a * a)
        root = where(big, z.sqrt(), v)
        tail = _asin_half(root, z, narrow)
        twice = (root + tail) * 2.0
        near_minus_one = 3.141592653589793 - (twice - 1.2246467991473532e-16)
        middle = _HALF_PI_DOUBLE[0] - (root - (_HALF_PI_DOUBLE[1] - tail))
        return where(big, where(v < 0.0, near_minus_one, twice), middle)

    return through_double(fb, "acos", (x,), body)
