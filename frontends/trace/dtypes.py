"""Element types of traced arrays, and how they mix: the array API standard's promotion, Python numbers weak.

https://data-apis.org/array-api/latest/API_specification/type_promotion.html. What the standard leaves open (an
integer array with a floating-point one, u64 with signed integers) is an error, so that no program widens by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ds_compiler.frontends.trace.errors import TraceError
from ds_compiler.frontends.trace.places import here
from ds_compiler.ir import DType
from ds_compiler.ir.dtypes import bf16, bool_, f16, f32, from_numpy, i8, i16, i32, i64, u8, u16, u32, u64

DEFAULT_FLOAT, DEFAULT_INTEGER = f32, i64

DTYPES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.bool_),
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

_SIGNED, _UNSIGNED = (i8, i16, i32, i64), (u8, u16, u32, u64)


def element_type(dtype: Any) -> DType:
    """The element type that the user means by a NumPy dtype, a name, or Python's bool, int or float.

    Raises:
        TraceError: there is none.
    """
    if dtype is bool:
        return bool_
    if dtype is int:
        return DEFAULT_INTEGER
    if dtype is float:
        return DEFAULT_FLOAT
    if isinstance(dtype, DType):
        return dtype
    try:
        found = from_numpy(DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype)
    except (ValueError, TypeError):
        found = None
    if found is None or found.kind == "s":
        raise TraceError(f"{dtype} is no element type of arrays", location=here(), help=f"known: {', '.join(DTYPES)}")
    return found


def weak_type(scalar: object, dtype: DType | None) -> DType:
    """The element type that a Python number takes beside arrays of type `dtype` (None: beside none).

    Raises:
        TraceError: the standard does not define the mix.
    """
    if isinstance(scalar, bool):
        fits, default = dtype is None or dtype.kind == "b", bool_
    elif isinstance(scalar, int):
        fits, default = dtype is None or dtype.kind in "iuf", DEFAULT_INTEGER
    else:
        fits, default = dtype is None or dtype.is_float, DEFAULT_FLOAT
    if not fits:
        assert dtype is not None
        raise TraceError(
            f"the Python {type(scalar).__name__} {scalar!r} does not mix with an array of {name_of(dtype)}",
            location=here(),
            help="convert the array with .astype() first",
        )
    return default if dtype is None else dtype


def promote(dtypes: Sequence[DType]) -> DType:
    """The element type in which arrays of `dtypes` meet.

    Raises:
        TraceError: the standard does not define the mix.
    """
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = _promote(result, dtype)
    return result


def _promote(a: DType, b: DType) -> DType:
    if a == b:
        return a
    if a.is_float and b.is_float:
        if {a, b} == {f16, bf16}:
            return f32
        return a if a.bits > b.bits else b
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    if {a.kind, b.kind} == {"i", "u"}:
        signed, unsigned = (a, b) if a.kind == "i" else (b, a)
        if unsigned.bits < signed.bits:
            return signed
        if unsigned.bits < 64:
            return next(t for t in _SIGNED if t.bits == 2 * unsigned.bits)
    raise TraceError(
        f"arrays of {name_of(a)} and {name_of(b)} do not mix",
        location=here(),
        help="convert one of them with .astype()",
    )


def name_of(dtype: DType) -> str:
    """As users write it (``float32``)."""
    return str(dtype.numpy.name)
