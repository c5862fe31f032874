"""Arithmetic on `V` with operators, so that the elementary functions read as formulas.

A `Num` is a float or integer value (scalar or vector) bound to the function it is emitted into;
Python numbers become splat constants. `Format` holds what differs between float and double.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, vector_of

_FLOATS = ("half", "bfloat", "float", "double")


@dataclass(frozen=True, slots=True)
class Num:
    """A value and the builder that its operators append to."""

    fb: FunctionBuilder
    v: V

    def lift(self, other: Num | float) -> Num:
        """`other` as a value of this type."""
        return other if isinstance(other, Num) else Num(self.fb, constant(self.v.type, other))

    def _binary(self, floating: str, integer: str, a: Num | float, b: Num | float) -> Num:
        opcode = floating if self.v.element in _FLOATS else integer
        return Num(self.fb, self.fb.binary(opcode, self.lift(a).v, self.lift(b).v))

    def __add__(self, other: Num | float) -> Num:
        return self._binary("fadd", "add", self, other)

    def __radd__(self, other: float) -> Num:
        return self._binary("fadd", "add", other, self)

    def __sub__(self, other: Num | float) -> Num:
        return self._binary("fsub", "sub", self, other)

    def __rsub__(self, other: float) -> Num:
        return self._binary("fsub", "sub", other, self)

    def __mul__(self, other: Num | float) -> Num:
        return self._binary("fmul", "mul", self, other)

    def __rmul__(self, other: float) -> Num:
        return self._binary("fmul", "mul", other, self)

    def __truediv__(self, other: Num | float) -> Num:
        return self._binary("fdiv", "sdiv", self, other)

    def __rtruediv__(self, other: float) -> Num:
        return self._binary("fdiv", "sdiv", other, self)

    def __neg__(self) -> Num:
        return Num(self.fb, self.fb.fneg(self.v))

    def __and__(self, other: Num | int) -> Num:
        return self._binary("", "and", self, other)

    def __or__(self, other: Num | int) -> Num:
        return self._binary("", "or", self, other)

    def __xor__(self, other: Num | int) -> Num:
        return self._binary("", "xor", self, other)

    def __lshift__(self, other: int) -> Num:
        return self._binary("", "shl", self, other)

    def __rshift__(self, other: int) -> Num:
        """Logical shift: AVX2 has no arithmetic one for 64-bit lanes."""
        return self._binary("", "lshr", self, other)

    def _compare(self, floating: str, integer: str, other: Num | float) -> Num:
        other = self.lift(other)
        if self.v.element in _FLOATS:
            return Num(self.fb, self.fb.fcmp(floating, self.v, other.v))
        return Num(self.fb, self.fb.icmp(integer, self.v, other.v))

    # Ordered comparisons: false when an operand is NaN.
    def __lt__(self, other: Num | float) -> Num:
        return self._compare("olt", "slt", other)

    def __le__(self, other: Num | float) -> Num:
        return self._compare("ole", "sle", other)

    def __gt__(self, other: Num | float) -> Num:
        return self._compare("ogt", "sgt", other)

    def __ge__(self, other: Num | float) -> Num:
        return self._compare("oge", "sge", other)

    def equals(self, other: Num | float) -> Num:
        return self._compare("oeq", "eq", other)

    def is_nan(self) -> Num:
        return self._compare("uno", "", self)

    def min_of(self, bound: float) -> Num:
        """The smaller of this and `bound`; NaN stays NaN (one ``minps``)."""
        return where(self > bound, bound, self)

    def max_of(self, bound: float) -> Num:
        """The larger of this and `bound`; NaN stays NaN (one ``maxps``)."""
        return where(self < bound, bound, self)

    def bits(self) -> Num:
        """The same bits as integers."""
        to = vector_of(format_of(self.v).integer, self.v.lanes)
        return Num(self.fb, self.fb.cast("bitcast", self.v, to))

    def as_float(self) -> Num:
        """Integer bits of width 32 or 64 as floating point."""
        element = {"i32": "float", "i64": "double"}[self.v.element]
        return Num(self.fb, self.fb.cast("bitcast", self.v, vector_of(element, self.v.lanes)))

    def abs(self) -> Num:
        return Num(self.fb, self.fb.intrinsic("fabs", self.v))

    def sqrt(self) -> Num:
        return Num(self.fb, self.fb.intrinsic("sqrt", self.v))

    def with_sign_of(self, other: Num) -> Num:
        return Num(self.fb, self.fb.intrinsic("copysign", self.v, other.v))

    def convert(self, opcode: str, element: str) -> Num:
        """``fpext``, ``fptrunc``, ``sext`` … to the same number of lanes of `element`."""
        return Num(self.fb, self.fb.cast(opcode, self.v, vector_of(element, self.v.lanes)))


def where(condition: Num, a: Num | float, b: Num | float) -> Num:
    """Lane by lane `a` where `condition`, else `b`; at least one of them is a `Num`."""
    like = a if isinstance(a, Num) else b
    assert isinstance(like, Num)
    return Num(like.fb, like.fb.select(condition.v, like.lift(a).v, like.lift(b).v))


def mul_add(a: Num, b: Num | float, c: Num | float) -> Num:
    """a*b + c, fused where the target does that fast. For sums that need not be exact."""
    return Num(a.fb, a.fb.intrinsic("fmuladd", a.v, a.lift(b).v, a.lift(c).v))


def exact_fma(a: Num, b: Num | float, c: Num | float) -> Num:
    """a*b + c rounded once on every target (a library call where there is no instruction)."""
    return Num(a.fb, a.fb.intrinsic("fma", a.v, a.lift(b).v, a.lift(c).v))


def round_with(x: Num, mode: str) -> Num:
    """`x` rounded to a whole number by the LLVM intrinsic ``llvm.<mode>``."""
    return Num(x.fb, x.fb.intrinsic(mode, x.v))


def polynomial(x: Num, coefficients: Sequence[float]) -> Num:
    """The polynomial with the constant term first, by Estrin's scheme.

    Pairs of terms, then pairs of pairs, are summed side by side. It costs two multiplications more than Horner's
    rule, but a core's scheduler holds only two or three iterations of such a function, so that the length
    of the dependency chain matters (log on Zen 3: 0.65 ns an element, 0.76 with Horner's rule).
    """
    terms = [x.lift(c) for c in coefficients]
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2])
        odd = terms[-1:] if len(terms) % 2 else []
        terms = [mul_add(x, high, low) for low, high in pairs] + odd
        x = x * x
    return terms[0]


@dataclass(frozen=True, slots=True)
class Format:
    """Constants of a binary floating-point format.

    `round_shift` is 1.5 * 2**mantissa: adding it to ``|y| < 2**(mantissa-1)`` rounds `y` to the
    nearest integer, which then stands in the low bits. Unlike ``fptosi`` this is defined for
    every input, and AVX2 has no conversion between 64-bit integers and doubles.
    """

    integer: str
    mantissa: int
    bias: int
    smallest_normal: float
    ln2_high: float
    ln2_low: float

    @property
    def round_shift(self) -> float:
        return 1.5 * 2.0**self.mantissa

    @property
    def round_shift_bits(self) -> int:
        return ((self.bias + self.mantissa) << self.mantissa) | (1 << (self.mantissa - 1))

    @property
    def one_bits(self) -> int:
        return self.bias << self.mantissa


# ln 2 in two parts; the high one has zeros at its end so that its product with an exponent is exact without FMA.
FLOAT = Format("i32", 23, 127, 2.0**-126, 0.693145751953125, 1.428606765330187e-06)
DOUBLE = Format("i64", 52, 1023, 2.0**-1022, 0.6931471804855391, 7.440617110012397e-11)


def format_of(v: V) -> Format:
    """The format of a float or double value.

    Raises:
        TypeError: another element type.
    """
    if v.element == "float":
        return FLOAT
    if v.element == "double":
        return DOUBLE
    raise TypeError(f"elementary functions take float or double, not {v.type}")


def outlined(fb: FunctionBuilder, name: str, operands: Sequence[V], body: Callable[..., Num]) -> V:
    """Call `body` as an internal function of the module, emitted once for each operand type.

    `body` receives a `Num` for each operand and returns one of the first operand's type.
    """
    type_ = operands[0].type
    suffix = f"v{operands[0].lanes}{operands[0].element}" if operands[0].lanes else type_
    full = f"math.{name}.{suffix}"
    if full not in fb.module.functions:
        inner = fb.module.function(
            full,
            [(o.type, f"x{i}") for i, o in enumerate(operands)],
            type_,
            internal=True,
            attributes="noinline nounwind willreturn memory(none)",
        )
        inner.ret(body(*(Num(inner, a) for a in inner.args)).v)
        inner.finish()
    return fb.call(full, type_, *operands)


def through_double(fb: FunctionBuilder, name: str, operands: Sequence[V], body: Callable[..., Num]) -> V:
    """A function computed in double for both formats, called out of line.

    For float operands `body` runs on widened values with ``narrow=True`` (about 2^-34 relative error
    is enough then) and one rounding to float follows, so results are within 0.51 ulp or so.
    """
    narrow = format_of(operands[0]) is FLOAT

    def whole(*values: Num) -> Num:
        if not narrow:
            return body(*values, False)
        return body(*(v.convert("fpext", "double") for v in values), True).convert("fptrunc", "float")

    return outlined(fb, name, operands, whole)
