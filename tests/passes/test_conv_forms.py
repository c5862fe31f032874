"""Convolutions over three axes and separate transposed windows: which are rewritten, and that results stay the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Conv, ConvTranspose, Transpose
from tests.backends.programs import check_program
from tests.passes.helpers import check, const, module_of, names

PIPELINE = "cleanup,conv-forms,cleanup"
_rng = np.random.default_rng(11)
Three = tuple[int, int, int]


def conv3d(
    weight: tuple[int, ...], strides: Three = (1, 1, 1), pads: Three = (0, 0, 0), dilations: Three = (1, 1, 1),
    groups: int = 1, layout: str = "nchw",
) -> Callable[[Builder, Value], Value]:  # fmt: skip
    w = _rng.standard_normal(weight)

    def build(b: Builder, x: Value) -> Value:
        return b.emit(Conv(x, const(b, w), strides, pads, pads, dilations, groups, layout))

    return build


def rewritten(module: Module, **sizes: int) -> Module:
    changed = check(module, PIPELINE, rtol=1e-4, atol=1e-4, **sizes)
    (conv,) = [op for op in changed.walk() if isinstance(op, Conv)]
    assert conv.spatial_rank == 2 and conv.layout == "nhwc"
    return changed


CASES = [
    conv3d((5, 3, 3, 3, 3), pads=(1, 1, 1)),
    conv3d((4, 3, 3, 2, 5), strides=(2, 1, 2), pads=(1, 0, 2)),
    conv3d((4, 3, 2, 3, 1), dilations=(2, 1, 1), pads=(2, 1, 0)),
    conv3d((4, 3, 1, 3, 3), strides=(2, 2, 2)),
    conv3d((4, 3, 3, 1, 1), pads=(1, 0, 0)),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_three_axes(case: Callable[[Builder, Value], Value]) -> None:
    changed = rewritten(module_of(case, "2 3 6 7 8"))
    check_program(changed, rtol=1e-4)
    moving = rewritten(module_of(case, "n 3 d 7 w"), n=2, d=5, w=9)
    check_program(moving, {"n": 1, "d": 4, "w": 6}, {"n": 2, "d": 7, "w": 21}, threads=(1, 2), rtol=1e-4)


@pytest.mark.parametrize("groups", [2, 6])
def test_groups_keep_their_channels(groups: int) -> None:
    case = conv3d((6, 6 // groups, 3, 3, 3), pads=(1, 1, 1), groups=groups)
    check_program(rewritten(module_of(case, "2 6 4 5 6")), rtol=1e-4)


def test_channels_last_stays() -> None:
    changed = rewritten(module_of(conv3d((4, 3, 3, 3, 3), layout="nhwc"), "2 5 6 7 3"))
    assert names(changed).count("transpose") == 0
    check_program(changed, rtol=1e-4)


def test_a_weight_that_is_not_constant() -> None:
    def build(b: Builder, x: Value, w: Value) -> Value:
        return b.emit(Conv(x, w, (1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1))

    check_program(rewritten(module_of(build, "2 3 4 5 6", "4 3 3 3 3")), rtol=1e-4)


def test_two_axes_are_left() -> None:
    def build(b: Builder, x: Value) -> Value:
        return b.emit(Conv(x, const(b, _rng.standard_normal((4, 3, 3, 3))), (1, 1), (1, 1), (1, 1), (1, 1), 1))

    assert names(check(module_of(build, "2 3 6 7"), PIPELINE)) == ["conv"]


def upsampling(
    out: int = 1, kernel: tuple[int, int] = (2, 2), strides: tuple[int, int] = (2, 2), pad: int = 0,
    layout: str = "nchw", groups: int = 1,
) -> Callable[[Builder, Value], Value]:  # fmt: skip
    w = _rng.standard_normal((6, out, *kernel))

    def build(b: Builder, x: Value) -> Value:
        pads = (pad, pad)
        return b.emit(ConvTranspose(x, const(b, w), strides, pads, pads, (1, 1), groups, layout))

    return build


@pytest.mark.parametrize("layout, shape", [("nchw", "n 6 h w"), ("nhwc", "n h w 6")])
@pytest.mark.parametrize("out, kernel", [(1, (2, 2)), (2, (2, 2)), (1, (3, 4)), (1, (1, 2))])
def test_separate_windows_are_a_product(layout: str, shape: str, out: int, kernel: tuple[int, int]) -> None:
    module = module_of(upsampling(out, kernel, kernel, layout=layout), shape)
    changed = check(module, PIPELINE, rtol=1e-5, atol=1e-5, n=2, h=5, w=7)
    assert "dot_general" in names(changed) and "conv_transpose" not in names(changed)
    check_program(changed, {"n": 1, "h": 1, "w": 1}, {"n": 2, "h": 5, "w": 19}, threads=(1, 2))


def test_separate_windows_of_a_weight_made_at_run_time() -> None:
    def build(b: Builder, x: Value, w: Value) -> Value:
        return b.emit(ConvTranspose(x, w, (2, 2), (0, 0), (0, 0), (1, 1), 1))

    changed = check(module_of(build, "n 6 h w", "6 5 2 2"), PIPELINE, rtol=1e-5, atol=1e-5, n=2, h=5, w=7)
    assert "conv_transpose" not in names(changed)
    check_program(changed, {"n": 1, "h": 1, "w": 1}, {"n": 2, "h": 5, "w": 19}, threads=(1, 2))


@pytest.mark.parametrize(
    "body",
    [
        upsampling(out=3),
        upsampling(kernel=(3, 3)),
        upsampling(strides=(3, 3)),
        upsampling(pad=1),
        upsampling(groups=2),
    ],
    ids=["many channels", "overlapping", "gaps", "padded", "groups"],
)
def test_other_transposed_convolutions_are_left(body: Callable[[Builder, Value], Value]) -> None:
    assert "conv_transpose" in names(check(module_of(body, "2 6 4 5"), PIPELINE))


def test_the_result_is_read_in_place_by_what_follows() -> None:
    """Channels last before, elementwise after: one interleaving kernel, no other transpose."""

    def build(b: Builder, x: Value) -> Value:
        return upsampling()(b, b.emit(Transpose(x, (0, 3, 1, 2))))

    assert names(check(module_of(build, "2 4 5 6"), PIPELINE, rtol=1e-5, atol=1e-5)).count("transpose") == 1
