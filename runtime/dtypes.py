"""Element types by name: NumPy's, and ml_dtypes' for bfloat16 and the 8- and 4-bit types."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from ds_compiler.runtime.errors import LoadError

_SHORT: Final = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint64": "u64",
    "uint32": "u32",
    "uint16": "u16",
    "uint8": "u8",
}
_NUMPY: Final = frozenset({*_SHORT, "bool", "complex64", "complex128"} - {"bfloat16"})
_ML_DTYPES: Final = frozenset(
    {
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "int4",
        "uint4",
    }
    | {"float4_e2m1fn", "int2", "uint2"}
)


@functools.cache
def dtype_of(name: str) -> np.dtype[np.generic]:
    """The NumPy dtype called `name` (``float32``, ``bfloat16`` …).

    Raises:
        LoadError: there is none.
    """
    if name in _NUMPY:
        return np.dtype(name)
    if name in _ML_DTYPES:
        import ml_dtypes

        if hasattr(ml_dtypes, name):
            dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
            return dtype
    raise LoadError(f"unknown element type {name!r}")


def short_name(name: str) -> str:
    """How an element type is written in types and messages: ``f32`` for ``float32``."""
    return _SHORT.get(name, name)
