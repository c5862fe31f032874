"""Element types in which NumPy computes what an operation means, when its own type is too narrow for that."""

from __future__ import annotations

from typing import Any

import numpy as np

from ds_compiler.ir.dtypes import from_numpy

Array = np.ndarray[Any, Any]


def wide(x: Array) -> Array:
    """Operands of an exact or at least more precise sum: floats as f64, integers and bool as i64 (u64 stays)."""
    dtype = from_numpy(x.dtype)
    if dtype.is_float:
        return x.astype(np.float64)
    return x if dtype.name in ("u64", "str") else x.astype(np.int64)


def native(x: Array) -> Array:
    """Operands that NumPy has functions for: floats of at least 32 bits, integers of at least 8."""
    dtype = from_numpy(x.dtype)
    if dtype.is_float and dtype.bits < 32:
        return x.astype(np.float32)
    return x.astype(np.int8 if dtype.kind == "i" else np.uint8) if dtype.bits < 8 else x
