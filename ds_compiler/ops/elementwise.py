"""Elementwise operations: every operand and the result have one shape (broadcasting is an operation of its own)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ds_compiler.ir import Operation, Value, op
from ds_compiler.ir.cost import Cost, elementwise_cost
from ds_compiler.ir.dtypes import DType, bool_
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.widening import native

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one kind of elementwise operation computes.

    Attributes:
        function: NumPy semantics on arrays of the operands' dtype (floats narrower than 32 bits come as float32).
        accepts: kinds of element types it takes: a subset of ``fiub``.
        flops: floating-point operations an element, for the cost model (a polynomial counts its length).
    """

    function: Callable[..., Any]
    accepts: str
    flops: int = 1


_erf = np.frompyfunc(math.erf, 1, 1)


def _error_function(x: Array) -> Array:
    return np.asarray(_erf(x)).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    magnitude = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, magnitude) / (1 + magnitude))


UNARY: dict[str, Rule] = {
    "neg": Rule(np.negative, "fi"),
    "abs": Rule(np.abs, "fiu"),
    "sign": Rule(np.sign, "fiu"),
    "floor": Rule(np.floor, "f"),
    "ceil": Rule(np.ceil, "f"),
    "round": Rule(np.rint, "f"),
    "trunc": Rule(np.trunc, "f"),
    "sqrt": Rule(np.sqrt, "f", 4),
    "rsqrt": Rule(lambda x: 1 / np.sqrt(x), "f", 5),
    "reciprocal": Rule(lambda x: 1 / x, "f", 4),
    "exp": Rule(np.exp, "f", 10),
    "expm1": Rule(np.expm1, "f", 12),
    "log": Rule(np.log, "f", 12),
    "log1p": Rule(np.log1p, "f", 14),
    "sin": Rule(np.sin, "f", 14),
    "cos": Rule(np.cos, "f", 14),
    "tan": Rule(np.tan, "f", 20),
    "asin": Rule(np.arcsin, "f", 14),
    "acos": Rule(np.arccos, "f", 14),
    "atan": Rule(np.arctan, "f", 14),
    "sinh": Rule(np.sinh, "f", 16),
    "cosh": Rule(np.cosh, "f", 16),
    "tanh": Rule(np.tanh, "f", 12),
    "asinh": Rule(np.arcsinh, "f", 20),
    "acosh": Rule(np.arccosh, "f", 20),
    "atanh": Rule(np.arctanh, "f", 16),
    "erf": Rule(_error_function, "f", 14),
    "sigmoid": Rule(_sigmoid, "f", 12),
    "not": Rule(np.invert, "iub"),
}


def truncated_division(a: Array, b: Array) -> Array:
    """``a / b``; of integers, rounded towards zero, and 0 where `b` is 0."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    safe = np.where(b == 0, 1, b)
    quotient = np.floor_divide(a, safe)
    quotient += ((quotient < 0) & (quotient * safe != a)).astype(a.dtype)
    return np.where(b == 0, 0, quotient).astype(a.dtype)


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.power(a, b))
    powers = np.power(a, np.where(b < 0, 0, b).astype(b.dtype))
    return np.where(b < 0, np.where(np.abs(a) == 1, np.where(b % 2 == 0, 1, a), 0), powers).astype(a.dtype)


BINARY: dict[str, Rule] = {
    "add": Rule(np.add, "fiu"),
    "sub": Rule(np.subtract, "fiu"),
    "mul": Rule(np.multiply, "fiu"),
    "div": Rule(truncated_division, "fiu", 4),
    "mod": Rule(np.mod, "fiu", 6),
    "fmod": Rule(np.fmod, "fiu", 6),
    "pow": Rule(_power, "fiu", 30),
    "max": Rule(np.maximum, "fiub"),
    "min": Rule(np.minimum, "fiub"),
    "atan2": Rule(np.arctan2, "f", 20),
    "and": Rule(np.bitwise_and, "iub"),
    "or": Rule(np.bitwise_or, "iub"),
    "xor": Rule(np.bitwise_xor, "iub"),
    "shl": Rule(np.left_shift, "iu"),
    "shr": Rule(np.right_shift, "iu"),
}

COMPARE: dict[str, Rule] = {
    "eq": Rule(np.equal, "fiubs"),
    "ne": Rule(np.not_equal, "fiubs"),
    "lt": Rule(np.less, "fiub"),
    "le": Rule(np.less_equal, "fiub"),
    "gt": Rule(np.greater, "fiub"),
    "ge": Rule(np.greater_equal, "fiub"),
}

PREDICATE: dict[str, Rule] = {
    "isnan": Rule(np.isnan, "f"),
    "isinf": Rule(np.isinf, "f"),
    "isfinite": Rule(np.isfinite, "f"),
}


def _apply(rule: Rule, result: DType, *operands: Array) -> Array:
    """Apply a rule; narrow floats are computed in float32 and rounded once."""
    with np.errstate(all="ignore"):
        return np.asarray(rule.function(*map(native, operands))).astype(result.numpy)


class _Elementwise(Operation):
    """Shared checks of the operations below."""

    rules: ClassVar[Mapping[str, Rule]]

    def _rule(self) -> Rule:
        rule = self.rules.get(self.mnemonic)
        if rule is None:
            raise self.error(f"unknown kind '{self.mnemonic}'")
        first = self.operands[0].type
        for index, operand in enumerate(self.operands):
            if operand.type != first:
                raise self.error(f"operand {index} is {operand.type}, operand 0 is {first}")
        if first.dtype.kind not in rule.accepts:
            raise self.error(f"does not take element type {first.dtype}")
        return rule

    def evaluate(self, sizes: Mapping[str, int], *operands: Array) -> Array:
        return _apply(self.rules[self.mnemonic], self.result.type.dtype, *operands)

    def cost(self) -> Cost:
        return elementwise_cost(self, self.rules[self.mnemonic].flops)


@op("unary", kinds=UNARY)
class Unary(_Elementwise):
    """One function of each element; result type = operand type."""

    operand: Value
    kind: str
    rules = UNARY

    def infer(self) -> TensorType:
        self._rule()
        return self.operand.type


@op("predicate", kinds=PREDICATE)
class Predicate(_Elementwise):
    """A property of each floating-point element, as bool."""

    operand: Value
    kind: str
    rules = PREDICATE

    def infer(self) -> TensorType:
        self._rule()
        return self.operand.type.with_dtype(bool_)


@op("binary", kinds=BINARY)
class Binary(_Elementwise):
    """A function of two elements of equal type.

    Integer ``div`` truncates towards zero (x/0 is 0), ``mod`` has the divisor's sign, ``fmod`` the dividend's;
    integer arithmetic wraps; ``pow`` of an integer to a negative exponent is 0 unless the base is 1 or -1. ``max`` and
    ``min`` return NaN when either element is NaN.
    """

    lhs: Value
    rhs: Value
    kind: str
    rules = BINARY

    def infer(self) -> TensorType:
        self._rule()
        return self.lhs.type


@op("compare", kinds=COMPARE)
class Compare(_Elementwise):
    """A relation of two elements of equal type, as bool; any relation with NaN but ``ne`` is false."""

    lhs: Value
    rhs: Value
    kind: str
    rules = COMPARE

    def infer(self) -> TensorType:
        self._rule()
        return self.lhs.type.with_dtype(bool_)


@op("select")
class Select(Operation):
    """``condition ? on_true : on_false`` for each element."""

    condition: Value
    on_true: Value
    on_false: Value

    def infer(self) -> TensorType:
        expected = self.on_true.type
        if self.on_false.type != expected:
            raise self.error(f"on_false is {self.on_false.type}, on_true is {expected}")
        if self.condition.type != expected.with_dtype(bool_):
            raise self.error(f"condition is {self.condition.type}, expected {expected.with_dtype(bool_)}")
        return expected

    def evaluate(self, sizes: Mapping[str, int], *operands: Array) -> Array:
        return np.where(*operands).astype(self.result.type.dtype.numpy)


@op("cast")
class Cast(Operation):
    """Convert each element to `dtype`: to bool by ``!= 0``, float to integer by truncation (saturating out of
    range, NaN to 0), to a narrower float by rounding to nearest even."""

    operand: Value
    dtype: DType

    def infer(self) -> TensorType:
        if "s" in (self.operand.type.dtype.kind, self.dtype.kind):
            raise self.error("strings are not converted by compiled programs")
        return self.operand.type.with_dtype(self.dtype)

    def evaluate(self, sizes: Mapping[str, int], *operands: Array) -> Array:
        (x,) = operands
        source, to = self.operand.type.dtype, self.dtype
        if to.kind == "b":
            return np.asarray(x != 0)
        if source.is_float and to.is_integer:
            low, high = to.limits
            wide = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
            # The largest 64-bit integers are no doubles: clip below them, and put them in afterwards.
            inside = np.clip(wide, float(low), np.nextafter(float(high) + 1, 0))
            inside = inside.astype(np.uint64 if to.name == "u64" else np.int64).astype(to.numpy)
            return np.where(wide >= float(high), np.asarray(high, to.numpy), inside)
        if source.is_integer and source.bits < 8:
            x = native(x)  # one 4-bit type does not convert to the other
        elif source.name == "f64" and to.is_float and to.bits < 32:
            x = _rounded_to_odd(x)
        with np.errstate(all="ignore"):
            return x.astype(to.numpy)


@op("bitcast")
class Bitcast(Operation):
    """Each element's bits as an element of another type of equal width (whole bytes): ``numpy.ndarray.view``."""

    operand: Value
    dtype: DType

    def infer(self) -> TensorType:
        source = self.operand.type.dtype
        if "s" in (source.kind, self.dtype.kind) or source.bits != self.dtype.bits or source.bits % 8:
            raise self.error(f"the bits of {source} are no {self.dtype}")
        return self.operand.type.with_dtype(self.dtype)

    def evaluate(self, sizes: Mapping[str, int], *operands: Array) -> Array:
        source = np.ascontiguousarray(operands[0])
        return source.view(self.dtype.numpy).reshape(operands[0].shape)


def _rounded_to_odd(x: Array) -> Array:
    """f64 as f32 such that rounding to a narrower type next gives what rounding once would.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd".
    """
    with np.errstate(all="ignore"):
        near = np.asarray(x.astype(np.float32))
    away = (near != x) & (near.view(np.uint32) % 2 == 0) & ~np.isnan(x)
    return np.where(away, np.nextafter(near, np.where(near < x, np.inf, -np.inf).astype(np.float32)), near)
