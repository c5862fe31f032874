"""Elementwise operators, with broadcasting and conversions, and normalisations."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.differential.graph import Graph, Stop, Value

_ANY = [
    "Tanh",
    "Sigmoid",
    "Erf",
    "Softplus",
    "Softsign",
    "Neg",
    "Abs",
    "Relu",
    "HardSwish",
    "Mish",
    "Sin",
    "Cos",
    "Atan",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Identity",
    "Selu",
]
_BOUNDED = ["Exp", "Sinh", "Cosh", "Asinh", "Tan", "Asin", "Acos", "Atanh"]
_POSITIVE = ["Sqrt", "Log", "Reciprocal", "Acosh"]


def smooth(g: Graph) -> None:
    x = g.pick("fffffdh")
    # In f64 the reference evaluator's erf has the precision of f32.
    g.node(g.choose(*(n for n in _ANY if n != "Erf" or x.dtype != np.float64)), [x])


def bounded(g: Graph) -> None:
    """Functions of a part of the numbers, behind one that leads there."""
    x = g.pick("ffffd")
    if g.flag():
        (y,) = g.node("Tanh", [x])
        g.node(g.choose(*_BOUNDED), [y])
    else:
        (y,) = g.node("Abs", [x])
        (y,) = g.node("Add", [y, g.constant(1.5, x.dtype)])
        g.node(g.choose(*_POSITIVE), [y])


def parametrised(g: Graph) -> None:
    x = g.pick("f")
    match g.choose(
        "LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid", "Gelu", "Clip", "Shrink", "PRelu", "IsNaN"
    ):
        case "Gelu":
            g.node("Gelu", [x], approximate=g.choose("none", "tanh"))
        case "Clip":
            low, high = g.choose((-1.0, 1.0), (0.0, 6.0), (-0.5, None), (None, 0.25), (1.0, -1.0))
            g.node("Clip", [x, *(None if b is None else g.constant(b, np.float32) for b in (low, high))])
        case "Shrink":
            g.node("Shrink", [x], lambd=g.choose(0.0, 0.5), bias=g.choose(0.0, 0.3))
        case "PRelu":
            last = x.size(-1) if x.rank else 1
            g.node("PRelu", [x, g.weights(last or 1)])
        case "IsNaN":
            g.node(g.choose("IsNaN", "IsInf"), [x])
        case "HardSigmoid":
            g.node("HardSigmoid", [x], alpha=g.choose(0.2, 0.5), beta=g.choose(0.5, 0.1))
        case operator:
            g.node(operator, [x], alpha=g.choose(0.5, 1.0, 1.7))


def partner(g: Graph, x: Value, kinds: str) -> Value:
    """A value that `x` broadcasts with: one of the graph's, a constant of some of its axes, or a scalar."""

    def fits(other: Value) -> bool:
        if other.dtype != x.dtype:
            return False
        pairs = zip(x.shapes, other.shapes, strict=True)
        return all(m == n or m == 1 or n == 1 for a, b in pairs for m, n in zip(a[::-1], b[::-1], strict=False))

    match g.choose("value", "value", "constant", "scalar"):
        case "value":
            return g.pick(kinds, 0, fits)
        case "constant":
            rank = g.number(0, x.rank)
            sizes = [x.size(axis) if g.number(0, 3) else 1 for axis in range(x.rank - rank, x.rank)]
            return g.weights(*(1 if s is None else s for s in sizes), like=x.dtype)
    return g.weights(like=x.dtype)


def binary(g: Graph) -> None:
    x = g.pick("ffffdhij")
    y = partner(g, x, "fdhij")
    operator = g.choose("Add", "Sub", "Mul", "Max", "Min", "Div", "Pow", "Mod")
    if operator == "Pow":
        if x.dtype.kind != "f":
            raise Stop
        g.node("Pow", [x, g.constant(g.choose(2.0, 3.0, 0.0, 1.0, -1.0, -2.0), x.dtype)])
        return
    if operator == "Div" or operator == "Mod":
        (y,) = g.node("Abs", [y])
        (y,) = g.node("Add", [y, g.constant(1, x.dtype)])
    arguments = {"fmod": 1} if operator == "Mod" and (x.dtype.kind == "f" or g.flag()) else {}
    pair = [x, y] if operator in ("Div", "Mod") or g.flag() else [y, x]
    g.node(operator, pair, **arguments)


def variadic(g: Graph) -> None:
    x = g.pick("f")
    g.node(g.choose("Sum", "Mean", "Max", "Min"), [x, *(partner(g, x, "f") for _ in range(g.number(0, 2)))])


def comparison(g: Graph) -> None:
    x = g.pick("ffijd")
    (c,) = g.node(g.choose("Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual"), [x, partner(g, x, "fijd")])
    match g.number(0, 3):
        case 0:
            g.node("Not", [c])
        case 1:
            g.node("Where", [c, x, partner(g, x, "fijd")])


def logic(g: Graph) -> None:
    x = g.pick("b")
    g.node(g.choose("And", "Or", "Xor"), [x, partner(g, x, "b")])


def bits(g: Graph) -> None:
    x = g.pick("iju")
    match g.choose("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift", "Abs", "Neg", "Sign"):
        case "BitwiseNot":
            g.node("BitwiseNot", [x])
        case "BitShift":
            y = g.pick("u")
            g.node("BitShift", [y, g.constant(np.array(g.number(0, 7), np.uint8))], direction=g.choose("LEFT", "RIGHT"))
        case ("Abs" | "Neg" | "Sign") as operator:
            g.node(operator, [x])
        case operator:
            g.node(operator, [x, partner(g, x, "iju")])


def cast(g: Graph) -> None:
    x = g.pick("ffdhijsub")
    kinds = [
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.INT64,
        TensorProto.INT32,
        TensorProto.BOOL,
    ]
    if x.dtype.kind != "f":
        kinds += [TensorProto.INT8, TensorProto.UINT8]
    g.node("Cast", [x], to=g.choose(*kinds))


def normalise(g: Graph) -> None:
    x = g.pick("f", 1)
    match g.choose(
        "LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "Mean", "Lp"
    ):
        case "LayerNormalization":
            axis = g.axis(x)
            sizes = [x.size(a) for a in range(axis % x.rank, x.rank)]
            if None in sizes or 0 in sizes:
                raise Stop
            scale = [g.weights(*(s or 1 for s in sizes)) for _ in range(g.number(1, 2))]
            g.node("LayerNormalization", [x, *scale], axis=axis, epsilon=g.choose(0.1, 0.01))
        case "BatchNormalization":
            channels = x.size(1) if x.rank > 1 else None
            if not channels:
                raise Stop
            scale, bias, mean = (g.weights(channels) for _ in range(3))
            variance = g.constant(np.linspace(0.5, 2, channels), np.float32)
            g.node("BatchNormalization", [x, scale, bias, mean, variance], epsilon=0.01)
        case "InstanceNormalization":
            channels = x.size(1) if x.rank > 2 else None
            if not channels:
                raise Stop
            g.node("InstanceNormalization", [x, g.weights(channels), g.weights(channels)], epsilon=0.1)
        case "GroupNormalization":
            channels = x.size(1) if x.rank > 2 else None
            if not channels:
                raise Stop
            groups = g.choose(*(d for d in range(1, channels + 1) if channels % d == 0))
            scale, bias = g.weights(channels), g.weights(channels)
            g.node("GroupNormalization", [x, scale, bias], num_groups=groups, epsilon=0.1)
        case "LRN":
            if x.rank != 4:
                raise Stop
            g.node("LRN", [x], size=g.choose(1, 3, 5), alpha=0.2, beta=0.6, bias=1.5)
        case "Mean":
            if x.rank < 2:
                raise Stop
            axes = g.draw_axes(x)
            g.node("MeanVarianceNormalization", [x], axes=axes)
        case "Lp":
            g.node("LpNormalization", [x], axis=g.axis(x), p=g.number(1, 2))


GROWTH = [
    smooth,
    smooth,
    bounded,
    parametrised,
    binary,
    binary,
    binary,
    variadic,
    comparison,
    logic,
    bits,
    cast,
    normalise,
]
