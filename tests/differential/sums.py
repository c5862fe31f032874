"""Reductions, scans, products, convolutions and pools."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.differential.graph import Graph, Stop

_REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"]


def reduce(g: Graph) -> None:
    x = g.pick("ffffdhij")
    operator = "Reduce" + g.choose(*(_REDUCTIONS if x.dtype.kind == "f" else ["Sum", "Max", "Min"]))
    match g.number(0, 4):
        case 0:
            g.node(operator, [x], keepdims=g.flag())
        case 1:
            g.node(operator, [x, g.ints()], keepdims=g.flag(), noop_with_empty_axes=g.flag())
        case _:
            g.node(operator, [x, g.ints(*g.draw_axes(x))], keepdims=g.flag())


def rank_by(g: Graph) -> None:
    """Largest elements; softmax and its kind; sums so far."""
    x = g.pick("ffffi", 1)
    axis = g.axis(x)
    match g.choose("ArgMax", "TopK", "Softmax", "CumSum"):
        case "ArgMax":
            g.node(g.choose("ArgMax", "ArgMin"), [x], axis=axis, keepdims=g.flag(), select_last_index=g.flag())
        case "TopK":
            size = min(s[axis] for s in x.shapes)
            g.node("TopK", [x, g.ints(g.number(0, size))], 2, axis=axis, largest=g.flag())
        case "Softmax":
            x = g.pick("ffdh", 1)
            g.node(g.choose("Softmax", "LogSoftmax", "Hardmax"), [x], axis=g.axis(x))
        case "CumSum":
            g.node("CumSum", [x, g.constant(np.int64(axis))], exclusive=g.flag(), reverse=g.flag())


def matmul(g: Graph) -> None:
    x = g.pick("ffffdi", 1)
    depth = x.size(-1)
    if depth is None:
        (y,) = (
            g.node("Transpose", [x], perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2][: x.rank]) if x.rank > 1 else [x]
        )
        g.node("MatMul", [x, y])
        return
    columns = [] if g.number(0, 5) == 0 else [g.choose(1, 2, 7, 8, 16, 33)]
    batch = [g.choose(1, 2)] if x.rank < 3 and columns and g.number(0, 3) == 0 else []
    (y,) = g.node("MatMul", [x, g.weights(*batch, depth, *columns, like=x.dtype)])
    if g.flag() and columns and x.dtype == np.float32:
        (y,) = g.node("Add", [y, g.weights(columns[0])])
        if g.flag():
            g.node(g.choose("Relu", "Gelu", "Tanh"), [y])
        if g.flag():  # a second product of the same operand
            g.node("MatMul", [x, g.weights(*batch, depth, columns[0])])


def gemm(g: Graph) -> None:
    x = g.pick("ffd", 2, lambda v: v.rank == 2)
    transposed = g.flag()
    depth = x.size(0 if transposed else 1)
    if depth is None:
        raise Stop
    columns, other = g.choose(1, 3, 8, 17), g.flag()
    w = g.weights(*((columns, depth) if other else (depth, columns)), like=x.dtype)
    bias = [g.weights(*g.choose((columns,), (1, columns), (1,), ()), like=x.dtype)] if g.flag() else []
    g.node(
        "Gemm", [x, w, *bias], transA=transposed, transB=other, alpha=g.choose(1.0, 0.5), beta=g.choose(1.0, 0.25, 0.0)
    )


def einsum(g: Graph) -> None:
    x = g.pick("f", 2, lambda v: v.rank in (2, 3))
    if x.rank == 2:
        if x.size(1) is None:
            g.node("Einsum", [x, x], equation=g.choose("ij,kj->ik", "ij,ij->i", "ij,ik->jk"))
        else:
            g.node(
                "Einsum", [x, g.weights(x.size(1) or 1, 3)], equation=g.choose("ij,jk->ik", "ij,jk->kij", "ij,jk->i")
            )
    else:
        g.node("Einsum", [x, x], equation=g.choose("bij,bkj->bik", "bij,bik->bjk", "bij,bij->b", "bij,bij->ibj"))


def attention(g: Graph) -> None:
    """As exporters write it: softmax(q kᵀ / s + mask) v."""
    x = g.pick("f", 3, lambda v: v.rank in (3, 4))
    (k,) = g.node("Transpose", [x], perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])
    (scores,) = g.node("MatMul", [x, k])
    (scores,) = g.node(g.choose("Mul", "Div"), [scores, g.constant(g.choose(0.5, 2.0), np.float32)])
    (weights,) = g.node("Softmax", [scores], axis=-1)
    (y,) = g.node("MatMul", [weights, x])
    if x.rank == 4:
        g.node("Transpose", [y], perm=[0, 2, 1, 3])


def _window(g: Graph, axes: int) -> dict[str, Any]:
    """Padding and steps of a window."""
    attributes: dict[str, Any] = {}
    if g.flag():
        attributes["strides"] = [g.number(1, 3) for _ in range(axes)]
    match g.number(0, 4):
        case 0:
            attributes["auto_pad"] = g.choose("SAME_UPPER", "SAME_LOWER", "VALID")
        case 1:
            attributes["pads"] = [g.number(0, 2) for _ in range(2 * axes)]
        case 2:
            attributes["pads"] = [1] * (2 * axes)
    return attributes


def conv(g: Graph) -> None:
    x = g.pick("ffffd", 3, lambda v: v.rank <= 5 and bool(v.size(1)))
    axes, channels = x.rank - 2, x.size(1) or 1
    group = g.choose(*(d for d in range(1, channels + 1) if channels % d == 0))
    kernel = [g.choose(1, 2, 3, 3, 5) for _ in range(axes)]
    attributes = _window(g, axes)
    if g.number(0, 2) == 0:
        attributes["dilations"] = [g.number(1, 2) for _ in range(axes)]
    if g.number(0, 3) == 0 and "auto_pad" not in attributes:
        filters = g.choose(1, 2, 5)
        if g.flag():
            attributes["output_padding"] = [g.number(0, min(s, d) - 1) for s, d in zip(
                attributes.get("strides", [1] * axes), attributes.get("strides", [1] * axes), strict=True)]  # fmt: skip
        bias = [g.weights(filters * group, like=x.dtype)] if g.flag() else []
        g.node(
            "ConvTranspose", [x, g.weights(channels, filters, *kernel, like=x.dtype), *bias], group=group, **attributes
        )
        return
    filters = group * g.choose(1, 2, 4, 8)
    bias = [g.weights(filters, like=x.dtype)] if g.flag() else []
    (y,) = g.node(
        "Conv", [x, g.weights(filters, channels // group, *kernel, like=x.dtype), *bias], group=group, **attributes
    )
    if g.flag() and x.dtype == np.float32:
        scale, shift, mean = (g.weights(filters) for _ in range(3))
        (y,) = g.node("BatchNormalization", [y, scale, shift, mean, g.constant(np.linspace(1, 2, filters), np.float32)])
        g.node("Relu", [y])


def pool(g: Graph) -> None:
    x = g.pick("ffffd", 3, lambda v: v.rank <= 5)
    axes = x.rank - 2
    operator = g.choose("MaxPool", "AveragePool", "LpPool", "Global", "Indices")
    if operator == "Global":
        # Of other ranks the reference evaluator drops the axes of a maximum.
        g.node(g.choose("GlobalMaxPool", "GlobalAveragePool") if x.rank == 4 else "GlobalAveragePool", [x])
        return
    kernel = [g.choose(1, 2, 3) for _ in range(axes)]
    attributes = _window(g, axes)
    if "pads" in attributes:
        attributes["pads"] = [min(p, k - 1) for p, k in zip(attributes["pads"], kernel * 2, strict=True)]
    if "auto_pad" not in attributes and g.flag():
        attributes["ceil_mode"] = 1
    if "auto_pad" not in attributes and g.number(0, 2) == 0:  # the others forget dilations when they pad
        attributes["dilations"] = [g.number(1, 2) for _ in range(axes)]
    if operator == "AveragePool":
        attributes["count_include_pad"] = g.flag()
    if operator == "LpPool":
        attributes["p"] = g.number(1, 3)
    name = "MaxPool" if operator == "Indices" else operator
    g.node(name, [x], 2 if operator == "Indices" else 1, kernel_shape=kernel, **attributes)


def resize(g: Graph) -> None:
    x = g.pick("f", 3, lambda v: v.rank in (3, 4))
    scales = [1.0, 1.0] + [g.choose(0.5, 1.0, 1.5, 2.0) for _ in range(x.rank - 2)]
    mode = g.choose("nearest", "linear", "cubic")
    # The reference evaluator lets align_corners count pixels in fractions (`strict=True` does as well).
    whole = all(
        ((size or 1) * scale).is_integer() for size, scale in zip(map(x.size, range(x.rank)), scales, strict=True)
    )
    how = g.choose("half_pixel", "asymmetric", "pytorch_half_pixel", *["align_corners"] * whole)
    extra = {"nearest_mode": g.choose("floor", "ceil", "round_prefer_floor")} if mode == "nearest" else {}
    g.node("Resize", [x, None, g.constant(scales, np.float32)], mode=mode, coordinate_transformation_mode=how, **extra)


def recurrent(g: Graph) -> None:
    x = g.pick("f", 3, lambda v: v.rank == 3 and bool(v.size(2)))
    operator, gates = g.choose(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    direction = g.choose("forward", "reverse", "bidirectional")
    d, hidden = (2 if direction == "bidirectional" else 1), g.choose(1, 3, 8)
    w, r = g.weights(d, gates * hidden, x.size(2) or 1), g.weights(d, gates * hidden, hidden)
    bias = [g.weights(d, 2 * gates * hidden)] if g.flag() else []
    extra = {"linear_before_reset": g.flag()} if operator == "GRU" else {}
    outputs = 3 if operator == "LSTM" else 2
    g.node(operator, [x, w, r, *bias], outputs, hidden_size=hidden, direction=direction, **extra)


GROWTH = [reduce, reduce, rank_by, matmul, matmul, gemm, einsum, attention, conv, conv, pool, pool, resize, recurrent]
