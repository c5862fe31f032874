"""Pooling over windows and over whole planes."""

from __future__ import annotations

import itertools

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.windows import Windows, explicit_pads, per_axis, read_windows
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Iota, Pad, ReduceWindow, ScatterElements, Slice
from ds_compiler.ops.reduction import identity


def _windows(n: Node, x: Value) -> Windows:
    if x.type.rank < 3:
        n.fail(f"input is {x.type}, expected [batch, channels, spatial sizes]")
    return read_windows(n, x.type.shape[2:], tuple(int(k) for k in n.required("kernel_shape")))


def _reduce_window(e: Emitter, x: Value, w: Windows, how: str) -> Value:
    axes = tuple(range(2, x.type.rank))
    return e.emit(ReduceWindow(x, axes, w.kernel, w.strides, w.low, w.reach, w.dilations, how))


@onnx_op("MaxPool")
def max_pool(e: Emitter, n: Node) -> list[Value | None]:
    x = n.input(0)
    w = _windows(n, x)
    result = _reduce_window(e, x, w, "max")
    wanted = n.wants(1)
    return [result, _positions(e, x, w, result.type.shape, bool(n.int("storage_order", 0))) if wanted else None]


def _positions(e: Emitter, x: Value, w: Windows, out: tuple[Dim, ...], column_major: bool) -> Value:
    """Where in the flattened input each window's first largest element lies: tap after tap, the larger one stays."""
    spatial = x.type.shape[2:]
    rank = len(spatial)
    plane = product(spatial)
    if column_major:
        pitches = [product(spatial[:a]) for a in range(rank)]
    else:
        pitches = [product(spatial[a + 1 :]) for a in range(rank)]
    steps = [x.type.shape[1] * plane, plane, *(s * p for s, p in zip(w.strides, pitches, strict=True))]
    corner = e.emit(Iota(out, 0, i64))
    corner = e.binary("mul", corner, e.size(steps[0]))
    for axis in range(1, rank + 2):
        corner = e.binary("add", corner, e.binary("mul", e.emit(Iota(out, axis, i64)), e.size(steps[axis])))
    lowest = e.scalar(identity("max", x.type.dtype.numpy), x.type.dtype)
    padded = x
    if any(width != 0 for width in (*w.low, *w.reach)):
        padded = e.emit(Pad(x, lowest, (0, 0, *w.low), (0, 0, *(_at_least_zero(r) for r in w.reach))))
    best: Value | None = None
    where = corner
    for tap in itertools.product(*(range(k) for k in w.kernel)):
        starts = tuple(t * d for t, d in zip(tap, w.dilations, strict=True))
        value = e.emit(Slice(padded, (0, 0, *starts), out, (1, 1, *w.strides)))
        offset: Dim = 0
        for start, low, pitch in zip(starts, w.low, pitches, strict=True):
            offset = offset + (start - low) * pitch
        place = e.binary("add", corner, e.size(offset))
        if best is None:
            best, where = value, place
            continue
        larger = e.compare("gt", value, best)
        best, where = e.select(larger, value, best), e.select(larger, place, where)
    return where


def _at_least_zero(width: Dim) -> Dim:
    return max(width, 0) if isinstance(width, int) else width


@onnx_op("AveragePool")
def average_pool(e: Emitter, n: Node) -> Value:
    return average_pool_of(e, n, n.input(0))


def average_pool_of(e: Emitter, n: Node, x: Value) -> Value:
    """With ``count_include_pad`` stated padding counts as zeros; what ``ceil_mode`` adds behind it never counts."""
    w = _windows(n, x)
    if not n.int("count_include_pad", 0):
        return _reduce_window(e, x, w, "mean_valid")
    if all(b == 0 or (isinstance(b, int) and b < 0) for b in w.beyond):
        return _reduce_window(e, x, w, "mean")
    nothing = (0,) * len(w.kernel)
    padded = e.emit(Pad(x, e.scalar(0, x.type.dtype), (0, 0, *w.low), (0, 0, *w.high)))
    inner = Windows(w.kernel, w.strides, w.dilations, nothing, nothing, w.beyond)
    return _reduce_window(e, padded, inner, "mean_valid")


def _power(e: Emitter, n: Node, x: Value) -> Value:
    """``|x| ** p``."""
    match n.int("p", 2):
        case 1:
            return e.unary("abs", x)
        case 2:
            return e.binary("mul", x, x)
        case p:
            return e.binary("pow", e.unary("abs", x), p)


def _root(e: Emitter, n: Node, total: Value) -> Value:
    match n.int("p", 2):
        case 1:
            return total
        case 2:
            return e.unary("sqrt", total)
        case p:
            return e.binary("pow", total, 1 / p)


@onnx_op("LpPool", since=2)
def lp_pool(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    total = _reduce_window(e, _power(e, n, e.wide(x)), _windows(n, x), "sum")
    return e.cast(_root(e, n, total), x.type.dtype)


@onnx_op("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", since=2)
def global_pool(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    axes = tuple(range(2, x.type.rank))
    if n.op_type == "GlobalLpPool":
        total = e.reduce(_power(e, n, e.wide(x)), axes, "sum", keepdims=True)
        return e.cast(_root(e, n, total), x.type.dtype)
    return e.reduce(x, axes, "max" if n.op_type == "GlobalMaxPool" else "mean", keepdims=True)


@onnx_op("MaxUnpool", since=9)
def max_unpool(e: Emitter, n: Node) -> Value:
    """Elements at the positions that MaxPool gave, zeros elsewhere; a larger ``output_shape`` adds zeros behind."""
    x, positions = n.input(0), n.input(1)
    kernel = n.ints("kernel_shape")
    rank = x.type.rank - 2
    if len(kernel) != rank or positions.type.shape != x.type.shape:
        n.fail(f"input is {x.type}, positions are {positions.type}, the kernel is {list(kernel)}")
    strides, pads = per_axis(n, "strides", rank), explicit_pads(n, rank)
    shape = list(x.type.shape)
    for axis, size in enumerate(x.type.shape[2:]):
        shape[axis + 2] = (size - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[axis + rank]
    count, total = x.type.elements, product(tuple(shape))
    zeros = e.full(0, x.type.with_shape((total,)))
    check_indices(e, n, positions, total, 0, what="position", negative=False)
    where, values = e.reshape(positions, (count,)), e.reshape(x, (count,))
    result = e.reshape(e.emit(ScatterElements(zeros, where, values, 0, "set")), shape)
    wanted = n.optional(2)
    if wanted is None:
        return result
    sizes = e.dims(wanted)
    if sizes is None:
        n.needed(e, wanted, "output_shape")
    if len(sizes) != rank + 2:
        n.fail(f"output_shape names {len(sizes)} sizes, expected {rank + 2}")
    behind = tuple(a - b for a, b in zip(sizes, shape, strict=True))
    return e.emit(Pad(result, e.scalar(0, x.type.dtype), (0,) * len(shape), behind))
