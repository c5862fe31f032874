"""Convolutions: ONNX's own cases, and padding that depends on symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.opened import node_model, results
from tests.frontends.onnx.symbolic import check_sizes, single_node

PLANES = tuple({"n": 1 + h % 2, "h": h, "w": w} for h, w in [(7, 8), (8, 9), (9, 10), (12, 7)])


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", node_cases("Conv", "ConvTranspose"))
def test_node(case: NodeCase) -> None:
    check_case(case)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [3, 2], [5, 4]])
def test_auto_pad(auto_pad: str, strides: list[int]) -> None:
    model = single_node(
        "Conv", [["n", 4, "h", "w"]], {1: weight(6, 4, 3, 2), 2: weight(6)}, auto_pad=auto_pad, strides=strides
    )
    check_sizes(model, *PLANES)


@pytest.mark.parametrize(
    "attributes",
    [
        {"group": 2, "pads": [1, 0, 2, 1]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1], "strides": [2, 1]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    ],
)
def test_explicit(attributes: dict[str, object]) -> None:
    channels = 4 // int(str(attributes.get("group", 1)))
    check_sizes(single_node("Conv", [["n", 4, "h", "w"]], {1: weight(6, channels, 3, 3)}, **attributes), *PLANES)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER"])
def test_other_ranks(rank: int, auto_pad: str) -> None:
    shape = ["n", 4, "h", "w", 5][: rank + 2]
    kernel = [3] * rank
    model = single_node("Conv", [shape], {1: weight(6, 4, *kernel)}, auto_pad=auto_pad, strides=[2] * rank)
    check_sizes(model, *PLANES)


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [3, 2], "output_padding": [2, 1]},  # elements beyond the last tap: bias alone
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [1, 1], "auto_pad": "VALID", "dilations": [2, 1]},
        {"group": 2, "strides": [2, 1]},
    ],
)
def test_transpose(attributes: dict[str, object]) -> None:
    w = weight(4, 3, 3, 3)
    bias = weight(3 * int(str(attributes.get("group", 1))))
    check_sizes(single_node("ConvTranspose", [["n", 4, "h", "w"]], {1: w, 2: bias}, **attributes), *PLANES)


def test_output_shape() -> None:
    model = single_node(
        "ConvTranspose", [["n", 4, 6, 5]], {1: weight(4, 3, 3, 3)}, strides=[3, 2], output_shape=[17, 10]
    )
    check_sizes(model, {"n": 2})


def test_channels_must_fit() -> None:
    with pytest.raises(CompileError, match=r"weight has 3 input channels .* input has 4"):
        import_model(single_node("Conv", [["n", 4, "h", "w"]], {1: weight(6, 3, 3, 3)}))


def test_pads_must_fit() -> None:
    with pytest.raises(CompileError, match="4 entries"):
        import_model(single_node("Conv", [["n", 4, "h", "w"]], {1: weight(6, 4, 3, 3)}, pads=[1, 1]))


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm"])
def test_float16_is_rounded_once_after_the_bias(operator: str) -> None:
    """Sums of products that cancel against the bias keep the digits that a sum rounded before it would lose."""
    rng = np.random.default_rng(2)
    shape = ((8, 64), (64, 16)) if operator == "Gemm" else ((2, 16, 5, 5), (16, 16, 1, 1))
    x, w = (rng.uniform(1, 2, s).astype(np.float16) for s in shape)
    bias = np.full(16, -2.25 * shape[1][0 if operator == "Gemm" else 1], np.float16)
    given = [a.astype(np.float64) for a in (x, w, bias)]
    if operator == "Gemm":
        exact = given[0] @ given[1] + given[2]
    else:
        exact = np.einsum("nchw,oc->nohw" if operator == "Conv" else "nchw,co->nohw", given[0], given[1][..., 0, 0])
        exact += given[2][:, None, None]
    found = results(node_model(operator, [x], constants={1: w, 2: bias}), [x])[0]
    assert found.dtype == np.float16
    steps = np.abs(found - exact) / np.spacing(np.maximum(np.abs(exact), 2**-3).astype(np.float16)).astype(np.float64)
    assert steps.max() <= 0.51
