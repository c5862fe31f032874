"""Derivatives of elementwise operations; at ties and kinks PyTorch's choices."""

from __future__ import annotations

import math
from collections.abc import Callable

from ds_compiler.ir import Value
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms, splat
from ds_compiler.ops.elementwise import Binary, Bitcast, Cast, Compare, Predicate, Select, Unary


def _over_root(b: Terms, g: Value, square: Value) -> Value:
    return b.mul(g, b.unary("rsqrt", square))


# (builder, operand x, result y, cotangent g) to the operand's cotangent.
UNARY: dict[str, Callable[[Terms, Value, Value, Value], Value | None]] = {
    "neg": lambda b, x, y, g: b.neg(g),
    "abs": lambda b, x, y, g: b.mul(g, b.unary("sign", x)),
    "sign": lambda b, x, y, g: None,
    "floor": lambda b, x, y, g: None,
    "ceil": lambda b, x, y, g: None,
    "round": lambda b, x, y, g: None,
    "trunc": lambda b, x, y, g: None,
    "sqrt": lambda b, x, y, g: b.div(g, b.mul(y, 2)),
    "rsqrt": lambda b, x, y, g: b.mul(b.mul(g, -0.5), b.mul(y, b.square(y))),
    "reciprocal": lambda b, x, y, g: b.mul(b.neg(g), b.square(y)),
    "exp": lambda b, x, y, g: b.mul(g, y),
    "expm1": lambda b, x, y, g: b.mul(g, b.add(y, 1)),
    "log": lambda b, x, y, g: b.div(g, x),
    "log1p": lambda b, x, y, g: b.div(g, b.add(x, 1)),
    "sin": lambda b, x, y, g: b.mul(g, b.unary("cos", x)),
    "cos": lambda b, x, y, g: b.neg(b.mul(g, b.unary("sin", x))),
    "tan": lambda b, x, y, g: b.mul(g, b.add(b.square(y), 1)),
    "asin": lambda b, x, y, g: _over_root(b, g, b.sub(b.full(x.type, 1), b.square(x))),
    "acos": lambda b, x, y, g: b.neg(_over_root(b, g, b.sub(b.full(x.type, 1), b.square(x)))),
    "atan": lambda b, x, y, g: b.div(g, b.add(b.square(x), 1)),
    "sinh": lambda b, x, y, g: b.mul(g, b.unary("cosh", x)),
    "cosh": lambda b, x, y, g: b.mul(g, b.unary("sinh", x)),
    "tanh": lambda b, x, y, g: b.mul(g, b.sub(b.full(x.type, 1), b.square(y))),
    "asinh": lambda b, x, y, g: _over_root(b, g, b.add(b.square(x), 1)),
    "acosh": lambda b, x, y, g: _over_root(b, g, b.sub(b.square(x), 1)),
    "atanh": lambda b, x, y, g: b.div(g, b.sub(b.full(x.type, 1), b.square(x))),
    "erf": lambda b, x, y, g: b.mul(b.mul(g, 2 / math.sqrt(math.pi)), b.unary("exp", b.neg(b.square(x)))),
    "sigmoid": lambda b, x, y, g: b.mul(g, b.mul(b.sub(b.full(x.type, 1), y), y)),
    "not": lambda b, x, y, g: None,
}


@derivative(Unary)
def unary(b: Terms, op: Unary, g: Value) -> Cotangents:
    return [UNARY[op.kind](b, op.operand, op.result, g)]


def _extremum(b: Terms, op: Binary, g: Value) -> Cotangents:
    """Elements that tie share the cotangent.

    Against a number there is nothing to share with: at the bound of a clamp the element takes all of it, at zero
    (a rectifier) nothing.
    """
    x, y = op.lhs, op.rhs
    x_wins, y_wins = ("gt", "lt") if op.kind == "max" else ("lt", "gt")
    for bound, value, wins in ((splat(y), x, x_wins), (splat(x), y, x_wins)):
        if bound is not None:
            number = op.rhs if value is x else op.lhs
            passes = b.compare(wins if bound == 0 else {"gt": "ge", "lt": "le"}[wins], value, number)
            gradient = b.where(passes, g)
            return [gradient, None] if value is x else [None, gradient]
    shared = b.where(b.compare("eq", x, y), b.mul(g, 0.5), g)
    return [b.unless(b.compare(y_wins, x, y), shared), b.unless(b.compare(x_wins, x, y), shared)]


def _power(b: Terms, op: Binary, g: Value) -> Cotangents:
    x, y = op.lhs, op.rhs
    exponent = splat(y)
    if exponent is not None:
        if exponent == 0:
            return [None, None]
        slope = x if exponent == 2 else b.binary("pow", x, exponent - 1)
        return [b.mul(g, b.mul(slope, exponent)), None]
    slope = b.mul(y, b.binary("pow", x, b.sub(y, 1)))
    base = b.unless(b.compare("eq", y, 0), b.mul(g, slope))
    # 0^y is flat in y >= 0, although log(0) is not finite.
    flat = b.where(b.compare("eq", x, 0), b.cast(b.compare("ge", y, 0), x.type.dtype))
    growth = b.unless(b.compare("ne", flat, 0), b.mul(op.result, b.unary("log", x)))
    return [base, b.mul(g, growth)]


@derivative(Binary)
def binary(b: Terms, op: Binary, g: Value) -> Cotangents:
    x, y = op.lhs, op.rhs
    match op.kind:
        case "add":
            return [g, g]
        case "sub":
            return [g, b.neg(g)]
        case "mul":
            return [b.mul(g, y), b.mul(g, x)]
        case "div":
            return [b.div(g, y), b.neg(b.mul(g, b.div(op.result, y)))]
        case "mod":
            return [g, b.neg(b.mul(g, b.unary("floor", b.div(x, y))))]
        case "fmod":
            return [g, b.neg(b.mul(g, b.unary("trunc", b.div(x, y))))]
        case "pow":
            return _power(b, op, g)
        case "max" | "min":
            return _extremum(b, op, g)
        case "atan2":
            size = b.add(b.square(x), b.square(y))
            scaled = b.unless(b.compare("eq", size, 0), b.div(g, size))  # at the origin there is no direction
            return [b.mul(scaled, y), b.neg(b.mul(scaled, x))]
    return [None, None]


@derivative(Compare)
def compare(b: Terms, op: Compare, g: Value) -> Cotangents:
    return [None, None]


@derivative(Predicate)
def predicate(b: Terms, op: Predicate, g: Value) -> Cotangents:
    return [None]


@derivative(Select)
def select(b: Terms, op: Select, g: Value) -> Cotangents:
    """The branch not taken gets an exact zero."""
    return [None, b.where(op.condition, g), b.unless(op.condition, g)]


@derivative(Bitcast)
def bitcast(b: Terms, op: Bitcast, g: Value) -> Cotangents:
    return [None]  # bits are no numbers


@derivative(Cast)
def cast(b: Terms, op: Cast, g: Value) -> Cotangents:
    source = op.operand.type.dtype
    return [b.cast(g, source) if source.is_float else None]
