"""Channels-last: which transposes are left, and that results stay the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Broadcast,
    Concat,
    Conv,
    ConvTranspose,
    DotGeneral,
    Gather,
    Pad,
    Reduce,
    ReduceWindow,
    Reshape,
    Slice,
    Transpose,
    Unary,
)
from tests.passes.helpers import check, const, module_of, names, spread

PIPELINE = "cleanup,layout,cleanup"
_rng = np.random.default_rng(7)


def conv(b: Builder, x: Value, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Value:
    n = x.type.rank - 2
    weight = const(b, _rng.standard_normal((out, int(x.type.shape[1]) // groups, *[kernel] * n)))  # type: ignore[call-overload]
    pad = (kernel // 2,) * n
    y = b.emit(Conv(x, weight, (stride,) * n, pad, pad, (1,) * n, groups))
    bias = b.emit(Broadcast(const(b, _rng.standard_normal(out)), y.type.shape, (1,)))
    return b.emit(Binary(y, bias, "add"))


def relu(b: Builder, x: Value) -> Value:
    return b.emit(Binary(x, spread(b, 0.0, x), "max"))


def pool(b: Builder, x: Value, how: str = "max") -> Value:
    n = x.type.rank - 2
    one = (1,) * n
    return b.emit(ReduceWindow(x, tuple(range(2, 2 + n)), (2,) * n, (2,) * n, (0,) * n, (0,) * n, one, how))


def transposes(body: Callable[..., Value], *types: str, **sizes: int) -> tuple[int, Module]:
    changed = check(module_of(body, *types), PIPELINE, rtol=1e-5, atol=1e-5, **sizes)
    convs = [op for op in changed.walk() if isinstance(op, Conv | ConvTranspose)]
    assert all(op.layout == "nhwc" for op in convs)
    return names(changed).count("transpose"), changed


def residual_network(b: Builder, x: Value) -> Value:
    x = pool(b, relu(b, conv(b, x, 8, 3, 2)))
    for _ in range(2):
        x = relu(b, b.emit(Binary(conv(b, relu(b, conv(b, x, 8)), 8, 3), x, "add")))
    x = relu(b, b.emit(Binary(conv(b, x, 12, 1, 2), conv(b, x, 12, 3, 2), "add")))
    x = b.emit(Reduce(x, (2, 3), "mean"))
    x = b.emit(Reshape(x, (x.type.shape[0], 12, 1, 1)))
    x = b.emit(Reshape(x, (x.type.shape[0], 12)))
    return b.emit(DotGeneral(x, const(b, _rng.standard_normal((12, 5))), (), (), (1,), (0,)))


def test_a_residual_network_transposes_its_input_alone() -> None:
    assert transposes(residual_network, "2 3 16 16")[0] == 1
    assert transposes(residual_network, "n 3 16 16", n=2)[0] == 1


def test_symbolic_image_sizes() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = pool(b, relu(b, conv(b, x, 4, 3)))
        y = b.emit(Concat((conv(b, x, 4), conv(b, x, 6, 3)), 1))
        return b.emit(Reduce(y, (2, 3), "max"))

    assert transposes(body, "n 3 h w", n=2, h=9, w=12)[0] == 1


def test_one_input_channel_needs_no_transpose() -> None:
    def body(b: Builder, x: Value) -> Value:
        return b.emit(Reduce(conv(b, x, 4, 3), (2, 3), "mean"))

    assert transposes(body, "2 1 9 12")[0] == 0


def test_one_dimensional_convolutions() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = relu(b, conv(b, x, 8, 3))
        return b.emit(Transpose(conv(b, x, 8, 3), (0, 2, 1)))  # [N, L, C] is wanted: nothing to do

    assert transposes(body, "2 3 20")[0] == 1


def test_channels_last_input_and_output_need_none() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = b.emit(Transpose(x, (0, 3, 1, 2)))
        return b.emit(Transpose(relu(b, conv(b, x, 4, 3)), (0, 2, 3, 1)))

    assert transposes(body, "2 8 9 3")[0] == 0


def test_squeeze_and_excite() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = relu(b, conv(b, x, 8, 3))
        s = b.emit(Reshape(b.emit(Reduce(x, (2, 3), "mean")), (2, 8, 1, 1)))
        s = b.emit(Unary(conv(b, relu(b, conv(b, s, 4)), 8), "sigmoid"))
        x = b.emit(Binary(x, b.emit(Broadcast(s, x.type.shape, (0, 1, 2, 3))), "mul"))
        return b.emit(Reduce(conv(b, x, 4), (2, 3), "mean"))

    count, module = transposes(body, "2 3 8 8")
    assert count == 1
    assert names(module).count("reshape") <= 3


def test_channel_shuffle_becomes_a_gather_of_channels() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = conv(b, x, 12, 1)
        y = b.emit(Reshape(x, (2, 3, 4, 8, 8)))
        y = b.emit(Transpose(y, (0, 2, 1, 3, 4)))
        y = b.emit(Reshape(y, (2, 12, 8, 8)))
        return b.emit(Reduce(conv(b, y, 12, 3, 1, 12), (2, 3), "mean"))

    count, module = transposes(body, "2 3 8 8")
    assert count == 1 and "gather" in names(module)


def test_transposing_something_else_is_no_channel_shuffle() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = conv(b, x, 12, 1)
        y = b.emit(Reshape(x, (2, 12, 2, 4, 8)))
        y = b.emit(Transpose(y, (0, 1, 3, 2, 4)))
        y = b.emit(Reshape(y, (2, 12, 8, 8)))
        return b.emit(Reduce(conv(b, y, 12, 3), (2, 3), "mean"))

    assert "gather" not in names(transposes(body, "2 3 8 8")[1])


def test_pads_slices_gathers_windows_and_upsampling_follow() -> None:
    def body(b: Builder, x: Value) -> Value:
        x = relu(b, conv(b, x, 6, 3))
        x = b.emit(Pad(x, const(b, 1.5), (0, 1, 2, 0), (0, 0, 1, 3)))
        x = b.emit(Slice(x, (0, 1, 1, 0), (2, 6, 8, 10), (1, 1, 1, 1)))
        x = b.emit(Gather(x, const(b, [0, 2, 2, 4, 6, 7], "i64"), 2))
        x = b.emit(ReduceWindow(x, (1,), (3,), (1,), (1,), (1,), (1,), "sum"))
        up = b.emit(Broadcast(b.emit(Reshape(x, (2, 6, 6, 1, 10, 1))), (2, 6, 6, 2, 10, 2), (0, 1, 2, 3, 4, 5)))
        x = b.emit(Reshape(up, (2, 6, 12, 20)))
        n = (1, 1)
        weight = const(b, _rng.standard_normal((6, 5, 2, 2)))
        x = b.emit(ConvTranspose(x, weight, (2, 2), (0, 0), (0, 0), n, 1))
        return b.emit(ArgReduce(x, 1, "max"))

    count, _ = transposes(body, "2 3 8 8")
    assert count <= 3  # the upsampling's broadcast of a six-axis view


def test_patches_of_a_vision_transformer() -> None:
    def body(b: Builder, x: Value) -> Value:
        y = conv(b, x, 16, 4, 4)
        y = b.emit(Transpose(b.emit(Reshape(y, (2, 16, 9))), (0, 2, 1)))
        return b.emit(DotGeneral(y, const(b, _rng.standard_normal((16, 5))), (), (), (2,), (0,)))

    count, _ = transposes(body, "2 3 8 8")
    assert count == 1


def test_cheaper_side_of_a_branch_is_transposed() -> None:
    def body(b: Builder, x: Value, y: Value) -> Value:
        x = conv(b, x, 4)
        small = b.emit(Reshape(b.emit(Unary(y, "exp")), (1, 4, 1, 2)))
        return b.emit(
            Reduce(b.emit(Concat((x, b.emit(Broadcast(small, (2, 4, 8, 2), (0, 1, 2, 3)))), 3)), (2, 3), "sum")
        )

    count, _ = transposes(body, "2 3 8 8", "8")
    assert count <= 2


def test_code_without_convolutions_is_left_alone() -> None:
    def body(b: Builder, x: Value) -> Value:
        return b.emit(Transpose(relu(b, x), (0, 3, 1, 2)))

    module = check(module_of(body, "2 3 8 8"), "layout")
    assert names(module) == ["broadcast", "max", "transpose"]


def test_attention_beside_convolutions_keeps_its_layout() -> None:
    def body(b: Builder, x: Value, y: Value) -> tuple[Value, ...]:  # type: ignore[return]
        z = b.emit(Unary(b.emit(Transpose(y, (0, 2, 1, 3))), "exp"))
        return conv(b, x, 4), z

    changed = check(module_of(body, "2 3 8 8", "2 5 4 3"), PIPELINE, rtol=1e-5, atol=1e-5)
    assert names(changed).count("transpose") == 3  # to and from the convolution, and the one that was there


def test_nearest_upsampling_stays_channels_last() -> None:
    """Repetition along spatial axes and regrouping of symbolic ones need no transpose between convolutions."""

    def make(b: Builder, x: Value) -> Value:
        y = b.emit(Conv(x, const(b, np.ones((4, 3, 1, 1))), (1, 1), (0, 0), (0, 0), (1, 1), 1))
        n, c, height, width = y.type.shape
        repeated = b.emit(Broadcast(y, (n, c, height, 2, width, 2), (0, 1, 2, 4)))
        # stated by other symbols, as sizes read from another tensor's shape are
        grown = b.emit(Reshape(repeated, (n, c, 2 * width, 2 * height)))
        return b.emit(Conv(grown, const(b, np.ones((3, 4, 1, 1))), (1, 1), (0, 0), (0, 0), (1, 1), 1))

    module = module_of(make, "n 3 h w")
    changed = check(module, "layout", rtol=1e-5, atol=1e-5, n=2, h=5, w=7)
    assert names(changed).count("transpose") == 2  # of the input and of the result
