"""Functions whose result's shape depends on data: computed outside of a trace, refused inside of one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ds_compiler.frontends.trace.array import TracedArray, read, wrap
from ds_compiler.frontends.trace.frame import located, tracing

Array = np.ndarray[Any, Any]

_INSTEAD = {
    "nonzero": "use ds.where(condition, x, other), or ds.numpy.argsort and a count, both of known size",
    "unique_all": "use ds.numpy.sort, and compare neighbours",
}


class UniqueAll(NamedTuple):
    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    values: Array
    inverse_indices: Array


def _known(name: str, x: Any) -> Array:
    """`x`, which must be known: NumPy's array (or number) while a function is traced too.

    Raises:
        TraceError: it is traced.
    """
    if isinstance(x, TracedArray):
        help = _INSTEAD.get(name, _INSTEAD["unique_all"])
        raise located(f"{name}: the shape of its result depends on the data of a traced array", help)
    return np.asarray(x)


def _given(*arrays: Array) -> tuple[Any, ...]:
    return tuple(wrap(read(np.ascontiguousarray(a))) for a in arrays) if tracing() else arrays


def nonzero(x: Any, /) -> tuple[Array, ...]:
    """Positions of the elements that are not 0, an array for each axis.

    Raises:
        TraceError: `x` is traced, or has no axes.
    """
    known = _known("nonzero", x)
    if not known.ndim:
        raise located("nonzero: the array has no axes")
    return _given(*np.nonzero(known))


def _unique(name: str, x: Any) -> tuple[Array, ...]:
    """Different elements (each NaN is one), where each is first, where each element went, how often each is."""
    known = _known(name, x)
    values, first, inverse, counts = np.unique(
        known, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    return _given(values, first, inverse.reshape(known.shape), counts)


def unique_all(x: Any, /) -> UniqueAll:
    """The different elements in order, where each is first, where each element of `x` went, and how often each is."""
    return UniqueAll(*_unique("unique_all", x))


def unique_counts(x: Any, /) -> UniqueCounts:
    """The different elements in order, and how often each is."""
    values, _, _, counts = _unique("unique_counts", x)
    return UniqueCounts(values, counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The different elements in order, and where each element of `x` went."""
    values, _, inverse, _ = _unique("unique_inverse", x)
    return UniqueInverse(values, inverse)


def unique_values(x: Any, /) -> Array:
    """The different elements, in order."""
    return _unique("unique_values", x)[0]


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
    """An array of another library, without a copy unless `copy` asks for one.

    Raises:
        TraceError: `x` is traced, or `device` is not the CPU.
    """
    if isinstance(x, TracedArray) or device not in (None, "cpu"):
        what = "a traced array has no memory" if isinstance(x, TracedArray) else f"there is no device {device!r}"
        raise located(f"from_dlpack: {what}", help="give it an array in memory, outside of the compiled function")
    found: Array = np.from_dlpack(x)
    return found.copy() if copy else found
