"""Unique against NumPy: element types, axes, ties, NaN, nothing at all, open sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontends.onnx.opened import node_model, results


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("sorted_", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_, np.float16])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((30,), None), ((4, 5), None), ((12, 2), 0), ((2, 12), 1), ((2, 9, 2), -2), ((1,), 0), ((0,), None)],
)
def test_as_numpy(shape: tuple[int, ...], axis: int | None, dtype: Any, sorted_: int, open_sizes: bool) -> None:
    x = np.random.default_rng(2).integers(0, 3, shape).astype(dtype)
    options = {} if axis is None else {"axis": axis}
    model = node_model("Unique", [x], outputs=4, sorted=sorted_, open_sizes=open_sizes, **options)
    values, first, inverse, counts = results(model, [x])
    wanted, at, back, number = np.unique(x, True, True, True, axis=axis)
    back = back.reshape(-1)
    if not sorted_:
        order = np.argsort(at, kind="stable")
        wanted, at, number = np.take(wanted, order, axis or 0), at[order], number[order]
        back = np.argsort(order)[back] if len(order) else back
    assert values.dtype == dtype
    for found, expected in ((values, wanted), (first, at), (inverse, back), (counts, number)):
        np.testing.assert_array_equal(found, expected)


def test_all_nan_are_one_value() -> None:
    x = np.array([np.nan, 1, np.nan, 0, 1], np.float32)
    values, first, inverse, counts = results(node_model("Unique", [x], outputs=4), [x])
    np.testing.assert_array_equal(values, np.array([0, 1, np.nan], np.float32))
    np.testing.assert_array_equal(first, [3, 1, 0])
    np.testing.assert_array_equal(inverse, [2, 1, 2, 0, 1])
    np.testing.assert_array_equal(counts, [1, 2, 2])
