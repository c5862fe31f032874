"""Activation functions: compositions of elementwise primitives, which fuse into what precedes them.

Floats narrower than 32 bits are computed in f32 and rounded once.
"""

from __future__ import annotations

import math

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import f32


def positive_part(e: Emitter, x: Value, otherwise: Value) -> Value:
    """``x`` where it is above zero, `otherwise` elsewhere (and where x is NaN)."""
    return e.select(e.compare("gt", x, 0), x, otherwise)


def softplus(e: Emitter, x: Value) -> Value:
    """``log(1 + exp(x))``, without overflow."""
    tail = e.unary("log1p", e.unary("exp", e.unary("neg", e.unary("abs", x))))
    return e.binary("add", e.binary("max", x, 0), tail)


def hard_sigmoid(e: Emitter, x: Value, alpha: float, beta: float) -> Value:
    return e.clamp(e.binary("add", e.binary("mul", x, alpha), beta), 0, 1)


def gelu(e: Emitter, x: Value, approximate: bool) -> Value:
    """``x * Φ(x)``, by the error function or the usual approximation with tanh."""
    if approximate:
        cubed = e.binary("mul", e.binary("mul", x, x), x)
        inner = e.binary("add", x, e.binary("mul", cubed, 0.044715))
        curve = e.unary("tanh", e.binary("mul", inner, math.sqrt(2 / math.pi)))
    else:
        curve = e.unary("erf", e.binary("mul", x, math.sqrt(0.5)))
    return e.binary("mul", e.binary("mul", x, 0.5), e.binary("add", curve, 1))


def mish(e: Emitter, x: Value) -> Value:
    """``x * tanh(softplus(x))`` = x·n / (n + 2) with n = eˣ(eˣ + 2): one exponential instead of three functions.

    The quotient is 1 in double precision from x = 20; stopping at 40 keeps n finite in single precision.
    """
    power = e.unary("exp", e.binary("min", x, 40))
    numerator = e.binary("mul", power, e.binary("add", power, 2))
    return e.binary("mul", x, e.binary("div", numerator, e.binary("add", numerator, 2)))


def celu(e: Emitter, x: Value, alpha: float) -> Value:
    curve = e.binary("mul", e.unary("expm1", e.binary("div", x, alpha)), alpha)
    return e.binary("add", e.binary("max", x, 0), e.binary("min", curve, 0))


def elu(e: Emitter, x: Value, alpha: float) -> Value:
    return positive_part(e, x, e.binary("mul", e.unary("expm1", x), alpha))


def selu(e: Emitter, x: Value, alpha: float, gamma: float) -> Value:
    curve = e.binary("mul", e.unary("expm1", x), alpha * gamma)
    return e.select(e.compare("gt", x, 0), e.binary("mul", x, gamma), curve)


@onnx_op("Relu")
def relu_node(e: Emitter, n: Node) -> Value:
    return e.binary("max", n.input(0), 0)


@onnx_op("LeakyRelu")
def leaky_relu(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return positive_part(e, x, e.binary("mul", x, n.float("alpha", 0.01)))


@onnx_op("PRelu")
def prelu(e: Emitter, n: Node) -> Value:
    """The slope broadcasts to the input; before opset 7 it is one number or one for each channel."""
    x, slope = n.input(0), n.input(1)
    if n.opset < 7 and slope.type.elements != 1:
        slope = e.reshape(slope, (*slope.type.shape, *(1 for _ in x.type.shape[2:])))
    return positive_part(e, x, e.binary("mul", x, e.broadcast_to(slope, x.type.shape)))


@onnx_op("ThresholdedRelu")
def thresholded_relu(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return e.select(e.compare("gt", x, n.float("alpha", 1.0)), x, e.full(0, x.type))


@onnx_op("Shrink")
def shrink(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    wide = e.wide(x) if x.type.dtype.is_float else e.cast(x, f32)
    bias, lambd = n.float("bias", 0.0), n.float("lambd", 0.5)
    above = e.select(e.compare("gt", wide, lambd), e.binary("sub", wide, bias), e.full(0, wide.type))
    return e.cast(e.select(e.compare("lt", wide, -lambd), e.binary("add", wide, bias), above), x.type.dtype)


@onnx_op(
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Selu", "Softplus", "Softsign", "Swish"
)  # fmt: skip
def composed(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return e.cast(_composed(e, n, e.wide(x)), x.type.dtype)


def _composed(e: Emitter, n: Node, x: Value) -> Value:
    match n.op_type:
        case "Celu":
            return celu(e, x, n.float("alpha", 1.0))
        case "Elu":
            return elu(e, x, n.float("alpha", 1.0))
        case "Gelu":
            return gelu(e, x, n.choice("approximate", "none", ("none", "tanh")) == "tanh")
        case "HardSigmoid":
            return hard_sigmoid(e, x, n.float("alpha", 0.2), n.float("beta", 0.5))
        case "HardSwish":
            return e.binary("mul", x, hard_sigmoid(e, x, 1 / 6, 0.5))
        case "Mish":
            return mish(e, x)
        case "Selu":
            return selu(e, x, n.float("alpha", 1.67326319217681884765625), n.float("gamma", 1.05070102214813232421875))
        case "Softplus":
            return softplus(e, x)
        case "Softsign":
            return e.binary("div", x, e.binary("add", e.unary("abs", x), 1))
        case _:
            alpha = n.float("alpha", 1.0)
            return e.binary("mul", x, e.unary("sigmoid", x if alpha == 1 else e.binary("mul", x, alpha)))
