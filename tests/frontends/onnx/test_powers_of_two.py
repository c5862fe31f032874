"""Casts to float8e8m0 in all rounding modes, against the operator's text written out in NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from ds_compiler import onnx_backend

Array = np.ndarray[Any, Any]

NUMBERS = [0.0, 0.124, 0.25, 0.374, 0.375, 0.376, 1, 1.1, 1.5, 2, 3, 5.9, 6, 65504, -1, np.inf, np.nan]
EXTREMES = [1e-45, 2.0**-128, 2.0**-127, 1.25 * 2.0**-127, 2.0**-126, 2.0**127, 1.25 * 2.0**127, 1.75 * 2.0**127]


def _code(x: float, mode: str, saturate: bool) -> int:
    if np.isnan(x) or x < 0:
        return 255
    with np.errstate(divide="ignore"):
        exponent = np.log2(x)
    if mode == "nearest" and np.isfinite(exponent):
        below = np.floor(exponent)
        exponent = below + (x >= 1.5 * 2.0**below)
    exponent = np.floor(exponent) if mode == "down" else np.ceil(exponent)
    if saturate:
        return int(np.clip(exponent, -127, 127)) + 127
    return int(exponent) + 127 if -127 <= exponent <= 127 else 255


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_casts(dtype: Any, mode: str, saturate: bool) -> None:
    numbers = NUMBERS if dtype == np.float16 else NUMBERS + EXTREMES
    x = np.array(numbers, dtype)
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0, round_mode=mode, saturate=int(saturate))
    (y,) = onnx_backend.run_node(node, [x], opset_version=24, cache=False, threads=1)
    assert y.dtype == ml_dtypes.float8_e8m0fnu
    np.testing.assert_array_equal(y.view(np.uint8), [_code(float(v), mode, saturate) for v in x])
