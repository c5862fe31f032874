"""The filter of an antialiased Resize: every input position under the widened kernel counts."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def antialias_matrix(position: Array, size: int, scale: float, cubic_a: float | None, exclude_outside: bool) -> Array:
    """Weights ``[output, input]`` that shrink an axis of `size` elements to those at `position`; rows sum to 1.

    Args:
        scale: below 1; the kernel is 1 / scale times as wide as without antialiasing.
        cubic_a: coefficient of the cubic kernel, None for the linear one.
        exclude_outside: elements outside do not count (otherwise the border is repeated there).
    """
    reach = (1 if cubic_a is None else 2) / scale
    first = np.floor(position - reach).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)
    distance = np.abs(taps - position[:, None].astype(np.float64)) * scale
    weights = np.maximum(1 - distance, 0) if cubic_a is None else _keys(distance, cubic_a)
    if exclude_outside:
        weights = np.where((taps >= 0) & (taps < size), weights, 0)
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((len(position), size))
    np.add.at(matrix, (np.arange(len(position))[:, None], np.clip(taps, 0, size - 1)), weights)
    return matrix


def _keys(d: Array, a: float) -> Array:
    """Keys's cubic kernel at distances `d`."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
