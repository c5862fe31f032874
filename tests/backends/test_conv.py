"""Dense, grouped and transposed convolution against direct float64 references, over sizes given at run time."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.backends.llvm.builder import V
from ds_compiler.backends.llvm.conv import ConvShape, conv_scratch_bytes, emit_conv, pack_conv_weight
from ds_compiler.backends.llvm.conv_plan import conv_plan
from ds_compiler.backends.llvm.conv_transpose import (
    conv_transpose_scratch_bytes,
    emit_conv_transpose,
    pack_conv_transpose_weight,
)
from ds_compiler.backends.llvm.convolution import choose
from ds_compiler.backends.llvm.target import host, parse_target
from ds_compiler.backends.llvm.winograd import (
    emit_winograd,
    pack_winograd_weight,
    winograd_pays,
    winograd_plan,
    winograd_scratch_bytes,
)
from tests.backends.windows import Kernel, Pair, convolve, convolve_transposed, output_size

_F32 = np.finfo(np.float32).eps
_Z = V("i64", "%unknown")
Pads = tuple[int | V, int | V, int | V, int | V]
_ANY: Pads = (_Z, _Z, _Z, _Z)


def _shape(ci: int, co: int, kernel: Pair, stride: Pair, dilation: Pair, groups: int, pads: Pads = _ANY) -> ConvShape:
    return ConvShape(
        n=_Z,
        h=_Z,
        w=_Z,
        oh=_Z,
        ow=_Z,
        pads=pads,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        ci=ci,
        co=co,
        groups=groups,
    )


@functools.cache
def conv_kernel(
    ci: int,
    co: int,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    groups: int,
    padded: bool,
    static: tuple[int, ...] | None,
) -> tuple[Kernel, ConvShape]:
    shape = _shape(ci, co, kernel, stride, dilation, groups, _ANY if padded else (0, 0, 0, 0))
    if static:
        v = [V("i64", str(s)) for s in static]
        shape = replace(shape, n=v[0], h=v[1], w=v[2], oh=v[3], ow=v[4], pads=(v[5], v[6], v[7], v[8]))

    def emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue):  # type: ignore[no-untyped-def]
        real = replace(shape, n=sizes.n, h=sizes.h, w=sizes.w, oh=sizes.oh, ow=sizes.ow)
        if padded:
            real = replace(real, pads=sizes.pads)
        emit_conv(fb, target, shape=real, x=x, w=w, task=task, tasks=tasks, scratch=scratch, epilogue=epilogue)

    return Kernel(emit, co, static=static, scratch_bytes=conv_scratch_bytes(shape, host())), shape


def check_conv(
    x: np.ndarray,
    co: int,
    kernel: Pair,
    stride: Pair,
    dilation: Pair,
    groups: int,
    pads: tuple[int, ...],
    tasks: int,
    static: bool = False,
) -> np.ndarray:
    n, h, w, ci = x.shape
    out = (
        output_size(h, kernel[0], stride[0], dilation[0], (pads[0], pads[2])),
        output_size(w, kernel[1], stride[1], dilation[1], (pads[1], pads[3])),
    )
    weight = np.random.default_rng(ci).standard_normal((co, ci // groups, *kernel)).astype(np.float32)
    sizes = (n, h, w, *out, *pads) if static else None
    run, shape = conv_kernel(ci, co, kernel, stride, dilation, groups, any(pads), sizes)
    got = run(x, pack_conv_weight(weight, shape, host()), out, pads, tasks)
    expected, scale = convolve(
        x.astype(np.float64), weight.astype(np.float64), out, stride, dilation, (pads[0], pads[1]), groups
    )
    terms = ci // groups * kernel[0] * kernel[1]
    assert (np.abs(got - expected) <= scale * _F32 * (terms + 1)).all()
    return got


# ci, co, kernel, stride, dilation, groups: the modes rows, taps and gather, chunks of segments and of pieces,
# panels of one, two and three vectors, masked tails.
_CONVS: list[tuple[int, int, Pair, Pair, Pair, int]] = [
    (3, 16, (3, 3), (2, 2), (1, 1), 1),
    (1, 5, (1, 5), (1, 3), (1, 1), 1),
    (7, 24, (3, 2), (1, 1), (2, 3), 1),
    (16, 16, (3, 3), (1, 1), (1, 1), 1),
    (40, 37, (3, 3), (1, 2), (1, 1), 1),
    (33, 8, (1, 1), (2, 2), (1, 1), 1),
    (20, 40, (1, 1), (1, 1), (1, 1), 1),
    (32, 12, (5, 5), (1, 1), (1, 1), 1),
    (8, 12, (3, 3), (1, 1), (1, 1), 2),
    (18, 40, (1, 1), (1, 1), (1, 1), 2),
    (40, 40, (2, 3), (3, 1), (1, 2), 5),
    (36, 38, (3, 3), (1, 1), (1, 1), 2),
    (9, 3, (4, 4), (2, 2), (1, 1), 3),
]


@pytest.mark.parametrize("ci, co, kernel, stride, dilation, groups", _CONVS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_run_time_sizes(
    ci: int, co: int, kernel: Pair, stride: Pair, dilation: Pair, groups: int, data: st.DataObject
) -> None:
    n, h, w = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 15), st.integers(1, 15)), "n, h, w")
    pads = data.draw(st.just((0, 0, 0, 0)) | st.tuples(*[st.integers(0, 4)] * 4), "pads")
    tasks = data.draw(st.integers(1, 3), "tasks")
    x = np.random.default_rng(h * 16 + w).standard_normal((n, h, w, ci)).astype(np.float32)
    check_conv(x, co, kernel, stride, dilation, groups, pads, tasks)


@pytest.mark.parametrize(
    "size, co, kernel, stride, pads",
    [
        ((1, 7, 7, 40), 40, (3, 3), (1, 1), (1, 1, 1, 1)),
        ((1, 7, 7, 520), 40, (1, 1), (1, 1), (0, 0, 0, 0)),  # rows, pieces
        ((2, 5, 9, 400), 19, (1, 1), (2, 2), (0, 0, 0, 0)),  # taps, pieces
        ((3, 4, 4, 257), 24, (2, 2), (1, 1), (1, 0, 0, 1)),  # pieces of different length
        ((1, 1, 1, 16), 16, (1, 1), (1, 1), (0, 0, 0, 0)),
        ((2, 23, 31, 3), 20, (7, 7), (2, 2), (3, 3, 3, 3)),
        ((1, 1, 300, 1), 20, (1, 64), (1, 16), (0, 32, 0, 32)),
        ((1, 40, 41, 16), 16, (1, 1), (1, 1), (0, 0, 0, 0)),  # several blocks
        ((1, 16, 48, 16), 40, (5, 5), (1, 1), (2, 2, 2, 2)),  # full blocks, all of the scratch
        ((2, 16, 24, 5), 16, (3, 3), (1, 1), (1, 1, 1, 1)),
    ],
)
def test_constant_sizes(
    size: tuple[int, int, int, int], co: int, kernel: Pair, stride: Pair, pads: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    runs = [check_conv(x, co, kernel, stride, (1, 1), 1, pads, tasks, static=True) for tasks in (1, 2, 3)]
    runs.append(check_conv(x, co, kernel, stride, (1, 1), 1, pads, 2))
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)


def test_empty_batch() -> None:
    check_conv(np.zeros((0, 5, 5, 16), np.float32), 16, (3, 3), (1, 1), (1, 1), 1, (1, 1, 1, 1), 2)


def test_weight_shape_is_checked() -> None:
    shape = _shape(8, 16, (3, 3), (1, 1), (1, 1), 2)
    with pytest.raises(ValueError, match=r"expected \[16, 4, 3, 3\], got \[16, 8, 3, 3\]"):
        pack_conv_weight(np.zeros((16, 8, 3, 3), np.float32), shape, host())
    with pytest.raises(ValueError, match="8 and 15 channels do not divide into 2 groups"):
        _shape(8, 15, (3, 3), (1, 1), (1, 1), 2)


def test_scratch_is_bounded() -> None:
    for ci, co, kernel in [(3, 64, (7, 7)), (512, 512, (3, 3)), (2048, 2048, (3, 3)), (1, 64, (1, 1025))]:
        shape = _shape(ci, co, kernel, (1, 1), (1, 1), 1)
        assert conv_scratch_bytes(shape, host()) < 1 << 20, conv_plan(shape, host())


@functools.cache
def transpose_kernel(
    ci: int, co: int, kernel: Pair, stride: Pair, dilation: Pair, groups: int, static: tuple[int, ...] | None
) -> tuple[Kernel, ConvShape]:
    shape = _shape(ci, co, kernel, stride, dilation, groups)

    def emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue):  # type: ignore[no-untyped-def]
        real = replace(shape, n=sizes.n, h=sizes.h, w=sizes.w, oh=sizes.oh, ow=sizes.ow, pads=sizes.pads)
        emit_conv_transpose(
            fb, target, shape=real, x=x, w=w, task=task, tasks=tasks, scratch=scratch, epilogue=epilogue
        )

    scratch_bytes = conv_transpose_scratch_bytes(shape, host())
    return Kernel(emit, co, static=static, scratch_bytes=scratch_bytes), shape


_TRANSPOSED: list[tuple[int, int, Pair, Pair, Pair, int]] = [
    (24, 10, (2, 2), (2, 2), (1, 1), 1),
    (3, 17, (3, 3), (2, 2), (1, 1), 1),
    (32, 16, (4, 4), (2, 2), (1, 1), 1),
    (16, 5, (1, 5), (1, 3), (1, 1), 1),
    (8, 24, (3, 2), (1, 2), (2, 3), 1),
    (12, 8, (3, 3), (2, 1), (1, 1), 4),
    (5, 3, (2, 1), (3, 2), (1, 1), 1),  # phases without a tap
]


@pytest.mark.parametrize("ci, co, kernel, stride, dilation, groups", _TRANSPOSED)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_transposed(
    ci: int, co: int, kernel: Pair, stride: Pair, dilation: Pair, groups: int, data: st.DataObject
) -> None:
    n, h, w = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7)), "n, h, w")
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4), "pads")
    more = data.draw(st.tuples(*[st.integers(0, s - 1) for s in stride]), "output padding")
    tasks, static = data.draw(st.integers(1, 3), "tasks"), data.draw(st.sampled_from([False] * 9 + [True]), "static")
    sizes = (h, w)
    out = tuple(
        max(0, (sizes[d] - 1) * stride[d] + more[d] + (kernel[d] - 1) * dilation[d] + 1 - pads[d] - pads[d + 2])
        for d in range(2)
    )
    rng = np.random.default_rng(h * 16 + w)
    x = rng.standard_normal((n, h, w, ci)).astype(np.float32)
    weight = rng.standard_normal((ci, co // groups, *kernel)).astype(np.float32)
    constants = (n, h, w, *out, *pads) if static else None
    run, shape = transpose_kernel(ci, co, kernel, stride, dilation, groups, constants)
    got = run(x, pack_conv_transpose_weight(weight, shape, host()), (out[0], out[1]), pads, tasks)
    expected, scale = convolve_transposed(
        x.astype(np.float64), weight.astype(np.float64), (out[0], out[1]), stride, dilation, (pads[0], pads[1]), groups
    )
    terms = ci // groups * kernel[0] * kernel[1]
    assert (np.abs(got - expected) <= scale * _F32 * (terms + 1)).all()


@functools.cache
def winograd_kernel(ci: int, co: int, static: tuple[int, ...] | None) -> tuple[Kernel, ConvShape]:
    shape = _shape(ci, co, (3, 3), (1, 1), (1, 1), 1)

    def emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue):  # type: ignore[no-untyped-def]
        real = replace(shape, n=sizes.n, h=sizes.h, w=sizes.w, oh=sizes.oh, ow=sizes.ow, pads=sizes.pads)
        emit_winograd(fb, target, shape=real, x=x, w=w, task=task, tasks=tasks, scratch=scratch, epilogue=epilogue)

    return Kernel(emit, co, static=static, scratch_bytes=winograd_scratch_bytes(shape, host())), shape


def check_winograd(x: np.ndarray, co: int, pads: tuple[int, ...], tasks: int, static: bool = False) -> np.ndarray:
    n, h, w, ci = x.shape
    out = output_size(h, 3, 1, 1, (pads[0], pads[2])), output_size(w, 3, 1, 1, (pads[1], pads[3]))
    weight = np.random.default_rng(ci).standard_normal((co, ci, 3, 3)).astype(np.float32)
    run, shape = winograd_kernel(ci, co, (n, h, w, *out, *pads) if static else None)
    got = run(x, pack_winograd_weight(weight, shape, host()), out, pads, tasks)
    expected, _ = convolve(x.astype(np.float64), weight.astype(np.float64), out, (1, 1), (1, 1), (pads[0], pads[1]), 1)
    # Not bounded by an output's own sum: the rounding of a tile's largest terms reaches all its outputs.
    # The standard deviation of an output is 3 sqrt(ci).
    assert np.abs(got - expected).max(initial=0) <= 2e-5 * 3 * np.sqrt(ci)
    return got


@pytest.mark.parametrize("ci, co", [(16, 16), (21, 37), (40, 12)])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_winograd(ci: int, co: int, data: st.DataObject) -> None:
    n, h, w = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 15), st.integers(1, 15)), "n, h, w")
    pads = data.draw(st.tuples(*[st.integers(0, 2)] * 4), "pads")
    x = np.random.default_rng(h * 16 + w).standard_normal((n, h, w, ci)).astype(np.float32)
    check_winograd(x, co, pads, data.draw(st.integers(1, 3), "tasks"))


def test_winograd_blocks_and_tasks() -> None:
    x = np.random.default_rng(0).standard_normal((2, 37, 41, 24)).astype(np.float32)
    runs = [check_winograd(x, 40, (1, 1, 1, 1), tasks, static=True) for tasks in (1, 2, 3)]
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)


def test_winograd_full_block() -> None:
    """As many tiles as a block holds, so that all of the scratch is used."""
    tiles = winograd_plan(_shape(24, 16, (3, 3), (1, 1), (1, 1), 1), host()).block
    assert tiles % 6 == 0
    x = np.random.default_rng(0).standard_normal((1, 4 * 6, 4 * (tiles // 6), 24)).astype(np.float32)
    check_winograd(x, 16, (1, 1, 1, 1), 1)


def test_winograd_is_chosen_where_it_pays() -> None:
    shape = _shape(64, 64, (3, 3), (1, 1), (1, 1), 1)
    assert winograd_pays(shape, host())
    assert not winograd_pays(replace(shape, stride=(2, 2)), host())
    small = V("i64", "1")
    assert not winograd_pays(replace(shape, n=small, oh=small, ow=small), host())
    one, seven, fourteen = (V("i64", str(size)) for size in (1, 7, 14))
    # The weights of 512 channels alone take longer than the direct sum of 7x7 pixels.
    last = replace(shape, n=one, oh=seven, ow=seven, ci=512, co=512)
    assert not winograd_pays(last, host())
    assert winograd_pays(replace(last, oh=fourteen, ow=fourteen), host())
    with pytest.raises(ValueError, match="must be 3x3"):
        pack_winograd_weight(np.zeros((64, 64, 3, 3), np.float32), shape, host())
        emit_winograd(
            None,  # type: ignore[arg-type]
            host(),
            shape=replace(shape, groups=2),
            x=small,
            w=small,
            task=small,
            tasks=small,
            scratch=small,
            epilogue=lambda *_: None,
        )


def test_choice_of_algorithm() -> None:
    target = host()
    dense = _shape(64, 64, (3, 3), (1, 1), (1, 1), 1)
    assert choose(dense, target).algorithm == "winograd"
    assert choose(dense, target, winograd=False).algorithm == "product"
    assert choose(dense, target, element="double").algorithm == "product"
    assert choose(dense, target, transposed=True).algorithm == "transposed"
    assert choose(replace(dense, groups=64), target).algorithm == "depthwise"
    assert choose(replace(dense, groups=2), target).algorithm == "product"


@pytest.mark.parametrize(
    "groups, transposed, winograd", [(1, False, True), (1, False, False), (24, False, True), (1, True, True)]
)
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v2", "x86-64-v3"])
def test_chosen_algorithm_on_other_targets(level: str, groups: int, transposed: bool, winograd: bool) -> None:
    target, size = parse_target(level), 24
    if target.vector_bits > host().vector_bits:
        pytest.skip(f"this machine does not run {level}")
    shape = _shape(size, size, (3, 3), (1, 1), (1, 1), groups, (1, 1, 1, 1))
    convolution = choose(shape, target, transposed=transposed, winograd=winograd)

    def emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue):  # type: ignore[no-untyped-def]
        real = replace(shape, n=sizes.n, h=sizes.h, w=sizes.w, oh=sizes.oh, ow=sizes.ow)
        convolution.emit(fb, shape=real, x=x, w=w, task=task, tasks=tasks, scratch=scratch, epilogue=epilogue)

    run = Kernel(emit, size, scratch_bytes=convolution.scratch_bytes(), target=target)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 11, size)).astype(np.float32)
    weight = rng.standard_normal((size, size // groups, 3, 3)).astype(np.float32)
    got = run(x, convolution.pack(weight), (9, 11), (1, 1, 1, 1), 2)
    reference = convolve_transposed if transposed else convolve
    expected, _ = reference(x.astype(np.float64), weight.astype(np.float64), (9, 11), (1, 1), (1, 1), (1, 1), groups)
    assert np.abs(got - expected).max() <= 2e-5 * 3 * np.sqrt(size // groups)
