"""NonMaxSuppression and RoiAlign against onnxruntime: random boxes, open sizes, nothing to choose from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontends.onnx.opened import check, node_model, onnxruntime, results

Array = np.ndarray[Any, Any]


def _boxes(rng: np.random.Generator, batch: int, count: int, center: int) -> Array:
    low = rng.uniform(0, 8, (batch, count, 2))
    extent = rng.uniform(0.5, 4, (batch, count, 2))
    if center:
        return np.concatenate([low, extent], 2).astype(np.float32)
    corners = np.stack([low, low + extent], 2)
    flipped = rng.random((batch, count, 1, 2)) < 0.3  # either diagonal may be given
    return np.where(flipped, corners[:, :, ::-1], corners).reshape(batch, count, 4).astype(np.float32)


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize(
    ("batch", "classes", "count", "most", "overlap", "score"),
    [(1, 1, 40, 10, 0.3, 0.2), (2, 3, 25, 100, 0.5, None), (2, 2, 30, 4, 0.0, 0.9), (1, 2, 20, 5, 0.4, 2.0),
     (1, 1, 1, 3, 0.5, 0.0), (2, 1, 0, 3, 0.5, 0.0), (1, 2, 10, 0, 0.5, None)],
)  # fmt: skip
def test_boxes(
    batch: int, classes: int, count: int, most: int, overlap: float, score: float | None, center: int, open_sizes: bool
) -> None:
    rng = np.random.default_rng(count)
    inputs = [_boxes(rng, batch, count, center), rng.random((batch, classes, count)).astype(np.float32)]
    constants: dict[int, Any] = {2: np.asarray([most]), 3: np.asarray([overlap], np.float32)}
    if score is not None:
        constants[4] = np.asarray([score], np.float32)
    model = node_model(
        "NonMaxSuppression", inputs, constants=constants, open_sizes=open_sizes, center_point_box=center, opset=11
    )
    check(results(model, inputs), onnxruntime(model, inputs))


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions(mode: str, ratio: int, transform: str, open_sizes: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, 13, 9)).astype(np.float32)
    corner = rng.uniform(-3, 12, (7, 2))
    rois = np.concatenate([corner, corner + rng.uniform(0.1, 20, (7, 2))], 1).astype(np.float32)
    inputs = [x, rois, rng.integers(0, 2, 7)]
    model = node_model(
        "RoiAlign", inputs, open_sizes=open_sizes, opset=16, mode=mode, sampling_ratio=ratio, output_height=3,
        output_width=4, spatial_scale=0.5, coordinate_transformation_mode=transform,
    )  # fmt: skip
    check(results(model, inputs), onnxruntime(model, inputs))


def test_a_batch_index_out_of_range_is_an_error() -> None:
    inputs = [np.zeros((2, 1, 4, 4), np.float32), np.zeros((1, 4), np.float32), np.asarray([2])]
    with pytest.raises(Exception, match="RoiAlign: batch index"):
        results(node_model("RoiAlign", inputs, opset=16), inputs)
