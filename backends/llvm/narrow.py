"""Floats of 8 and 4 bits and integers of 4 and 2, which memory holds one a byte and registers as float or i8.

A small float moves to float32 by shifting its bits to the top of the fraction and multiplying by the difference of
the biases: that is exact, subnormal numbers included. `POWER` is an exponent alone, that of float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant
from ds_compiler.backends.llvm.math_expr import Num, where
from ds_compiler.ir.dtypes import DType


@dataclass(frozen=True)
class Small:
    """A float format below 16 bits.

    Attributes:
        mantissa: bits of the fraction.
        bias: what the exponent field is above the exponent.
        largest: bits of the largest number.
        beyond: bits, without sign, that a larger one becomes.
        nan: bits that NaN becomes.
        infinite: bits of infinity, if it has one.
        unsigned_zero: there is no -0, and its bits are NaN.
    """

    mantissa: int
    bias: int
    largest: int
    beyond: int
    nan: int
    infinite: int | None = None
    unsigned_zero: bool = False
    sign: int = 0x80


FLOATS: dict[str, Small] = {
    "f8e4m3fn": Small(3, 7, 0x7E, 0x7F, 0x7F),
    "f8e4m3fnuz": Small(3, 8, 0x7F, 0x80, 0x80, unsigned_zero=True),
    "f8e5m2": Small(2, 15, 0x7B, 0x7C, 0x7E, infinite=0x7C),
    "f8e5m2fnuz": Small(2, 16, 0x7F, 0x80, 0x80, unsigned_zero=True),
    "f4e2m1fn": Small(1, 1, 0x7, 0x7, 0x8, sign=0x8),
}

POWER = "f8e8m0fnu"
"""Powers of two from 2^-127 to 2^127; no sign, no zero; 0xFF is NaN."""


def is_narrow(dtype: DType) -> bool:
    """Whether this file is about the type."""
    return dtype.name in FLOATS or dtype.name == POWER or (dtype.is_integer and dtype.bits < 8)


def from_byte(fb: FunctionBuilder, value: V, dtype: DType) -> V:
    """Bytes of memory as float, or as i8 with the sign spread over the upper bits."""
    if dtype.is_integer:
        up = constant(value.type, 8 - dtype.bits)
        return fb.binary("ashr" if dtype.kind == "i" else "lshr", fb.binary("shl", value, up), up)
    bits = Num(fb, value).convert("zext", "i32")
    if dtype.name == POWER:
        number = where(bits.equals(0), 1 << 22, bits << 23).as_float()  # 2^-127 is below float32's normal numbers
        return where(bits.equals(0xFF), float("nan"), number).v
    small = FLOATS[dtype.name]
    magnitude = bits & (small.sign - 1)
    number = (magnitude << (23 - small.mantissa)).as_float() * 2.0 ** (127 - small.bias)
    if small.infinite is not None:
        number = where(magnitude.equals(small.infinite), float("inf"), number)
    if small.unsigned_zero:
        number = where(bits.equals(small.nan), float("nan"), number)
    elif small.nan != small.sign:
        number = where(magnitude > (small.largest if small.infinite is None else small.infinite), float("nan"), number)
    sign = (bits & small.sign) << (32 - small.sign.bit_length())
    return (number.bits() | sign).as_float().v


def to_byte(fb: FunctionBuilder, value: V, dtype: DType) -> V:
    """The inverse of `from_byte`; floats are rounded to nearest even, integers lose their upper bits."""
    if dtype.is_integer:
        return fb.binary("and", value, constant(value.type, (1 << dtype.bits) - 1))
    x = Num(fb, value)
    bits = x.bits()
    if dtype.name == POWER:
        # 1.5 is halfway, and goes up; what float32 holds between 2^-127 and 2^-126 goes up as well (as in ml_dtypes)
        exponent = where(bits < 1 << 23, bits + ((1 << 22) - 1), bits + (1 << 22)) >> 23
        return where((bits < 1) | (bits > 0x7F7FFFFF), 0xFF, exponent).convert("trunc", "i8").v
    small = FLOATS[dtype.name]
    magnitude = bits & 0x7FFFFFFF
    drop = 23 - small.mantissa
    rebias = (127 - small.bias) << 23
    normal = (magnitude + ((magnitude >> drop) & 1) + ((1 << (drop - 1)) - 1 - rebias)) >> drop
    # Next to this power of two floats are as far apart as the format's subnormal numbers: the sum is rounded so.
    power = 24 - small.bias - small.mantissa
    near_zero = (magnitude.as_float() + 2.0**power).bits() - ((127 + power) << 23)
    short = where(magnitude < ((128 - small.bias) << 23), near_zero, normal)
    # the number halfway between the largest one and what would follow is the first to lie beyond
    short = where(magnitude < ((256 - 1) << 23), short, small.largest + 1)
    over = short > small.largest
    sign = (bits >> (32 - small.sign.bit_length())) & small.sign
    if small.unsigned_zero:
        signed = where(over, small.beyond, where(short.equals(0), 0, short | sign))
    else:
        signed = where(over, small.beyond, short) | sign
    return where(x.is_nan(), small.nan, signed).convert("trunc", "i8").v
