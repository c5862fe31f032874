"""Col2Im, DeformConv, Det and TensorScatter against other implementations, with known and open sizes."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import CompileError
from tests.frontends.onnx.opened import check, node_model, onnxruntime, reference, results


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize(
    ("image", "window", "strides", "dilations", "pads"),
    [((6, 7), (2, 3), (1, 1), (1, 1), (0, 0, 0, 0)), ((8, 9), (3, 2), (2, 3), (1, 2), (1, 0, 2, 1)),
     ((5,), (2,), (2,), (1,), (1, 0)), ((4, 5, 3), (2, 2, 1), (1, 2, 1), (1, 1, 1), (0, 1, 0, 1, 0, 0))],
)  # fmt: skip
def test_col2im(
    image: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    open_sizes: bool,
) -> None:
    rank = len(image)
    counts = [
        (image[a] + pads[a] + pads[a + rank] - (window[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a in range(rank)
    ]
    x = np.random.default_rng(3).standard_normal((2, 3 * int(np.prod(window)), int(np.prod(counts))))
    inputs = [x.astype(np.float32)]
    constants = {1: np.asarray(image), 2: np.asarray(window)}
    model = node_model(
        "Col2Im", inputs, constants=constants, open_sizes=open_sizes, strides=strides, dilations=dilations, pads=pads
    )
    check(results(model, inputs), onnxruntime(model, inputs))


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize(("group", "shared", "masked"), [(1, 1, False), (2, 1, True), (1, 2, True), (2, 4, False)])
@pytest.mark.parametrize(("stride", "dilation", "pad"), [(1, 1, 0), (2, 1, 1), (1, 2, 2)])
def test_deform_conv(
    group: int, shared: int, masked: bool, stride: int, dilation: int, pad: int, open_sizes: bool
) -> None:
    rng = np.random.default_rng(4)
    x, weight = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((6, 4 // group, 3, 2))
    out = [(size + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for size, k in ((9, 3), (8, 2))]
    offset = rng.uniform(-3, 3, (2, shared * 6 * 2, *out))
    bias, mask = rng.standard_normal(6), rng.random((2, shared * 6, *out))
    inputs = [a.astype(np.float32) for a in (x, weight, offset, bias, *([mask] if masked else []))]
    model = node_model(
        "DeformConv", [inputs[0], None, *inputs[2:]], constants={1: inputs[1]}, open_sizes=open_sizes, group=group,
        offset_group=shared, strides=[stride] * 2, dilations=[dilation] * 2, pads=[pad] * 4, kernel_shape=[3, 2],
    )  # fmt: skip
    given = [inputs[0], None, *inputs[2:]]
    check(results(model, given), onnxruntime(model, given), 1e-4, 2e-5)


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 5), (3, 4, 4), (2, 3, 3, 3), (0, 3, 3), (2, 17, 17)])
def test_det(shape: tuple[int, ...], open_sizes: bool) -> None:
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    model = node_model("Det", [x], open_sizes=open_sizes)
    check(results(model, [x]), [np.linalg.det(x.astype(np.float64)).astype(np.float32)], 1e-4, 1e-4)


def test_det_of_singular_matrices_and_others_that_are_no_square() -> None:
    x = np.asarray([[[0, 0], [0, 1]], [[0, 2], [3, 0]], [[1, 2], [2, 4]]], np.float32)
    np.testing.assert_array_equal(results(node_model("Det", [x]), [x])[0], [0, -6, 0])
    with pytest.raises(CompileError, match="Det: takes square matrices"):
        results(node_model("Det", [x[:, :1]]), [x[:, :1]])


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str, open_sizes: bool) -> None:
    rng = np.random.default_rng(6)
    cache, update = (rng.standard_normal((3, 2, size, 4)).astype(np.float32) for size in (7, 3))
    first = np.asarray([0, 4, 2] if mode == "linear" else [0, 6, 5])
    inputs = [cache, update, first]
    model = node_model("TensorScatter", inputs, open_sizes=open_sizes, opset=24, mode=mode)
    check(results(model, inputs), reference(model, inputs), 0, 0)
