"""Activations with a bias in front, and their approximations."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.activation import gelu, hard_sigmoid, positive_part
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value

DOMAIN = "com.microsoft"


@onnx_op("Gelu", "BiasGelu", "FastGelu", domain=DOMAIN)
def gelu_node(e: Emitter, n: Node) -> Value:
    """``FastGelu`` is the approximation by tanh; a second input is added in front."""
    x, bias = n.input(0), n.optional(1)
    wide = e.wide(x)
    if bias is not None:
        wide = e.binary("add", wide, e.wide(bias))
    return e.cast(gelu(e, wide, n.op_type == "FastGelu"), x.type.dtype)


@onnx_op("QuickGelu", domain=DOMAIN)
def quick_gelu(e: Emitter, n: Node) -> Value:
    """``x * sigmoid(alpha * x)``."""
    x = n.input(0)
    wide = e.wide(x)
    gate = e.unary("sigmoid", e.binary("mul", wide, n.float("alpha", 1.702)))
    return e.cast(e.binary("mul", wide, gate), x.type.dtype)


@onnx_op("BiasAdd", domain=DOMAIN)
def bias_add(e: Emitter, n: Node) -> Value:
    """A bias along the last axis, and a residual connection."""
    return e.binary("add", e.binary("add", n.input(0), n.input(1)), n.input(2))


@onnx_op("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(e: Emitter, n: Node) -> Value:
    """The first half of the channels times the GELU of the second."""
    x = n.input(0)
    biased = e.binary("add", e.wide(x), e.wide(n.input(1)))
    axis, width = x.type.rank - 1, x.type.shape[-1]
    if not isinstance(width, int) or width % 2:
        n.fail(f"{x.type} has no two halves of known size")
    left, right = e.slice(biased, axis, 0, width // 2), e.slice(biased, axis, width // 2, width)
    return e.cast(e.binary("mul", left, gelu(e, right, False)), x.type.dtype)


def activate(e: Emitter, n: Node, x: Value, name: str, parameters: list[float]) -> Value:
    """The activation of a fused product or convolution; `parameters` stand in the order of alpha, beta."""

    def given(index: int, default: float) -> float:
        return parameters[index] if index < len(parameters) else default

    match name:
        case "":
            return x
        case "Relu":
            return e.binary("max", x, 0)
        case "Tanh" | "Sigmoid":
            return e.unary(name.lower(), x)
        case "LeakyRelu":
            return positive_part(e, x, e.binary("mul", x, given(0, 0.01)))
        case "Clip":
            return e.clamp(x, given(0, float("-inf")), given(1, float("inf")))
        case "HardSigmoid":
            return hard_sigmoid(e, x, given(0, 0.2), given(1, 0.5))
        case "HardSwish":
            return e.binary("mul", x, hard_sigmoid(e, x, 1 / 6, 0.5))
        case "Gelu":
            return gelu(e, x, False)
    n.fail(f"activation '{name}' is not supported")
