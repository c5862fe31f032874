"""Element types: NumPy's, and the narrow ones of ml_dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    Attributes:
        name: how IR text writes it (``f32``).
        kind: ``f`` float, ``i`` signed, ``u`` unsigned, ``b`` bool, ``s`` string.
        bits: width of the value in bits; `itemsize` is its width in memory, in bytes.
    """

    name: str
    kind: str
    bits: int
    numpy: np.dtype[Any]

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __reduce__(self) -> tuple[object, ...]:
        return (dtype, (self.name,))

    @property
    def itemsize(self) -> int:
        return int(self.numpy.itemsize)

    @property
    def limits(self) -> tuple[int | float, int | float]:
        """Smallest and largest finite number of a numeric type."""
        known: Any = ml_dtypes
        found = known.finfo(self.numpy) if self.is_float else known.iinfo(self.numpy)
        convert = float if self.is_float else int
        return convert(found.min), convert(found.max)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"


def _make(name: str, kind: str, bits: int, numpy: Any) -> DType:
    return DType(name, kind, bits, np.dtype(numpy))


f64 = _make("f64", "f", 64, np.float64)
f32 = _make("f32", "f", 32, np.float32)
f16 = _make("f16", "f", 16, np.float16)
bf16 = _make("bf16", "f", 16, ml_dtypes.bfloat16)
i64 = _make("i64", "i", 64, np.int64)
i32 = _make("i32", "i", 32, np.int32)
i16 = _make("i16", "i", 16, np.int16)
i8 = _make("i8", "i", 8, np.int8)
u64 = _make("u64", "u", 64, np.uint64)
u32 = _make("u32", "u", 32, np.uint32)
u16 = _make("u16", "u", 16, np.uint16)
u8 = _make("u8", "u", 8, np.uint8)
bool_ = _make("bool", "b", 8, np.bool_)

_ALL: dict[str, DType] = {
    t.name: t
    for t in (
        f64,
        f32,
        f16,
        bf16,
        _make("f8e4m3fn", "f", 8, ml_dtypes.float8_e4m3fn),
        _make("f8e4m3fnuz", "f", 8, ml_dtypes.float8_e4m3fnuz),
        _make("f8e5m2", "f", 8, ml_dtypes.float8_e5m2),
        _make("f8e5m2fnuz", "f", 8, ml_dtypes.float8_e5m2fnuz),
        _make("f8e8m0fnu", "f", 8, ml_dtypes.float8_e8m0fnu),
        _make("f4e2m1fn", "f", 4, ml_dtypes.float4_e2m1fn),
        i64,
        i32,
        i16,
        i8,
        _make("i4", "i", 4, ml_dtypes.int4),
        _make("i2", "i", 2, ml_dtypes.int2),
        u64,
        u32,
        u16,
        u8,
        _make("u4", "u", 4, ml_dtypes.uint4),
        _make("u2", "u", 2, ml_dtypes.uint2),
        bool_,
        _make("str", "s", 64, np.object_),
    )
}
_BY_NUMPY = {t.numpy: t for t in _ALL.values()}


def dtype(name: str) -> DType:
    """The element type that IR text calls `name`.

    Raises:
        ValueError: there is none.
    """
    try:
        return _ALL[name]
    except KeyError:
        raise ValueError(f"unknown element type '{name}'; known: {', '.join(_ALL)}") from None


def from_numpy(numpy: Any) -> DType:
    """The element type of NumPy dtype `numpy`.

    Raises:
        ValueError: NumPy's type has no counterpart (complex, datetime …).
    """
    found = np.dtype(numpy)
    if found.kind in "US":
        return _ALL["str"]
    try:
        return _BY_NUMPY[found]
    except KeyError:
        raise ValueError(f"no element type for NumPy's '{found}'") from None


def names() -> tuple[str, ...]:
    """What IR text calls the element types."""
    return tuple(_ALL)
