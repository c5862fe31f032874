"""Convolution and pooling of images [batch, channels, height, width]."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, read, together, wrap
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import Dim
from ds_compiler.ops import Conv, ReduceWindow

Pair = int | Sequence[int]


def pair(name: str, value: Pair) -> tuple[int, int]:
    """One number for both axes, or two.

    Raises:
        ValueError: it is neither.
    """
    numbers = (value, value) if isinstance(value, int) else tuple(value)
    if len(numbers) != 2:
        raise ValueError(f"{name} is one number or two, got {value}")
    return int(numbers[0]), int(numbers[1])


@public
def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> TracedArray:
    """Cross-correlation with `weight` [out, in/groups, height, width].

    Args:
        padding: zeros at both ends of each axis; ``same`` keeps the size (stride 1), ``valid`` is none.

    Raises:
        CompileError: shapes do not fit.
    """
    values = together(x, weight)
    if values[0].type.rank != 4 or values[1].type.rank != 4:
        shapes = [compose.shown(v.type.shape) for v in values]
        raise located(f"conv2d: takes [batch, channels, height, width], got {shapes[0]} and a weight {shapes[1]}")
    strides, dilations = pair("stride", stride), pair("dilation", dilation)
    if padding == "same":
        if strides != (1, 1):
            raise located("conv2d: padding='same' needs stride 1")
        spans = [(k - 1) * d for k, d in zip(values[1].type.shape[2:], dilations)]
        low: tuple[Dim, ...] = tuple(s // 2 for s in spans)
        high: tuple[Dim, ...] = tuple(s - s // 2 for s in spans)
    else:
        if isinstance(padding, str) and padding != "valid":
            raise located(f"conv2d: padding is numbers, 'same' or 'valid', not {padding!r}")
        low = high = (0, 0) if isinstance(padding, str) else pair("padding", padding)
    y = wrap(current().emit(Conv(values[0], values[1], strides, low, high, dilations, groups)))
    return y if bias is None else y + xp.reshape(bias, (-1, 1, 1))


def _pool(x: ArrayLike, window: Pair, stride: Pair | None, padding: Pair, how: str) -> TracedArray:
    value = read(x)
    if value.type.rank != 4:
        raise located(f"pooling takes [batch, channels, height, width], got {compose.shown(value.type.shape)}")
    sizes, pads = pair("kernel_size", window), pair("padding", padding)
    steps = sizes if stride is None else pair("stride", stride)
    if any(2 * p > k for p, k in zip(pads, sizes)):
        raise located(f"pooling: padding {pads} is more than half of the window {sizes}")
    return wrap(current().emit(ReduceWindow(value, (2, 3), sizes, steps, pads, pads, (1, 1), how)))


@public
def max_pool2d(x: ArrayLike, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> TracedArray:
    """The largest element of each window; by default windows do not overlap."""
    return _pool(x, kernel_size, stride, padding, "max")


@public
def avg_pool2d(
    x: ArrayLike, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True
) -> TracedArray:
    """The mean of each window; padding counts as zeros, or not at all."""
    return _pool(x, kernel_size, stride, padding, "mean" if count_include_pad else "mean_valid")


@public
def adaptive_avg_pool2d(x: ArrayLike, output_size: Pair) -> TracedArray:
    """Means of equal parts, as many as `output_size` says.

    Raises:
        CompileError: the sizes do not divide.
    """
    x = xp.asarray(x)
    out = pair("output_size", output_size)
    if out == (1, 1):
        return xp.mean(x, axis=(2, 3), keepdims=True)
    sizes = x.shape[2:]
    if any(not isinstance(n, int) or n % k for n, k in zip(sizes, out)):
        raise located(f"adaptive_avg_pool2d: sizes {sizes} do not divide into {out} equal parts")
    window = tuple(int(n) // k for n, k in zip(map(int, sizes), out))
    return _pool(x, window, window, 0, "mean")
