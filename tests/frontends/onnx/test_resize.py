"""Resize and Upsample: ONNX's own cases, and every combination of modes with symbolic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import check_sizes, single_node, with_constants

FRACTIONAL_LENGTH = (  # divide by size * scale - 1 where the text has the resized length, an integer, minus 1
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
)
PLANES = tuple({"n": 1 + h % 2, "h": h, "w": w} for h, w in [(1, 5), (4, 3), (6, 7), (9, 8)])
NOTHING = np.zeros(0, np.float32)


def scales(h: float, w: float) -> dict[int, Any]:
    return {2: np.array([1, 1, h, w], np.float32)}


def sizes(h: int, w: int) -> dict[int, Any]:
    return {2: NOTHING, 3: np.array([2, 3, h, w])}


@pytest.mark.parametrize("case", node_cases("Resize", "Upsample"))
@pytest.mark.parametrize("known", [True, False])
def test_node(case: NodeCase, known: bool) -> None:
    """Scales and sizes as constants, and as tensors that only running the program tells."""
    if case.name in FRACTIONAL_LENGTH:
        pytest.skip("computed against the operator's text; onnxruntime and PyTorch follow the text")
    if known:
        check_case(with_constants(case, "scales", "sizes", "roi"))
    elif "antialias" not in case.name:
        check_case(case)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("factors", [(2, 2), (0.6, 1.4), (3, 0.5)])
def test_interpolation(mode: str, coordinates: str, factors: tuple[float, float]) -> None:
    model = single_node(
        "Resize",
        [["n", 3, "h", "w"]],
        scales(*factors),
        opset=13,
        mode=mode,
        coordinate_transformation_mode=coordinates,
    )
    check_sizes(model, *PLANES[1:], atol=5e-5)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("factors", [(2, 3), (0.6, 1.4), (3, 0.5)])
def test_nearest(rounding: str, coordinates: str, factors: tuple[float, float]) -> None:
    model = single_node(
        "Resize",
        [["n", 3, "h", "w"]],
        scales(*factors),
        opset=13,
        mode="nearest",
        nearest_mode=rounding,
        coordinate_transformation_mode=coordinates,
    )
    check_sizes(model, *PLANES[1:])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (12, 4)])
@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "align_corners"])
def test_sizes(mode: str, size: tuple[int, int], coordinates: str) -> None:
    model = single_node(
        "Resize",
        [[2, 3, "h", "w"]],
        sizes(*size),
        opset=19,
        mode=mode,
        coordinate_transformation_mode=coordinates,
    )
    check_sizes(model, *PLANES, atol=5e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_static(mode: str) -> None:
    for factors in [(2, 2), (0.5, 0.5), (0.7, 1.3)]:
        model = single_node("Resize", [[1, 2, 6, 8]], scales(*factors), opset=13, mode=mode)
        check_sizes(model, {})


@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
def test_exclude_outside(coordinates: str) -> None:
    model = single_node(
        "Resize",
        [["n", 3, "h", "w"]],
        scales(1.5, 0.8),
        opset=13,
        mode="cubic",
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        coordinate_transformation_mode=coordinates,
    )
    check_sizes(model, *PLANES[1:], atol=5e-5)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_aspect_ratio(policy: str) -> None:
    model = single_node(
        "Resize",
        [[2, 3, "h", "w"]],
        {2: NOTHING, 3: np.array([7, 8])},
        opset=19,
        mode="linear",
        axes=[2, 3],
        keep_aspect_ratio_policy=policy,
    )
    check_sizes(model, *PLANES, atol=5e-5)


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(opset: int, mode: str) -> None:
    factors = [1.0, 1.0, 2.0, 3.0]
    given: dict[str, Any] = {"scales": factors} if opset == 7 else {}
    constants = {} if opset == 7 else {1: np.array(factors, np.float32)}
    model = single_node("Upsample", [["n", 3, "h", "w"]], constants, opset=opset, mode=mode, **given)
    check_sizes(model, *PLANES)


@pytest.mark.parametrize("factors", [(2, 2), (0.6, 1.4)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_opset_10(factors: tuple[float, float], mode: str) -> None:
    constants = {1: scales(*factors)[2]}
    check_sizes(single_node("Resize", [["n", 3, "h", "w"]], constants, opset=10, mode=mode), *PLANES[1:])


def test_integer_nearest_moves_no_element_by_index() -> None:
    module = import_model(single_node("Resize", [["n", 3, "h", "w"]], scales(2, 3), opset=13, mode="nearest"))
    assert [op.mnemonic for op in module.walk()] == ["broadcast", "reshape", "return"]
    assert str(module.main.result_types[0]) == "tensor<n x 3 x 2*h x 3*w x f32>"


def test_even_steps_are_a_slice() -> None:
    model = single_node("Resize", [[1, 3, 8, 9]], scales(0.5, 1), opset=13, coordinate_transformation_mode="asymmetric")
    assert [op.mnemonic for op in import_model(model).walk()] == ["slice", "return"]


def test_static_weights_are_constants() -> None:
    module = import_model(single_node("Resize", [[1, 3, 8, 9]], scales(2, 2), opset=13, mode="linear"))
    assert {op.mnemonic for op in module.walk()} <= {"constant", "gather", "broadcast", "add", "sub", "mul", "return"}


def test_antialias_needs_sizes() -> None:
    model = single_node("Resize", [[1, 3, "h", 9]], scales(0.5, 1), opset=18, mode="linear", antialias=1)
    with pytest.raises(CompileError, match="antialias with symbolic sizes"):
        import_model(model)
