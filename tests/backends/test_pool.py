"""Pooling and depthwise convolution against direct float64 references, over sizes given at run time."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.backends.llvm.depthwise import emit_depthwise, pack_depthwise_weight
from ds_compiler.backends.llvm.pool import PoolShape, emit_pool
from ds_compiler.backends.llvm.target import host
from ds_compiler.backends.llvm.window import ConvShape
from tests.backends.windows import Array, Kernel, Pair, convolve, gather_windows, output_size

Kind = Literal["max", "average"]
_EMPTY = np.zeros(1, np.float32)
_F32 = np.finfo(np.float32).eps


def pool_reference(
    x: Array, kind: Kind, out: Pair, kernel: Pair, stride: Pair, dilation: Pair, pads: tuple[int, ...], padded: bool
) -> Array:
    top, left, bottom, right = pads
    if kind == "max":
        windows = gather_windows(x, out, kernel, stride, dilation, (top, left), -np.inf)
        return np.max(windows, axis=(3, 4))
    windows = gather_windows(x, out, kernel, stride, dilation, (top, left), 0.0)
    ones = np.ones_like(x)
    if padded:
        ones = np.pad(ones, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=1.0)
        counts = gather_windows(ones, out, kernel, stride, dilation, (0, 0), 0.0)
    else:
        counts = gather_windows(ones, out, kernel, stride, dilation, (top, left), 0.0)
    return windows.sum((3, 4)) / counts.sum((3, 4))


@functools.cache
def pool_kernel(
    kind: Kind, channels: int, kernel: Pair, stride: Pair, dilation: Pair, padded: bool, static: tuple[int, ...] | None
) -> Kernel:
    def emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue):  # type: ignore[no-untyped-def]
        shape = PoolShape(
            n=sizes.n,
            h=sizes.h,
            w=sizes.w,
            oh=sizes.oh,
            ow=sizes.ow,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            pads=sizes.pads,
            channels=channels,
        )
        emit_pool(
            fb,
            target,
            kind=kind,
            shape=shape,
            x=x,
            task=task,
            tasks=tasks,
            epilogue=epilogue,
            count_include_pad=padded,
        )

    return Kernel(emit, channels, static=static)


def check_pool(
    kind: Kind,
    x: np.ndarray,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    pads: tuple[int, ...],
    ceil: bool,
    padded: bool,
    tasks: int,
    static: bool = False,
) -> None:
    n, h, w, channels = x.shape
    out = (
        output_size(h, kernel[0], stride[0], dilation[0], (pads[0], pads[2]), ceil),
        output_size(w, kernel[1], stride[1], dilation[1], (pads[1], pads[3]), ceil),
    )
    sizes = (n, h, w, *out, *pads) if static else None
    run = pool_kernel(kind, channels, kernel, stride, dilation, padded, sizes)
    got = run(x, _EMPTY, out, pads, tasks)
    expected = pool_reference(x.astype(np.float64), kind, out, kernel, stride, dilation, pads, padded)
    if kind == "max":
        np.testing.assert_array_equal(got, expected.astype(np.float32))
    else:
        bound = kernel[0] * kernel[1] * _F32 * np.abs(x).max(initial=0)
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


_POOLS: list[tuple[Kind, int, Pair, Pair, Pair, bool]] = [
    ("max", 5, (3, 3), (2, 2), (1, 1), False),
    ("max", 16, (2, 2), (2, 2), (1, 1), False),
    ("max", 27, (5, 5), (1, 1), (1, 2), False),
    ("max", 40, (1, 11), (1, 3), (1, 1), False),
    ("average", 8, (3, 3), (1, 1), (1, 1), True),
    ("average", 19, (3, 2), (2, 1), (1, 1), False),
    ("average", 33, (2, 5), (3, 2), (2, 1), True),
    ("average", 1, (6, 5), (2, 2), (1, 1), False),
]


@pytest.mark.parametrize("kind, channels, kernel, stride, dilation, padded", _POOLS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pool_run_time_sizes(
    kind: Kind, channels: int, kernel: Pair, stride: Pair, dilation: Pair, padded: bool, data: st.DataObject
) -> None:
    n, h, w = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 15), st.integers(1, 15)), "n, h, w")
    # ONNX wants pads smaller than the kernel.
    pads = data.draw(st.tuples(*[st.integers(0, (k - 1) * d) for k, d in zip(kernel, dilation)] * 2), "pads")
    ceil, tasks = data.draw(st.booleans(), "ceil"), data.draw(st.integers(1, 3), "tasks")
    x = np.random.default_rng(h * 16 + w).standard_normal((n, h, w, channels)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        check_pool(kind, x, kernel, stride, dilation, pads, ceil, padded, tasks)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pool_constant_sizes(kind: Kind) -> None:
    x = np.random.default_rng(0).standard_normal((2, 13, 11, 12)).astype(np.float32)
    check_pool(kind, x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), True, True, 2, static=True)


def test_max_propagates_nan_and_keeps_minus_infinity() -> None:
    x = np.random.default_rng(1).standard_normal((1, 9, 9, 10)).astype(np.float32)
    x[0, 4, 4, 3] = np.nan
    x[0, :3, :3, 5] = -np.inf
    check_pool("max", x, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), False, False, 1)


@functools.cache
def depthwise_kernel(
    ci: int, multiplier: int, kernel: Pair, stride: Pair, dilation: Pair, static: tuple[int, ...] | None
) -> Kernel:
    def emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue):  # type: ignore[no-untyped-def]
        shape = ConvShape(
            n=sizes.n,
            h=sizes.h,
            w=sizes.w,
            oh=sizes.oh,
            ow=sizes.ow,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            pads=sizes.pads,
            ci=ci,
            co=ci * multiplier,
            groups=ci,
        )
        emit_depthwise(fb, target, shape=shape, x=x, w=w, task=task, tasks=tasks, epilogue=epilogue)

    return Kernel(emit, ci * multiplier, static=static)


def check_depthwise(
    x: np.ndarray,
    multiplier: int,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    pads: tuple[int, ...],
    tasks: int,
    static: bool = False,
) -> None:
    n, h, w, ci = x.shape
    out = (
        output_size(h, kernel[0], stride[0], dilation[0], (pads[0], pads[2])),
        output_size(w, kernel[1], stride[1], dilation[1], (pads[1], pads[3])),
    )
    weight = np.random.default_rng(ci).standard_normal((ci * multiplier, 1, *kernel)).astype(np.float32)
    sizes = (n, h, w, *out, *pads) if static else None
    run = depthwise_kernel(ci, multiplier, kernel, stride, dilation, sizes)
    got = run(x, pack_depthwise_weight(weight, host().lanes("float")), out, pads, tasks)
    expected, scale = convolve(
        x.astype(np.float64), weight.astype(np.float64), out, stride, dilation, (pads[0], pads[1]), ci
    )
    assert (np.abs(got - expected) <= scale * _F32 * (kernel[0] * kernel[1] + 1)).all()


_DEPTHWISE: list[tuple[int, int, Pair, Pair, Pair]] = [
    (32, 1, (3, 3), (1, 1), (1, 1)),
    (24, 1, (3, 3), (2, 2), (1, 1)),
    (13, 1, (5, 5), (1, 1), (1, 1)),
    (40, 1, (5, 5), (2, 1), (1, 1)),
    (7, 1, (3, 2), (3, 1), (2, 3)),
    (35, 1, (1, 13), (1, 2), (1, 1)),
    (6, 2, (3, 3), (1, 1), (1, 1)),
    (11, 3, (2, 3), (2, 2), (1, 2)),
    (17, 9, (3, 3), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("ci, multiplier, kernel, stride, dilation", _DEPTHWISE)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_depthwise_run_time_sizes(
    ci: int, multiplier: int, kernel: Pair, stride: Pair, dilation: Pair, data: st.DataObject
) -> None:
    n, h, w = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 15), st.integers(1, 15)), "n, h, w")
    pads = data.draw(st.tuples(*[st.integers(0, 5)] * 4), "pads")
    tasks = data.draw(st.integers(1, 3), "tasks")
    x = np.random.default_rng(h * 16 + w).standard_normal((n, h, w, ci)).astype(np.float32)
    check_depthwise(x, multiplier, kernel, stride, dilation, pads, tasks)


def test_depthwise_constant_sizes() -> None:
    x = np.random.default_rng(0).standard_normal((2, 14, 15, 20)).astype(np.float32)
    check_depthwise(x, 1, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2, static=True)
