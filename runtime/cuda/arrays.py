"""Arrays on the device: those that callers bring (PyTorch, CuPy, JAX, Numba), and those that programs return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.runtime.dtypes import dtype_of


@dataclass(frozen=True)
class Foreign:
    """Where somebody else's array lies on the device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    contiguous: bool


def foreign(array: Any) -> Foreign | None:
    """What `array` says of itself, if it lies on a device.

    PyTorch's tensors are asked in their own way: their ``__cuda_array_interface__`` does not know bfloat16.
    """
    if getattr(array, "is_cuda", False) and hasattr(array, "data_ptr"):
        name = str(array.dtype).removeprefix("torch.")
        return Foreign(array.data_ptr(), tuple(array.shape), dtype_of(name), bool(array.is_contiguous()))
    described = getattr(array, "__cuda_array_interface__", None)
    if described is None:
        return None
    shape, dtype = tuple(described["shape"]), np.dtype(described["typestr"])
    strides = described.get("strides")
    return Foreign(described["data"][0], shape, dtype, strides is None or tuple(strides) == _row_major(shape, dtype))


def _row_major(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    strides, step = [], dtype.itemsize
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


class DeviceArray:
    """A result on the device; its memory is reused once this object is gone.

    `numpy()` copies it to the host. Others read it in place through ``__cuda_array_interface__`` (version 3), which
    says on which stream it is being computed.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        stream: int,
        release: Callable[[int], None],
        fetch: Callable[[DeviceArray], np.ndarray[Any, Any]],
    ) -> None:
        self.address, self.shape, self.dtype, self.stream = address, shape, dtype, stream
        self._release, self._fetch = release, fetch

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind == "V":
            raise AttributeError(f"__cuda_array_interface__ has no name for {self.dtype}")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": self.stream or 1,
            "version": 3,
        }

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return self._fetch(self)

    def __del__(self) -> None:
        self._release(self.address)
