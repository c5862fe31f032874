"""Quantised operators, and contrib operators of transformer models."""

from __future__ import annotations

import numpy as np

from tests.differential.graph import Graph, Stop, Value


def _parameters(g: Graph, kind: str, channels: int = 0) -> tuple[Value, Value]:
    """A scale and a zero point; of `channels` elements, or scalars."""
    shape = (channels,) if channels else ()
    scale = g.constant(np.linspace(0.01, 0.05, max(1, channels)).reshape(shape), np.float32)
    zero = np.full(shape, g.choose(0, 3, 128 if kind == "u" else -7))
    return scale, g.constant(zero, np.uint8 if kind == "u" else np.int8)


def quantize(g: Graph) -> None:
    x = g.pick("f")
    kind = g.choose("u", "s")
    channels = x.size(-1) if x.rank and g.flag() else None
    scale, zero = _parameters(g, kind, channels or 0)
    axis = {"axis": x.rank - 1} if channels else {}
    (q,) = g.node("QuantizeLinear", [x, scale, zero], **axis)
    if g.flag():
        g.node("DequantizeLinear", [q, scale, zero], **axis)


def dynamic(g: Graph) -> None:
    x = g.pick("f", 1)
    q, scale, zero = g.node("DynamicQuantizeLinear", [x], 3)
    if x.rank < 2 or not x.size(-1):
        raise Stop
    (y,) = g.node("MatMulInteger", [q, g.weights(x.size(-1) or 1, 5, like=np.int8), zero])
    (y,) = g.node("Cast", [y], to=1)
    g.node("Mul", [y, scale])


def integer_matmul(g: Graph) -> None:
    x = g.pick("us", 2, lambda v: bool(v.size(-1)))
    w = g.weights(
        x.size(-1) or 1, g.choose(1, 4, 16), like=g.choose(np.int8, np.uint8) if x.dtype == np.uint8 else np.int8
    )
    zeros = [g.constant(np.array(g.number(0, 5), v.dtype)) for v in (x, w)][: g.number(0, 2)]
    g.node("MatMulInteger", [x, w, *zeros])


def qdq_matmul(g: Graph) -> None:
    """Between dequantised operands, quantised again."""
    x = g.pick("us", 2, lambda v: bool(v.size(-1)))
    kind = "u" if x.dtype == np.uint8 else "s"
    scale, zero = _parameters(g, kind)
    (a,) = g.node("DequantizeLinear", [x, scale, zero])
    columns = g.choose(1, 4, 16)
    w = g.weights(x.size(-1) or 1, columns, like=np.int8)
    s, z = _parameters(g, "s", columns if g.flag() else 0)
    z = g.constant(np.zeros_like(z.exact[0]))
    (b,) = g.node("DequantizeLinear", [w, s, z], axis=1)
    (y,) = g.node("MatMul", [a, b])
    if g.flag():
        g.node("QuantizeLinear", [y, g.constant(0.31, np.float32), zero])


def qlinear(g: Graph) -> None:
    x = g.pick("us", 2, lambda v: bool(v.size(-1)))
    kind = "u" if x.dtype == np.uint8 else "s"
    scale, zero = _parameters(g, kind)
    w = g.weights(x.size(-1) or 1, 4, like=x.dtype)
    ws, wz = _parameters(g, kind)
    g.node("QLinearMatMul", [x, scale, zero, w, ws, wz, g.constant(0.21, np.float32), zero])


def qconv(g: Graph) -> None:
    x = g.pick("us", 4, lambda v: v.rank == 4 and bool(v.size(1)))
    channels, filters = x.size(1) or 1, g.choose(1, 3, 8)
    size = g.choose(1, 3)
    attributes = {"pads": [size // 2] * 4, "strides": [g.number(1, 2)] * 2}
    kind = "u" if x.dtype == np.uint8 else "s"
    scale, zero = _parameters(g, kind)
    if g.flag() and kind == "u":
        w = g.weights(filters, channels, size, size, like=np.uint8)
        g.node("ConvInteger", [x, w, zero], **attributes)
        return
    w = g.weights(filters, channels, size, size, like=np.int8)
    ws = g.constant(np.linspace(0.01, 0.05, filters) if g.flag() else 0.03, np.float32)
    wz = g.constant(np.zeros(ws.exact[0].shape), np.int8)
    g.node("QLinearConv", [x, scale, zero, w, ws, wz, g.constant(0.41, np.float32), zero], **attributes)


def contrib(g: Graph) -> None:
    x = g.pick("f", 2, lambda v: bool(v.size(-1)))
    width = x.size(-1) or 1
    match g.choose(
        "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "FusedMatMul", "SkipLayerNormalization", "Simplified", "QLinear"
    ):
        case "BiasGelu":
            g.node("BiasGelu", [x, g.weights(width)], domain="com.microsoft")
        case "FusedMatMul":
            columns, other = g.choose(1, 5, 8), g.flag()
            w = g.weights(*((columns, width) if other else (width, columns)))
            g.node("FusedMatMul", [x, w], transB=other, alpha=g.choose(1.0, 0.3), domain="com.microsoft")
        case "SkipLayerNormalization":
            if x.rank != 3:
                raise Stop
            skip, gamma = g.pick("f", 3, lambda v: v.shapes == x.shapes), g.weights(width)
            rest = [g.weights(width) for _ in range(g.number(0, 2))]
            g.node("SkipLayerNormalization", [x, skip, gamma, *rest], epsilon=0.1, domain="com.microsoft")
        case "Simplified":
            if x.rank != 3:
                raise Stop
            skip = g.pick("f", 3, lambda v: v.shapes == x.shapes)
            g.node("SkipSimplifiedLayerNormalization", [x, skip, g.weights(width)], epsilon=0.1, domain="com.microsoft")
        case "QLinear":
            a = g.pick("us")
            scale, zero = _parameters(g, "u" if a.dtype == np.uint8 else "s")
            b = g.pick("us", 0, lambda v: v.dtype == a.dtype and v.shapes == a.shapes)
            out = g.constant(0.11, np.float32)
            g.node(
                g.choose("QLinearAdd", "QLinearMul"),
                [a, scale, zero, b, scale, zero, out, zero],
                domain="com.microsoft",
            )
        case operator:
            g.node(operator, [x], domain="com.microsoft")


GROWTH = [quantize, dynamic, integer_matmul, qdq_matmul, qlinear, qconv, contrib, contrib]
