"""How far two results are apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
"""Largest error allowed, relative to the largest magnitude in the expected output; other types must be equal."""
FLOAT8_TOLERANCE = 0.13
"""A step of the types with three bits of mantissa."""


@dataclass(frozen=True)
class Difference:
    """One output's worst errors.

    Attributes:
        absolute: largest |actual - expected|.
        relative: the same over `scale`.
        scale: largest finite magnitude expected (1 if all are zero).
        tolerance: largest `relative` that passes; 0 for types that must be equal.
        at: index of the worst element.
        problem: why there are no numbers (another shape or type, NaN on one side), else empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    scale: float
    tolerance: float
    at: tuple[int, ...]
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.relative <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def compare(name: str, actual: Array, expected: Array, rtol: float | None = None) -> Difference:
    """Compare an output. NaN equals NaN, an infinity equals itself; on one side only they are a `problem`."""
    dtype = str(expected.dtype)
    exact = dtype not in TOLERANCES and not dtype.startswith("float8")
    tolerance = 0.0 if exact else rtol if rtol is not None else TOLERANCES.get(dtype, FLOAT8_TOLERANCE)

    def result(absolute: float, scale: float, at: tuple[int, ...], problem: str = "") -> Difference:
        return Difference(name, dtype, expected.shape, absolute, absolute / scale, scale, tolerance, at, problem)

    if actual.shape != expected.shape:
        return result(np.inf, 1.0, (), f"shape is {list(actual.shape)}, expected {list(expected.shape)}")
    if actual.dtype != expected.dtype:
        return result(np.inf, 1.0, (), f"type is {actual.dtype}, expected {dtype}")
    with np.errstate(invalid="ignore"):
        differs = np.asarray(actual != expected)
    if not exact:
        differs &= ~(np.isnan(actual.astype(np.float64)) & np.isnan(expected.astype(np.float64)))
    if dtype == "object":  # strings
        at = _index(differs.argmax(), expected.shape) if differs.any() else ()
        return result(np.inf, 1.0, at, "text differs") if differs.any() else result(0.0, 1.0, at)
    e = expected.astype(np.float64)
    finite = np.isfinite(e)
    scale = float(np.abs(e[finite]).max(initial=0.0)) or 1.0
    if not differs.any():
        return result(0.0, scale, ())
    a = actual.astype(np.float64)
    unlike = differs & ~(finite & np.isfinite(a))
    if unlike.any():
        at = _index(unlike.argmax(), expected.shape)
        return result(np.inf, scale, at, f"got {a[at]}, expected {e[at]} at {list(at)}")
    error = np.zeros_like(e)
    np.subtract(a, e, out=error, where=differs)
    if exact:  # 64-bit integers may differ by less than a double can tell
        error[differs] = np.maximum(np.abs(error[differs]), 1.0)
    at = _index(np.abs(error).argmax(), expected.shape)
    return result(abs(float(error[at])), scale, at)


def compare_all(
    actual: Mapping[str, Array], expected: Mapping[str, Array], rtol: float | None = None
) -> list[Difference]:
    """Compare outputs by name, in the order of `expected`."""
    return [compare(name, np.asarray(actual[name]), np.asarray(array), rtol) for name, array in expected.items()]


def passed(differences: Iterable[Difference]) -> bool:
    return all(difference.passed for difference in differences)


def _index(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(flat), shape))
