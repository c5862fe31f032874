"""Normalization, as chains of reductions and elementwise operations that fuse into one kernel over rows.

Sums and roots are taken in f32 at least, and the result is rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import DType, Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import f64
from ds_compiler.ops import ReduceWindow


def moments(e: Emitter, x: Value, axes: Sequence[int]) -> tuple[Value, Value, Value]:
    """(mean, x - mean, mean square of the latter) along `axes`, which stay with size 1."""
    mean = e.reduce(x, axes, "mean", keepdims=True)
    centred = e.binary("sub", x, mean)
    return mean, centred, e.reduce(e.binary("mul", centred, centred), axes, "mean", keepdims=True)


def inverse_deviation(e: Emitter, variance: Value, epsilon: float) -> Value:
    return e.unary("rsqrt", e.binary("add", variance, epsilon))


def _precision(n: Node, x: Value) -> DType:
    """The element type of sums: ``stash_type``, or the input's where that is wider."""
    stash = element_type(n.int("stash_type", 1), "stash_type")
    return f64 if f64 in (x.type.dtype, stash) else stash if stash.bits >= x.type.dtype.bits else x.type.dtype


def _per_channel(e: Emitter, parameter: Value, x: Value) -> Value:
    """A vector along axis 1 of `x`, in its element type."""
    return e.broadcast(e.cast(parameter, x.type.dtype), x.type.shape, (1,))


def _batch_statistics(e: Emitter, n: Node) -> list[Value | None]:
    """In training: normalized by the batch's own statistics, and the running ones moved towards these."""
    x = n.input(0)
    wide = e.wide(x)
    dtype = wide.type.dtype
    scale, bias = (_per_channel(e, n.input(i), wide) for i in (1, 2))
    axes = [axis for axis in range(x.type.rank) if axis != 1]
    mean, centred, variance = moments(e, wide, axes)
    factor = e.binary("mul", inverse_deviation(e, variance, n.float("epsilon", 1e-5)), scale)
    result = e.binary("add", e.binary("mul", centred, factor), bias)
    momentum = n.float("momentum", 0.9)
    running = []
    for old, new in ((n.input(3), mean), (n.input(4), variance)):
        kept = e.binary("mul", e.cast(old, dtype), momentum)
        moved = e.binary("mul", e.reshape(new, old.type.shape), 1 - momentum)
        running.append(e.cast(e.binary("add", kept, moved), old.type.dtype))
    return [e.cast(result, x.type.dtype), *running]


@onnx_op("BatchNormalization")
def batch_normalization(e: Emitter, n: Node) -> Value | list[Value | None]:
    """``x * factor + shift``, both computed at import from constant parameters."""
    if n.opset >= 14 and n.int("training_mode", 0):
        return _batch_statistics(e, n)
    if n.wants(1) or (n.opset < 7 and not n.int("is_test", 0)):
        n.fail("training mode is not supported", help="export the model for inference")
    if not n.int("spatial", 1):
        n.fail("statistics for each element (spatial=0) are not supported")
    x = n.input(0)
    scale, bias, mean, variance = (e.wide(n.input(i)) for i in range(1, 5))
    if x.type.rank < 2:
        n.fail(f"input is {x.type}, expected [batch, channels, …]")
    scale, bias = e.cast(scale, mean.type.dtype), e.cast(bias, mean.type.dtype)
    factor = e.binary("div", scale, e.unary("sqrt", e.binary("add", variance, n.float("epsilon", 1e-5))))
    shift = e.binary("sub", bias, e.binary("mul", mean, factor))
    wide = e.wide(x)
    result = e.binary("add", e.binary("mul", wide, _per_channel(e, factor, wide)), _per_channel(e, shift, wide))
    return e.cast(result, x.type.dtype)


@onnx_op("InstanceNormalization")
def instance_normalization(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    wide = e.wide(x)
    _, centred, variance = moments(e, wide, range(2, x.type.rank))
    unit = e.binary("mul", centred, inverse_deviation(e, variance, n.float("epsilon", 1e-5)))
    scaled = e.binary("mul", unit, _per_channel(e, n.input(1), wide))
    return e.cast(e.binary("add", scaled, _per_channel(e, n.input(2), wide)), x.type.dtype)


@onnx_op("LayerNormalization")
def layer_normalization(e: Emitter, n: Node) -> list[Value | None]:
    x, scale, bias = n.input(0), n.input(1), n.optional(2)
    axes = range(n.axis(n.int("axis", -1), x.type.rank), x.type.rank)
    stash = element_type(n.int("stash_type", 1), "stash_type")
    wide = e.cast(x, _precision(n, x))
    mean, centred, variance = moments(e, wide, axes)
    inverse = inverse_deviation(e, variance, n.float("epsilon", 1e-5))
    result = e.binary("mul", e.binary("mul", centred, inverse), e.cast(scale, wide.type.dtype))
    if bias is not None:
        result = e.binary("add", result, e.cast(bias, wide.type.dtype))
    return [e.cast(result, x.type.dtype), e.cast(mean, stash), e.cast(inverse, stash)]


@onnx_op("RMSNormalization")
def rms_normalization(e: Emitter, n: Node) -> Value:
    x, scale = n.input(0), n.input(1)
    axes = range(n.axis(n.int("axis", -1), x.type.rank), x.type.rank)
    wide = e.cast(x, _precision(n, x))
    square = e.reduce(e.binary("mul", wide, wide), axes, "mean", keepdims=True)
    unit = e.binary("mul", wide, inverse_deviation(e, square, n.float("epsilon", 1e-5)))
    return e.cast(e.binary("mul", unit, e.cast(scale, wide.type.dtype)), scale.type.dtype)


@onnx_op("GroupNormalization", since=18)
def group_normalization(e: Emitter, n: Node) -> Value:
    """Scale and bias hold an entry for each group at opset 18, for each channel from 21 on."""
    x = n.input(0)
    groups = int(n.required("num_groups"))
    batch, channels, *spatial = x.type.shape
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        n.fail(f"{channels} channels do not divide into {groups} groups")
    each = floordiv(channels, groups)
    wide = e.cast(x, _precision(n, x))
    grouped = e.reshape(wide, (batch, groups, each, *spatial))
    _, centred, variance = moments(e, grouped, range(2, grouped.type.rank))
    unit = e.binary("mul", centred, inverse_deviation(e, variance, n.float("epsilon", 1e-5)))

    def spread(parameter: Value) -> Value:
        parameter = e.cast(parameter, wide.type.dtype)
        if n.opset < 21:
            return e.broadcast(parameter, grouped.type.shape, (1,))
        return e.broadcast(e.reshape(parameter, (groups, each)), grouped.type.shape, (1, 2))

    result = e.binary("add", e.binary("mul", unit, spread(n.input(1))), spread(n.input(2)))
    return e.cast(e.reshape(result, x.type.shape), x.type.dtype)


@onnx_op("LpNormalization")
def lp_normalization(e: Emitter, n: Node) -> Value:
    """Rows of zeros stay zeros."""
    x = n.input(0)
    axes = (n.axis(n.int("axis", -1), x.type.rank),)
    wide = e.wide(x)
    match n.int("p", 2):
        case 1:
            norm = e.reduce(e.unary("abs", wide), axes, "sum", keepdims=True)
        case 2:
            norm = e.unary("sqrt", e.reduce(e.binary("mul", wide, wide), axes, "sum", keepdims=True))
        case p:
            n.fail(f"attribute p={p} is not supported", help="supported: 1, 2")
    norm = e.select(e.compare("eq", norm, 0), e.full(1, norm.type), norm)
    return e.cast(e.binary("div", wide, norm), x.type.dtype)


@onnx_op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    _, centred, variance = moments(e, e.wide(x), n.axes(n.ints("axes", (0, 2, 3)), x.type.rank))
    deviation = e.binary("add", e.unary("sqrt", variance), 1e-9)
    return e.cast(e.binary("div", centred, deviation), x.type.dtype)


@onnx_op("LRN")
def local_response_normalization(e: Emitter, n: Node) -> Value:
    """Divide by a power of the mean square over neighbouring channels."""
    x = n.input(0)
    size = int(n.required("size"))
    if size < 1:
        n.fail(f"attribute size={size} must be positive")
    wide = e.wide(x)
    low = (size - 1) // 2
    square = e.binary("mul", wide, wide)
    total = e.emit(ReduceWindow(square, (1,), (size,), (1,), (low,), (size - 1 - low,), (1,), "sum"))
    base = e.binary("add", e.binary("mul", total, n.float("alpha", 1e-4) / size), n.float("bias", 1.0))
    return e.cast(e.binary("div", wide, _power(e, base, n.float("beta", 0.75))), x.type.dtype)


def _power(e: Emitter, base: Value, exponent: float) -> Value:
    """``base ** exponent``; the exponents that models use become roots."""
    if exponent == 0.5:
        return e.unary("sqrt", base)
    if exponent == 0.75:
        root = e.unary("sqrt", base)
        return e.binary("mul", root, e.unary("sqrt", root))
    return base if exponent == 1 else e.binary("pow", base, exponent)
