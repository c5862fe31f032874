"""Identities of elementwise operations: exact for IEEE numbers (signed zeros, infinities and NaN included), unless
a pattern says otherwise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ds_compiler.ir import Builder, Value
from ds_compiler.ops import Binary, Cast, Compare, Constant, Reduce, ReduceWindow, Select, Unary
from ds_compiler.passes.cse import COMMUTATIVE
from ds_compiler.passes.matching import constant, defined_by, full, is_splat, splat
from ds_compiler.passes.patterns.canonical import pattern
from ds_compiler.passes.rewriter import Rewrite

_SWAPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def _is_constant(value: Value) -> bool:
    return constant(value) is not None or splat(value) is not None


def _is_negative_zero(value: Value) -> bool:
    number = splat(value)
    return number is not None and number == 0 and bool(np.signbit(np.float64(number)))


@pattern(Binary, Compare)
def constant_to_the_right(op: Binary | Compare, builder: Builder) -> Rewrite:
    """``c + x`` → ``x + c``; comparisons are mirrored."""
    kind = _SWAPPED.get(op.kind, op.kind if op.kind in COMMUTATIVE else None)
    if kind is None or not _is_constant(op.lhs) or _is_constant(op.rhs):
        return None
    return builder.emit(type(op)(op.rhs, op.lhs, kind))


@pattern(Binary)
def neutral_operand(op: Binary, builder: Builder) -> Rewrite:
    """``x*1``, ``x/1``, ``x-0``, ``x+(-0.0)``, ``x**1``, integer ``x+0``, ``x and true``, … → ``x``."""
    float_ = op.lhs.type.dtype.is_float
    match op.kind:
        case "mul" | "div" | "pow":
            neutral = is_splat(op.rhs, 1)
        case "add":
            neutral = _is_negative_zero(op.rhs) if float_ else is_splat(op.rhs, 0)
        case "sub":
            neutral = is_splat(op.rhs, 0) and not (float_ and _is_negative_zero(op.rhs))
        case "shl" | "shr" | "xor":
            neutral = is_splat(op.rhs, 0)
        case "or":
            neutral = is_splat(op.rhs, 0) or op.lhs is op.rhs
        case "and":
            everything = True if op.lhs.type.dtype.kind == "b" else None
            neutral = (everything is not None and is_splat(op.rhs, True)) or op.lhs is op.rhs
        case "max":
            neutral = op.lhs is op.rhs or (float_ and is_splat(op.rhs, -math.inf))
        case "min":
            neutral = op.lhs is op.rhs or (float_ and is_splat(op.rhs, math.inf))
        case _:
            neutral = False
    return op.lhs if neutral else None


@pattern(Binary)
def absorbing_operand(op: Binary, builder: Builder) -> Rewrite:
    """Integer ``x*0``, ``x and 0``, bool ``x or true``, ``x max inf`` ignore x (float max and min do not: NaN)."""
    kind = op.lhs.type.dtype.kind
    absorbs = (
        (op.kind in ("mul", "and") and kind in "iub" and is_splat(op.rhs, 0))
        or (op.kind in ("or", "max") and kind == "b" and is_splat(op.rhs, True))
        or (op.kind == "min" and kind == "b" and is_splat(op.rhs, False))
    )
    return op.rhs if absorbs else None


@pattern(Binary)
def subtraction_of_itself(op: Binary, builder: Builder) -> Rewrite:
    """Integer ``x-x`` and ``x xor x`` → 0 (a float x may be infinite or NaN)."""
    if op.kind not in ("sub", "xor") or op.lhs is not op.rhs or op.lhs.type.dtype.is_float:
        return None
    return full(builder, op.result.type, 0)


@pattern(Binary)
def negated_operand(op: Binary, builder: Builder) -> Rewrite:
    """``x + (-y)`` → ``x - y``; ``x - (-y)`` → ``x + y``; ``x * -1`` → ``-x``."""
    kind = op.lhs.type.dtype.kind
    if op.kind == "mul" and kind in "fi" and is_splat(op.rhs, -1):
        return builder.emit(Unary(op.lhs, "neg"))
    if op.kind not in ("add", "sub"):
        return None
    flipped = "sub" if op.kind == "add" else "add"
    negation = defined_by(op.rhs, Unary)
    if negation is not None and negation.kind == "neg":
        return builder.emit(Binary(op.lhs, negation.operand, flipped))
    negation = defined_by(op.lhs, Unary)
    if op.kind == "add" and negation is not None and negation.kind == "neg":
        return builder.emit(Binary(op.rhs, negation.operand, "sub"))
    return None


@pattern(Binary)
def division_by_power_of_two(op: Binary, builder: Builder) -> Rewrite:
    """Float ``x / 2**k`` → ``x * 2**-k``: exact, as long as the reciprocal is a normal number."""
    divisor = splat(op.rhs)
    dtype = op.lhs.type.dtype
    if op.kind != "div" or dtype.name not in ("f32", "f64") or divisor is None:
        return None
    mantissa, exponent = math.frexp(float(divisor))
    limit = 120 if dtype.name == "f32" else 1000
    if abs(mantissa) != 0.5 or abs(exponent) > limit:
        return None
    return builder.emit(Binary(op.lhs, full(builder, op.rhs.type, 1.0 / float(divisor)), "mul"))


@pattern(Binary)
def one_over(op: Binary, builder: Builder) -> Rewrite:
    """Float ``1 / x`` → ``reciprocal x``."""
    if op.kind != "div" or not op.lhs.type.dtype.is_float or not is_splat(op.lhs, 1):
        return None
    return builder.emit(Unary(op.rhs, "reciprocal"))


@pattern(Binary)
def small_power(op: Binary, builder: Builder) -> Rewrite:
    """``x**2`` → ``x*x``, ``x**3`` → ``x*x*x`` (within an ULP of the exact power), ``x**-1`` → ``1/x``,
    ``x**0.5`` → ``sqrt x`` and ``x**0.75`` → ``sqrt x * sqrt sqrt x`` (of local response normalisation) where x is
    never negative (they differ at -inf and -0.0)."""
    exponent = splat(op.rhs)
    if op.kind != "pow" or exponent is None:
        return None
    x, float_ = op.lhs, op.lhs.type.dtype.is_float
    if exponent == 2:
        return builder.emit(Binary(x, x, "mul"))
    if exponent == 3:
        return builder.emit(Binary(builder.emit(Binary(x, x, "mul")), x, "mul"))
    if not float_:
        return None
    if exponent == -1:
        return builder.emit(Unary(x, "reciprocal"))
    if exponent == 0.5 and is_non_negative(x):
        return builder.emit(Unary(x, "sqrt"))
    if exponent == -0.5 and is_non_negative(x):
        return builder.emit(Unary(x, "rsqrt"))
    if exponent == 0.75 and x.type.dtype.bits >= 32 and is_non_negative(x):
        root = builder.emit(Unary(x, "sqrt"))
        return builder.emit(Binary(root, builder.emit(Unary(root, "sqrt")), "mul"))
    return None


def is_non_negative(value: Value, depth: int = 6) -> bool:
    """Every element is proven >= +0.0 or NaN."""
    number = splat(value)
    if number is not None:
        return bool(number >= 0) and not bool(np.signbit(np.float64(number)))
    op = value.defining_op
    if depth == 0 or op is None:
        return False
    match op:
        case Unary(kind="abs" | "exp" | "sigmoid"):
            return True
        case Unary(kind="sqrt"):
            return is_non_negative(op.operand, depth - 1)
        case Binary(kind="mul") if op.lhs is op.rhs:
            return True
        case Binary(kind="add" | "mul" | "div" | "max"):
            return is_non_negative(op.lhs, depth - 1) and is_non_negative(op.rhs, depth - 1)
        case Reduce(how="sum" | "mean" | "max" | "min" | "prod") | ReduceWindow(how="sum" | "mean" | "mean_valid"):
            return is_non_negative(op.operand, depth - 1)
        case _ if op.name in ("reshape", "broadcast", "transpose", "slice"):
            return is_non_negative(op.operands[0], depth - 1)
    return False


@pattern(Binary)
def merged_clamps(op: Binary, builder: Builder) -> Rewrite:
    """``max(max(x, a), b)`` → ``max(x, max(a, b))``, likewise min, and integer add and mul of two constants."""
    exact = op.kind in ("max", "min", "and", "or") or (
        op.kind in ("add", "mul", "xor") and not op.lhs.type.dtype.is_float
    )
    inner = defined_by(op.lhs, Binary)
    if not exact or inner is None or inner.kind != op.kind or not _is_constant(op.rhs) or not _is_constant(inner.rhs):
        return None
    if _is_constant(inner.lhs):
        return None
    return builder.emit(Binary(inner.lhs, builder.emit(Binary(inner.rhs, op.rhs, op.kind)), op.kind))


@pattern(Unary)
def nested_unary(op: Unary, builder: Builder) -> Rewrite:
    """``-(-x)`` → x, ``abs(abs x)``, ``abs(-x)`` → ``abs x``, ``1/sqrt x`` → ``rsqrt x``, ``not not x`` → x, …"""
    inner = defined_by(op.operand, Unary)
    if inner is None:
        return None
    match op.kind, inner.kind:
        case ("neg", "neg") | ("not", "not"):
            return inner.operand
        case ("abs", "neg" | "abs"):
            return builder.emit(Unary(inner.operand, "abs"))
        case ("floor" | "ceil" | "round" | "trunc", "floor" | "ceil" | "round" | "trunc"):
            return op.operand
        case ("reciprocal", "sqrt"):
            return builder.emit(Unary(inner.operand, "rsqrt"))
    return None


@pattern(Unary)
def negated_difference(op: Unary, builder: Builder) -> Rewrite:
    """Integer ``-(a-b)`` → ``b-a`` (floats: the sign of a zero differs); ``not (a == b)`` → ``a != b``."""
    if op.kind == "neg" and not op.operand.type.dtype.is_float:
        inner = defined_by(op.operand, Binary)
        if inner is not None and inner.kind == "sub":
            return builder.emit(Binary(inner.rhs, inner.lhs, "sub"))
    compare = defined_by(op.operand, Compare)
    if op.kind != "not" or compare is None:
        return None
    opposite = {"eq": "ne", "ne": "eq"}
    if not compare.lhs.type.dtype.is_float:  # with NaN, not (a < b) is not a >= b
        opposite |= {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}
    kind = opposite.get(compare.kind)
    return None if kind is None else builder.emit(Compare(compare.lhs, compare.rhs, kind))


@pattern(Compare)
def comparison_with_itself(op: Compare, builder: Builder) -> Rewrite:
    """Integer ``x == x`` is true, ``x < x`` is false (NaN differs from itself)."""
    if op.lhs is not op.rhs or op.lhs.type.dtype.is_float:
        return None
    return full(builder, op.result.type, op.kind in ("eq", "le", "ge"))


@pattern(Compare)
def comparison_of_bool(op: Compare, builder: Builder) -> Rewrite:
    """Bool ``x == true`` → x, ``x == false`` → ``not x``, and likewise for !=."""
    number = splat(op.rhs)
    if op.lhs.type.dtype.kind != "b" or number is None or op.kind not in ("eq", "ne"):
        return None
    return op.lhs if bool(number) == (op.kind == "eq") else builder.emit(Unary(op.lhs, "not"))


@pattern(Select)
def decided_select(op: Select, builder: Builder) -> Rewrite:
    """A select with a constant condition or equal arms, ``c ? true : false`` → c, ``not c ? a : b`` → ``c ? b : a``."""
    condition = splat(op.condition)
    if condition is not None:
        return op.on_true if condition else op.on_false
    if op.on_true is op.on_false:
        return op.on_true
    if op.result.type.dtype.kind == "b" and is_splat(op.on_true, True) and is_splat(op.on_false, False):
        return op.condition
    negation = defined_by(op.condition, Unary)
    if negation is not None and negation.kind == "not":
        return builder.emit(Select(negation.operand, op.on_false, op.on_true))
    return None


@pattern(Cast)
def composed_casts(op: Cast, builder: Builder) -> Rewrite:
    """A cast to the same type is nothing; of two casts the first goes when it loses nothing."""
    if op.dtype == op.operand.type.dtype:
        return op.operand
    inner = defined_by(op.operand, Cast)
    if inner is None or not widens(inner.operand.type.dtype, inner.dtype):
        return None
    return builder.emit(Cast(inner.operand, op.dtype))


_MANTISSA = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}


def widens(source: Any, target: Any) -> bool:
    """Every value of element type `source` is exact in `target`."""
    if source == target or source.kind == "b":
        return bool(target.kind != "s")
    if source.is_integer and target.is_integer:
        if source.kind == target.kind:
            return bool(source.bits <= target.bits)
        return source.kind == "u" and bool(source.bits < target.bits)
    if source.is_integer and target.is_float:
        return bool(source.bits - (source.kind == "i") <= _MANTISSA.get(target.name, 0))
    if source.is_float and target.is_float:
        return bool(target.name == "f64" or (target.name == "f32" and source.name in ("f16", "bf16")))
    return False


@pattern(Constant)
def uniform_constant(op: Constant, builder: Builder) -> Rewrite:
    """A constant of equal elements → the broadcast of a scalar."""
    value = op.value
    if value.size <= 1 or value.dtype.kind == "O":
        return None
    flat = value.reshape(-1) if value.flags.c_contiguous else value
    first = value[(0,) * value.ndim]
    if first != first or first != value[(-1,) * value.ndim]:
        return None
    if not bool((flat == first).all()):
        return None
    if first == 0 and value.dtype.kind not in "iub":
        signs = np.signbit(value.astype(np.float32))
        if signs.any() and not signs.all():
            return None
    return full(builder, op.result.type, first)
