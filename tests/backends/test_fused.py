"""Every kind of fused kernel against the operations' NumPy semantics, at several sizes and task counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Block, Builder, Function, Module, Region, TensorType, Value, symbol
from ds_compiler.ir.dtypes import DType, f32, f64, i32, i64
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Broadcast,
    Cast,
    Compare,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    Cumulative,
    DotGeneral,
    Fusion,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Reduce,
    ReduceWindow,
    Reshape,
    Return,
    ScatterElements,
    ScatterND,
    Select,
    Slice,
    Transpose,
    Unary,
)
from tests.backends.fused import run_fused

Array = np.ndarray[Any, Any]
Make = Callable[..., Value | Sequence[Value]]
n, h, w = symbol("n"), symbol("h"), symbol("w")
rng = np.random.default_rng(0)


def real(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def t(*shape: Any, dtype: DType = f32) -> TensorType:
    return TensorType(shape, dtype)


def module_of(types: Sequence[TensorType], make: Make) -> Module:
    block = Block(types, [f"a{i}" for i in range(len(types))])
    builder = Builder(block)
    made = make(builder, *block.arguments)
    builder.insert(Return((made,) if isinstance(made, Value) else tuple(made)))
    return Module([Function("main", Region(block))])


def expected(module: Module, inputs: Sequence[Array]) -> list[Array]:
    sizes: dict[str, int] = {}
    values: dict[Value, Array] = dict(zip(module.main.arguments, inputs, strict=True))
    for argument, array in zip(module.main.arguments, inputs, strict=True):
        sizes |= {str(d): s for d, s in zip(argument.type.shape, array.shape, strict=True) if not isinstance(d, int)}
    for op in module.main.block:
        if op.is_terminator:
            return [values[v] for v in op.operands]
        made = op.evaluate(sizes, *(values[o] for o in op.operands))
        values.update(zip(op.results, made if isinstance(made, tuple) else (made,), strict=True))
    raise AssertionError


def scalar(b: Builder, value: float, like: Value) -> Value:
    constant = b.emit(Constant(np.array(value, like.type.dtype.numpy)))
    return b.emit(Broadcast(constant, like.type.shape, ()))


def softmax(b: Builder, x: Value, axis: int = -1) -> Value:
    shape, axis = x.type.shape, axis % x.type.rank
    kept = tuple(i for i in range(x.type.rank) if i != axis)
    top = b.emit(Broadcast(b.emit(Reduce(x, (axis,), "max")), shape, kept))
    e = b.emit(Unary(b.emit(Binary(x, top, "sub")), "exp"))
    total = b.emit(Broadcast(b.emit(Reduce(e, (axis,), "sum")), shape, kept))
    return b.emit(Binary(e, total, "div"))


def softmax_of_image(b: Builder, x: Value) -> Value:
    """Over channels, the sums taken on an image of one pixel."""

    def total(value: Value, how: str) -> Value:
        image = b.emit(Reshape(value, (1, 37, 1, 1)))
        return b.emit(Broadcast(b.emit(Reshape(b.emit(Reduce(image, (1, 2, 3), how)), ())), (1, 37), ()))

    e = b.emit(Unary(b.emit(Binary(x, total(x, "max"), "sub")), "exp"))
    return b.emit(Binary(e, total(e, "sum"), "div"))


def normalised_columns(b: Builder, x: Value) -> Value:
    """Each row of the operand over its root mean square, stored as a column."""
    swap = (0, 2, 1)
    shape = x.type.shape[0], x.type.shape[2], x.type.shape[1]
    mean = b.emit(Reduce(b.emit(Binary(x, x, "mul")), (2,), "mean"))
    root = b.emit(Broadcast(b.emit(Unary(mean, "sqrt")), shape, (0, 2)))
    return b.emit(Binary(b.emit(Transpose(x, swap)), root, "div"))


def repeated_sums(b: Builder, x: Value) -> Value:
    """Stores along an axis that only the reduction's operand has."""
    total = b.emit(Reduce(x, (1,), "sum"))
    return b.emit(Unary(b.emit(Broadcast(total, x.type.shape, (0,))), "tanh"))


def layer_norm(b: Builder, x: Value, scale: Value, bias: Value) -> Value:
    shape, last = x.type.shape, (x.type.rank - 1,)
    kept = tuple(range(x.type.rank - 1))
    centred = b.emit(Binary(x, b.emit(Broadcast(b.emit(Reduce(x, last, "mean")), shape, kept)), "sub"))
    variance = b.emit(Reduce(b.emit(Binary(centred, centred, "mul")), last, "mean"))
    factor = b.emit(Unary(b.emit(Binary(variance, scalar(b, 1e-5, variance), "add")), "rsqrt"))
    y = b.emit(Binary(centred, b.emit(Broadcast(factor, shape, kept)), "mul"))
    y = b.emit(Binary(y, b.emit(Broadcast(scale, shape, last)), "mul"))
    return b.emit(Binary(y, b.emit(Broadcast(bias, shape, last)), "add"))


def layer_norm_first(b: Builder, x: Value, scale: Value, bias: Value) -> Value:
    """Over the last axis, the result channels-first: the mean is taken of x, the rest of its transpose."""
    moved = b.emit(Transpose(x, (0, 2, 1)))
    shape = moved.type.shape
    mean = b.emit(Broadcast(b.emit(Reduce(x, (2,), "mean")), shape, (0, 2)))
    centred = b.emit(Binary(moved, mean, "sub"))
    variance = b.emit(Reduce(b.emit(Binary(centred, centred, "mul")), (1,), "mean"))
    factor = b.emit(Unary(b.emit(Binary(variance, scalar(b, 1e-5, variance), "add")), "rsqrt"))
    y = b.emit(Binary(centred, b.emit(Broadcast(factor, shape, (0, 2))), "mul"))
    y = b.emit(Binary(y, b.emit(Broadcast(scale, shape, (1,))), "mul"))
    return b.emit(Binary(y, b.emit(Broadcast(bias, shape, (1,))), "add"))


def rotary(b: Builder, x: Value, cos: Value, sin: Value) -> Value:
    """x * cos + (its halves swapped, one negated) * sin, of [batch, seq, heads, dim] heads first."""
    x = b.emit(Transpose(x, (0, 2, 1, 3)))
    batch, heads, seq, dim = x.type.shape
    assert isinstance(dim, int)
    half = (batch, heads, seq, dim // 2)
    low, high = (b.emit(Slice(x, (0, 0, 0, start), half, (1,) * 4)) for start in (0, dim // 2))
    turned = b.emit(Concat((b.emit(Unary(high, "neg")), low), 3))
    cos, sin = (b.emit(Broadcast(y, x.type.shape, (2, 3))) for y in (cos, sin))
    return b.emit(Binary(b.emit(Binary(x, cos, "mul")), b.emit(Binary(turned, sin, "mul")), "add"))


def joined_exponentials(b: Builder, x: Value) -> Value:
    """A concat of what is not cheap is computed once, in a kernel of its own."""
    halves = [b.emit(Unary(b.emit(Slice(x, (0, start), (x.type.shape[0], 9), (1, 1))), "exp")) for start in (9, 0)]
    return b.emit(Binary(b.emit(Concat(tuple(halves), 1)), x, "add"))


def add_norm(b: Builder, x: Value, y: Value, scale: Value, bias: Value) -> list[Value]:
    total = b.emit(Binary(x, y, "add"))
    return [layer_norm(b, total, scale, bias), total]


def linear(b: Builder, x: Value, bias: Value) -> Value:
    y = b.emit(DotGeneral(x, b.emit(Constant(real(24, 33))), (), (), (2,), (0,)))
    y = b.emit(Binary(y, b.emit(Broadcast(bias, y.type.shape, (2,))), "add"))
    return b.emit(Binary(y, scalar(b, 0.0, y), "max"))


def gelu_linear(b: Builder, x: Value, residual: Value) -> Value:
    y = b.emit(DotGeneral(x, b.emit(Constant(real(24, 24))), (), (), (2,), (0,)))
    e = b.emit(Unary(b.emit(Binary(y, scalar(b, 0.7071, y), "mul")), "erf"))
    half = b.emit(Binary(y, scalar(b, 0.5, y), "mul"))
    return b.emit(Binary(b.emit(Binary(half, b.emit(Binary(e, scalar(b, 1.0, e), "add")), "mul")), residual, "add"))


def attention(b: Builder, q: Value, k: Value, v: Value) -> Value:
    q, k, v = (b.emit(Transpose(x, (0, 2, 1, 3))) for x in (q, k, v))
    scores = b.emit(DotGeneral(q, k, (0, 1), (0, 1), (3,), (3,)))
    out = b.emit(DotGeneral(softmax(b, scores), v, (0, 1), (0, 1), (3,), (2,)))
    return b.emit(Transpose(out, (0, 2, 1, 3)))


def conv_relu(groups: int, layout_in: int, out: int, kernel: tuple[int, ...], stride: int) -> Make:
    def make(b: Builder, x: Value, bias: Value) -> Value:
        spatial = len(kernel)
        weight = b.emit(Constant(real(out, layout_in // groups, *kernel)))
        pads = tuple(k // 2 for k in kernel)
        y = b.emit(Conv(x, weight, (stride,) * spatial, pads, pads, (1,) * spatial, groups, "nhwc"))
        y = b.emit(Binary(y, b.emit(Broadcast(bias, y.type.shape, (spatial + 1,))), "add"))
        return b.emit(Binary(y, scalar(b, 0.0, y), "max"))

    return make


def conv_transpose(b: Builder, x: Value) -> Value:
    weight = b.emit(Constant(real(6, 5, 2, 2)))
    return b.emit(Unary(b.emit(ConvTranspose(x, weight, (2, 2), (0, 0), (0, 0), (1, 1), 1, "nhwc")), "neg"))


def to_one_channel(transposed: bool) -> Make:
    """A head that ends in one channel, with an epilogue: 1 of the lanes of a tile is used."""
    weight = real(6, 1, 2, 2) if transposed else real(1, 6, 1, 1)

    def make(b: Builder, x: Value) -> Value:
        w = b.emit(Constant(weight))
        fields = {"strides": (2, 2) if transposed else (1, 1), "low": (0, 0), "high": (0, 0), "dilations": (1, 1)}
        if transposed:
            y = b.emit(ConvTranspose(x, w, **fields, groups=1, layout="nhwc"))
        else:
            y = b.emit(Conv(x, w, **fields, groups=1, layout="nhwc"))
        return b.emit(Unary(b.emit(Binary(y, scalar(b, 0.25, y), "add")), "sigmoid"))

    return make


def pool(how: str, axes: tuple[int, ...]) -> Make:
    k = len(axes)
    return lambda b, x: b.emit(ReduceWindow(x, axes, (3,) * k, (2,) * k, (1,) * k, (1,) * k, (1,) * k, how))


def select(b: Builder, x: Value) -> Value:
    return b.emit(Select(b.emit(Compare(x, scalar(b, 0.0, x), "gt")), x, b.emit(Unary(x, "exp"))))


IMAGE, IMAGE_VALUE = t(2, h, w, 6), real(2, 9, 10, 6)
PLANES, PLANES_VALUE = t(2, 6, h, w), real(2, 6, 9, 10)
CASES: dict[str, tuple[list[TensorType], Make, list[Array], int]] = {
    "softmax_last": ([t(n, 37)], softmax, [real(5, 37)], 1),
    "softmax_middle": ([t(3, n, 37)], lambda b, x: softmax(b, x, 1), [real(3, 5, 37)], 1),
    "softmax_with_unit_axes": ([t(1, 37)], softmax_of_image, [real(1, 37)], 1),
    "softmax_symbolic": ([t(3, n)], softmax, [real(3, 133)], 1),
    "softmax_f64": ([t(n, 37, dtype=f64)], softmax, [real(5, 37).astype(np.float64)], 1),
    "normalised_columns": ([t(2, n, 48)], normalised_columns, [real(2, 7, 48)], 1),
    "normalised_columns_of_squares": ([t(2, 7, 7)], normalised_columns, [real(2, 7, 7)], 1),
    "repeated_sums": ([t(n, 4)], repeated_sums, [real(5, 4)], 1),
    "layer_norm": ([t(2, n, 48), t(48), t(48)], layer_norm, [real(2, 7, 48), real(48), real(48)], 1),
    "add_norm": ([t(2, n, 48), t(2, n, 48), t(48), t(48)], add_norm, [real(2, 7, 48)] * 2 + [real(48)] * 2, 1),
    "layer_norm_of_transposed": (
        [t(2, n, 12), t(12), t(12)],
        lambda b, x, s, c: layer_norm_first(b, x, s, c),
        [real(2, 12, 12), real(12), real(12)],  # square: the sizes do not tell the axes apart
        1,
    ),
    "linear_relu": ([t(2, n, 24), t(33)], linear, [real(2, 11, 24), real(33)], 1),
    "product_over_axes_apart": (
        [t(4, n, 6), t(4, 7, 6)],
        lambda b, x, y: b.emit(Unary(b.emit(DotGeneral(x, y, (), (), (0, 2), (0, 2))), "neg")),
        [real(4, 5, 6), real(4, 7, 6)],
        1,
    ),
    "linear_one_row": ([t(1, 1, 24), t(33)], linear, [real(1, 1, 24), real(33)], 1),
    "gelu_linear_residual": ([t(2, n, 24)] * 2, gelu_linear, [real(2, 11, 24), real(2, 11, 24)], 1),
    "attention": ([t(2, n, 3, 8)] * 3, attention, [real(2, 9, 3, 8) for _ in range(3)], 3),
    "conv3x3": ([IMAGE, t(20)], conv_relu(1, 6, 20, (3, 3), 1), [IMAGE_VALUE, real(20)], 1),
    "conv_grouped": ([IMAGE, t(9)], conv_relu(3, 6, 9, (3, 3), 2), [IMAGE_VALUE, real(9)], 1),
    "conv_depthwise": ([IMAGE, t(6)], conv_relu(6, 6, 6, (3, 3), 2), [IMAGE_VALUE, real(6)], 1),
    "conv1d": ([t(2, w, 6), t(20)], conv_relu(1, 6, 20, (5,), 2), [real(2, 33, 6), real(20)], 1),
    "conv_transpose": ([IMAGE], conv_transpose, [IMAGE_VALUE], 1),
    "conv_to_one_channel": ([IMAGE], to_one_channel(False), [IMAGE_VALUE], 1),
    "conv_transpose_to_one_channel": ([IMAGE], to_one_channel(True), [IMAGE_VALUE], 1),
    "max_pool": ([IMAGE], pool("max", (1, 2)), [IMAGE_VALUE], 1),
    "average_pool": ([IMAGE], pool("mean_valid", (1, 2)), [IMAGE_VALUE], 1),
    "average_pool_planes": ([PLANES], pool("mean_valid", (2, 3)), [PLANES_VALUE], 1),
    "window_over_channels": ([IMAGE], pool("sum", (3,)), [IMAGE_VALUE], 1),
    "global_average": ([IMAGE], lambda b, x: b.emit(Reduce(x, (1, 2), "mean")), [IMAGE_VALUE], 1),
    "global_average_planes": ([PLANES], lambda b, x: b.emit(Reduce(x, (2, 3), "mean")), [PLANES_VALUE], 1),
    "reduce_all": ([PLANES], lambda b, x: b.emit(Reduce(x, (0, 1, 2, 3), "max")), [PLANES_VALUE], 1),
    "reduce_int": (
        [t(n, 5, dtype=i32)],
        lambda b, x: b.emit(Reduce(x, (0,), "sum")),
        [np.arange(35, dtype=np.int32).reshape(7, 5)],
        1,
    ),
    "argmax": ([t(5, n)], lambda b, x: b.emit(ArgReduce(x, 1, "max")), [real(5, 31)], 1),
    "argmin_first_axis": ([t(n, 31)], lambda b, x: b.emit(ArgReduce(x, 0, "min", True)), [real(5, 31)], 1),
    "tanh_transpose": (
        [t(5, n, 6)],
        lambda b, x: b.emit(Transpose(b.emit(Unary(x, "tanh")), (2, 0, 1))),
        [real(5, 31, 6)],
        1,
    ),
    "concat": (
        [t(5, n, 6), t(5, 3, 6)],
        lambda b, x, y: b.emit(Concat((b.emit(Unary(x, "tanh")), y, y), 1)),
        [real(5, 31, 6), real(5, 3, 6)],
        1,
    ),
    "rotary_embedding": (
        [t(2, n, 3, 22), t(n, 22), t(n, 22)],
        rotary,
        [real(2, 9, 3, 22), real(9, 22), real(9, 22)],
        1,
    ),
    "concat_of_exponentials_read_elsewhere": ([t(n, 18)], joined_exponentials, [real(5, 18)], 2),
    "gather_rows": (
        [t(n, 6), t(2, 4, dtype=i64)],
        lambda b, x, i: b.emit(Unary(b.emit(Gather(x, i, 0)), "neg")),
        [real(9, 6), rng.integers(-9, 9, (2, 4))],
        1,
    ),
    "gather_columns": (
        [t(n, 6), t(2, 4, dtype=i64)],
        lambda b, x, i: b.emit(Gather(x, i, 1)),
        [real(9, 6), rng.integers(-6, 6, (2, 4))],
        1,
    ),
    "gather_elements": (
        [t(n, 6), t(4, 6, dtype=i64)],
        lambda b, x, i: b.emit(GatherElements(x, i, 0)),
        [real(9, 6), rng.integers(-9, 9, (4, 6))],
        1,
    ),
    "gather_nd": (
        [t(n, 6, 4), t(5, 2, dtype=i64)],
        lambda b, x, i: b.emit(GatherND(x, i, 0)),
        [real(9, 6, 4), rng.integers(0, 6, (5, 2))],
        1,
    ),
    "pad": (
        [t(n, 6)],
        lambda b, x: b.emit(Pad(x, b.emit(Constant(np.array(3, np.float32))), (1, 2), (2, 3))),
        [real(9, 6)],
        1,
    ),
    "slice_backwards": ([t(n, 26)], lambda b, x: b.emit(Slice(x, (n - 1, 1), (n, 9), (-1, 2))), [real(9, 26)], 1),
    "cumulative": ([t(n, 26)], lambda b, x: b.emit(Cumulative(x, 1, "sum", True, True)), [real(9, 26)], 1),
    "scatter_nd": (
        [t(n, 6), t(2, 1, dtype=i64), t(2, 6)],
        lambda b, x, i, u: b.emit(ScatterND(x, i, u, "add")),
        [real(9, 6), rng.integers(-9, 9, (2, 1)), real(2, 6)],
        1,
    ),
    "scatter_elements": (
        [t(n, 6), t(2, 6, dtype=i64), t(2, 6)],
        lambda b, x, i, u: b.emit(ScatterElements(x, i, u, 0, "max")),
        [real(9, 6), rng.integers(-9, 9, (2, 6)), real(2, 6)],
        1,
    ),
    "select": ([t(n, 6)], select, [real(9, 6)], 1),
    "compare": ([t(n, 6)], lambda b, x: b.emit(Compare(x, scalar(b, 0.0, x), "gt")), [real(9, 6)], 1),
    "iota": ([t(n, 6)], lambda b, x: b.emit(Binary(x, b.emit(Iota((n, 6), 0, f32)), "add")), [real(9, 6)], 1),
    "cast": ([t(n, 6)], lambda b, x: b.emit(Cast(x, i64)), [real(9, 6) * 10], 1),
    "reshape_between": (
        [t(4, n, 6)],
        lambda b, x: b.emit(Unary(b.emit(Reshape(b.emit(Unary(x, "exp")), (4 * n, 6))), "log")),
        [real(4, 9, 6)],
        2,
    ),
    "empty": ([t(n, 6)], lambda b, x: b.emit(Unary(x, "exp")), [real(0, 6)], 1),
    "scalar": ([t()], lambda b, x: b.emit(Unary(x, "exp")), [real()], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_kernel_matches_numpy(name: str) -> None:
    types, make, inputs, kernels = CASES[name]
    module = module_of(types, make)
    want = expected(module, inputs)
    results: list[list[Array]] = []
    for tasks in (1, 3):
        copy = module.clone()
        results.append(run_fused(copy, list(inputs), tasks=tasks))
        assert sum(isinstance(o, Fusion) for o in copy.main.block) == kernels
        for got, wanted in zip(results[-1], want, strict=True):
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            if got.dtype.kind == "f":
                scale = np.max(np.abs(wanted), initial=1e-6)
                np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * scale)
            else:
                np.testing.assert_array_equal(got, wanted)
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)  # the task count never changes a bit
