"""Arithmetic, comparison and logic, with NumPy broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.listed import Entry
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import bool_, f32
from ds_compiler.ops import Predicate

_UNARY = {
    "Neg": "neg", "Abs": "abs", "Sign": "sign", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sqrt": "sqrt",
    "Reciprocal": "reciprocal", "Exp": "exp", "Log": "log", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin",
    "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh",
    "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf", "Sigmoid": "sigmoid", "Not": "not", "BitwiseNot": "not",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
}  # fmt: skip
_COMPARE = {"Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge"}


@onnx_op(*_UNARY)
def unary(e: Emitter, n: Node) -> Value:
    kind, x = _UNARY[n.op_type], n.input(0)
    if not x.type.dtype.is_float:
        if kind == "erf":  # defined for every numeric type
            return e.cast(e.unary(kind, e.cast(x, f32)), x.type.dtype)
        if kind == "abs" and x.type.dtype.kind == "u":
            return x
    return e.unary(kind, x)


def _operands(e: Emitter, n: Node) -> tuple[Value, Value]:
    """Both operands. Before opset 7 the second is spread over the first where ``broadcast`` says so, its axes in one
    piece from ``axis`` on."""
    lhs, rhs = n.input(0), n.input(1)
    if n.opset < 7 and n.int("broadcast", 0) and n.has("axis"):
        behind = lhs.type.rank - n.axis(n.int("axis", 0), lhs.type.rank) - rhs.type.rank
        rhs = e.reshape(rhs, (*rhs.type.shape, *(1 for _ in range(behind))))
    return lhs, rhs


@onnx_op(*_BINARY)
def binary(e: Emitter, n: Node) -> Value:
    return e.binary(_BINARY[n.op_type], *_operands(e, n))


@onnx_op(*_COMPARE)
def compare(e: Emitter, n: Node) -> Value:
    return e.compare(_COMPARE[n.op_type], *_operands(e, n))


@onnx_op("Pow")
def power(e: Emitter, n: Node) -> Value:
    """The result has the base's element type; the exponent may have another one."""
    base, exponent = _operands(e, n)
    known = e.array(exponent)
    if known is not None and known.size == 1 and base.type.dtype.is_float and exponent.type.rank <= base.type.rank:
        match float(known.reshape(-1)[0]):
            case 1.0:
                return base
            case 2.0:
                return e.binary("mul", base, base)
            case 0.5:
                return e.unary("sqrt", base)
            case -1.0:
                return e.unary("reciprocal", base)
    if base.type.dtype.is_integer and exponent.type.dtype.is_float:
        return e.cast(e.binary("pow", e.cast(base, exponent.type.dtype), exponent), base.type.dtype)
    return e.binary("pow", base, e.cast(exponent, base.type.dtype))


@onnx_op("Mod", since=10)
def modulo(e: Emitter, n: Node) -> Value:
    return e.binary("fmod" if n.int("fmod", 0) else "mod", n.input(0), n.input(1))


@onnx_op("BitShift", since=11)
def bit_shift(e: Emitter, n: Node) -> Value:
    direction = n.choice("direction", "", ("LEFT", "RIGHT"))
    return e.binary("shl" if direction == "LEFT" else "shr", n.input(0), n.input(1))


@onnx_op("Max", "Min", "Sum", "Mean")
def variadic(e: Emitter, n: Node) -> Value:
    values = n.present()
    kind = {"Max": "max", "Min": "min"}.get(n.op_type, "add")
    total = reduce(lambda a, b: e.binary(kind, a, b), values)
    return e.binary("div", total, len(values)) if n.op_type == "Mean" and len(values) > 1 else total


@onnx_op("IsNaN", since=9)
def is_nan(e: Emitter, n: Node) -> Value:
    return e.emit(Predicate(n.input(0), "isnan"))


@onnx_op("IsInf", since=10)
def is_inf(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    negative, positive = n.int("detect_negative", 1), n.int("detect_positive", 1)
    if negative and positive:
        return e.emit(Predicate(x, "isinf"))
    if not negative and not positive:
        return e.full(False, x.type.with_dtype(bool_))
    return e.compare("eq", x, np.inf if positive else -np.inf)


@onnx_op("Where", since=9)
def where(e: Emitter, n: Node) -> Value:
    return e.select(n.input(0), n.input(1), n.input(2))


@onnx_op("Identity", lists=True)
def identity(e: Emitter, n: Node) -> Sequence[Entry | None]:
    return n.entries[:1]


@onnx_op("Clip")
def clip_attributes(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    if n.has("min"):
        x = e.binary("max", x, n.float("min", 0))
    return e.binary("min", x, n.float("max", 0)) if n.has("max") else x


@onnx_op("Clip", since=11)
def clip(e: Emitter, n: Node) -> Value:
    x, low, high = n.input(0), n.optional(1), n.optional(2)
    if low is not None:
        x = e.binary("max", x, e.reshape(low, ()))
    return x if high is None else e.binary("min", x, e.reshape(high, ()))
