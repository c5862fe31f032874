"""Rounding, reciprocals, integer division with every case defined, and half-precision conversions."""

from __future__ import annotations

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, vector_of
from ds_compiler.backends.llvm.math_expr import Num, where


def round_half_even(fb: FunctionBuilder, x: V) -> V:
    """Nearest whole number, ties to even."""
    return fb.intrinsic("roundeven", x)


def floor(fb: FunctionBuilder, x: V) -> V:
    """Largest whole number that is not above `x`."""
    return fb.intrinsic("floor", x)


def ceil(fb: FunctionBuilder, x: V) -> V:
    """Smallest whole number that is not below `x`."""
    return fb.intrinsic("ceil", x)


def trunc(fb: FunctionBuilder, x: V) -> V:
    """`x` without its fraction."""
    return fb.intrinsic("trunc", x)


def sqrt(fb: FunctionBuilder, x: V) -> V:
    """Square root, correctly rounded."""
    return fb.intrinsic("sqrt", x)


def reciprocal(fb: FunctionBuilder, x: V) -> V:
    """1 / x, correctly rounded."""
    return (1.0 / Num(fb, x)).v


def rsqrt(fb: FunctionBuilder, x: V) -> V:
    """1 / sqrt(x), two correctly rounded steps: within 1.5 ulp."""
    return (1.0 / Num(fb, x).sqrt()).v


# -- integers ---------------------------------------------------------------------------------


def _quotient(a: Num, b: Num, signed: bool) -> tuple[Num, Num]:
    """(truncated quotient, remainder) where LLVM leaves cases undefined: x/0 = 0 rest 0, min/-1 = min rest 0."""
    fb = a.fb
    zero = b.equals(0)
    if not signed:
        safe = where(zero, 1, b)
        q = where(zero, 0, Num(fb, fb.binary("udiv", a.v, safe.v)))
        return q, where(zero, 0, a - q * b)
    minus_one = b.equals(-1)
    safe = where(zero, 1, where(minus_one, 1, b))
    q = a / safe
    q = where(zero, 0, where(minus_one, 0 - a, q))
    return q, where(zero, 0, a - q * b)


def trunc_div(fb: FunctionBuilder, a: V, b: V, *, signed: bool = True) -> V:
    """Integer quotient rounded towards zero; x/0 = 0, and the smallest number over -1 wraps to itself."""
    return _quotient(Num(fb, a), Num(fb, b), signed)[0].v


def trunc_mod(fb: FunctionBuilder, a: V, b: V, *, signed: bool = True) -> V:
    """Remainder with the sign of `a` (C's %); 0 for b = 0."""
    return _quotient(Num(fb, a), Num(fb, b), signed)[1].v


def _rounds_down(rest: Num, b: Num) -> Num:
    """-1 where the truncated quotient lies above the exact one, else 0."""
    return where((rest ^ b) < 0, where(rest.equals(0), rest.lift(0), -1), 0)


def floor_div(fb: FunctionBuilder, a: V, b: V, *, signed: bool = True) -> V:
    """Integer quotient rounded down (Python's and NumPy's //); x//0 = 0, the smallest number over -1 wraps."""
    divisor = Num(fb, b)
    q, rest = _quotient(Num(fb, a), divisor, signed)
    return (q + _rounds_down(rest, divisor)).v if signed else q.v


def floor_mod(fb: FunctionBuilder, a: V, b: V, *, signed: bool = True) -> V:
    """Remainder with the sign of `b` (Python's and NumPy's %); 0 for b = 0."""
    divisor = Num(fb, b)
    _, rest = _quotient(Num(fb, a), divisor, signed)
    return (rest + (_rounds_down(rest, divisor) & divisor)).v if signed else rest.v


# -- 16-bit floats ----------------------------------------------------------------------------


def _to_integer(x: V, element: str, fb: FunctionBuilder) -> Num:
    return Num(fb, fb.cast("bitcast", x, vector_of(element, x.lanes)))


def to_f32(fb: FunctionBuilder, x: V, *, f16c: bool = True) -> V:
    """`half` or `bfloat` values as float, exactly.

    `f16c` says that the target has half conversions (x86-64-v3 and up, AArch64); without, integer
    operations do it, because LLVM would call a routine that need not exist.

    Raises:
        TypeError: another element type.
    """
    if x.element == "bfloat":
        return (_to_integer(x, "i16", fb).convert("zext", "i32") << 16).as_float().v
    if x.element != "half":
        raise TypeError(f"to_f32 takes half or bfloat, not {x.type}")
    if f16c:
        return fb.cast("fpext", x, vector_of("float", x.lanes))
    bits = _to_integer(x, "i16", fb).convert("zext", "i32")
    magnitude = (bits & 0x7FFF) << 13
    # Moving the exponent by multiplication normalises subnormals too.
    finite = (magnitude.as_float() * 2.0**112).bits()
    result = where(magnitude < (0x7C00 << 13), finite, magnitude | 0x7F800000)
    return (result | ((bits & 0x8000) << 16)).as_float().v


def from_f32(fb: FunctionBuilder, x: V, element: str, *, f16c: bool = True) -> V:
    """float values as `element` (``half`` or ``bfloat``), rounded to nearest even; NaN stays NaN. See `to_f32`.

    Raises:
        TypeError: another element type or source.
    """
    if x.element != "float" or element not in ("half", "bfloat"):
        raise TypeError(f"from_f32 takes float to half or bfloat, not {x.type} to {element}")
    v = Num(fb, x)
    to = vector_of(element, x.lanes)
    if element == "half" and f16c:
        return fb.cast("fptrunc", x, to)
    bits = v.bits()
    if element == "bfloat":
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        short = where(v.is_nan(), (bits >> 16) | 0x40, rounded)
    else:
        magnitude = bits & 0x7FFFFFFF
        normal = (magnitude + (((magnitude >> 13) & 1) + (0xFFF - (112 << 23)))) >> 13
        # Adding 1/2 leaves the subnormal half's bits, rounded, at the end of the float.
        subnormal = (magnitude.as_float() + 0.5).bits() - 0x3F000000
        short = where(magnitude < 0x38800000, subnormal, normal)
        short = where(magnitude < 0x47800000, short, 0x7C00)
        short = where(v.is_nan(), 0x7E00, short) | ((bits >> 16) & 0x8000)
    return fb.cast("bitcast", short.convert("trunc", "i16").v, to)
