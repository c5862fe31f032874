"""Arrays on the device: `DeviceArray`, which programs return, and how arrays of others are read in place.

Others are PyTorch's tensors, and whatever has ``__cuda_array_interface__`` (CuPy, Numba) or ``__dlpack__`` (JAX). Both
protocols say how streams are put in order, so that nobody waits on the host.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.runtime.cuda import dlpack
from ds_compiler.runtime.cuda.device import Block, Device
from ds_compiler.runtime.dtypes import dtype_of
from ds_compiler.runtime.errors import ExecutionError, InputError

Array = np.ndarray[Any, Any]

_LEGACY = 1  # how both protocols write the default stream, which is 0 to the driver


class DeviceArray:
    """An array on the device, perhaps still being computed: an immutable value to NumPy's side, which copies it.

    `numpy()`, ``np.asarray(x)`` and ``float(x)`` copy it to the host and wait for that. PyTorch, CuPy, JAX and others
    read it in place (``torch.from_dlpack(x)``). Its memory is used again once nobody refers to it. After it was donated
    to a compiled function, it cannot be read any more.
    """

    __slots__ = ("_address", "device", "dtype", "owner", "shape", "stream")
    __array_priority__ = 900

    def __init__(
        self, device: Device, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int, owner: Any
    ) -> None:
        self.device, self._address, self.shape, self.dtype = device, address, shape, dtype
        self.stream, self.owner = stream, owner

    @property
    def address(self) -> int:
        """Where it lies.

        Raises:
            ExecutionError: it was donated.
        """
        if self.owner is None:
            raise ExecutionError(f"{self!r} was donated to a compiled function: use what that returned")
        return self._address

    def give_up(self) -> Any:
        """The owner of its memory, which this array has no longer."""
        owner, self.owner = self.owner, None
        return owner

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.dtype.itemsize

    # -- to the host ---------------------------------------------------------------------------
    def numpy(self) -> Array:
        """A copy on the host."""
        result = np.empty(self.shape, self.dtype)
        driver, address = self.device.driver, self.address
        with self.device.lock:
            driver.enter()
            driver.download(result.ctypes.data, address, result.nbytes, self.stream)
            driver.synchronize(self.stream)
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array on the device cannot be read without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def item(self) -> Any:
        """The only element as a Python number."""
        return self.numpy().item()

    def wait(self) -> DeviceArray:
        """Return when it is computed."""
        with self.device.lock:
            self.device.driver.enter()
            self.device.driver.synchronize(self.stream)
        return self

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self.numpy().__index__()

    def __bool__(self) -> bool:
        return bool(self.numpy())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __repr__(self) -> str:
        state = ", donated" if self.owner is None else ""
        return f"DeviceArray({self.dtype}{list(self.shape)} on cuda:{self.device.driver.number}{state})"

    # -- to others on the device -----------------------------------------------------------------
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind == "V":
            raise AttributeError(f"__cuda_array_interface__ has no name for {self.dtype}; use DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.size else 0, False),
            "strides": None,
            "stream": self.stream or _LEGACY,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device.driver.number

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for ``from_dlpack``, to be read on `stream`: 1 or None is the default stream, -1 orders nothing.

        Raises:
            BufferError: DLPack has no such element type, or `dl_device` is another GPU.
        """
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            if dl_device[0] != 1 or copy is False:
                raise BufferError(f"the array is on CUDA device {self.device.driver.number}, not on {dl_device}")
            return self.numpy().__dlpack__(max_version=max_version)  # type: ignore[call-arg,unused-ignore]
        if stream == 0:
            raise ValueError("DLPack knows no CUDA stream 0: the default stream is 1, that of each thread 2")
        source = self.copy() if copy else self
        address = source.address
        if stream != -1:
            with self.device.lock:
                self.device.driver.enter()
                source.read_on(stream or _LEGACY)
        versioned = max_version is not None and max_version[0] >= 1
        number = self.device.driver.number
        return dlpack.export_capsule(address, self.shape, self.dtype, number, source.owner, versioned=versioned)

    def read_on(self, stream: int) -> None:
        """Let `stream` wait until the array is computed, and whoever gets its memory wait for the stream."""
        self.device.driver.order(self.stream, stream)
        if isinstance(self.owner, Block) and stream != self.stream:
            self.owner.readers.add(stream)

    def copy(self) -> DeviceArray:
        """A copy on the device."""
        with self.device.lock:
            self.device.driver.enter()
            block = self.device.take(self.nbytes, self.stream)
            self.device.driver.copy(block.address, self.address, self.nbytes, self.stream)
        return DeviceArray(self.device, block.address, self.shape, self.dtype, self.stream, block)


def put(device: Device, array: Any) -> DeviceArray:
    """A copy of a host array on the device.

    Raises:
        OutOfMemory: there is no room.
    """
    data = np.asarray(array, order="C")
    with device.lock:
        device.driver.enter()
        block = device.take(data.nbytes, device.stream)
        device.driver.upload(block.address, data.ctypes.data, data.nbytes, device.stream)
    return DeviceArray(device, block.address, data.shape, data.dtype, device.stream, block)


# -- arrays of others ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Borrowed:
    """Where somebody else's array lies, ready to be read on the stream that it was borrowed for.

    Attributes:
        owner: what keeps the memory alive.
        writer: a stream of the producer that must wait for us before the memory changes; None if nobody asks for that.
        writable: the memory may be written to, if the array is donated.
    """

    address: int
    contiguous: bool
    owner: Any
    writer: int | None = None
    writable: bool = True


def on_device(array: Any) -> bool:
    """Whether `array` lies on a CUDA device."""
    if type(array) is DeviceArray:
        return True
    if isinstance(array, np.ndarray | np.generic | int | float):
        return False
    if _is_torch(array) or getattr(array, "__cuda_array_interface__", None) is not None:
        return True
    return hasattr(array, "__dlpack__") and _dlpack_device(array)[0] == dlpack.CUDA


def described(array: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Element type and shape of an array that is `on_device`.

    Raises:
        InputError: the element type has no name here.
    """
    if isinstance(array, DeviceArray):
        return array.dtype, array.shape
    dtype: Any = getattr(array, "dtype", None)
    if dtype is None or not hasattr(array, "shape"):
        interface = array.__cuda_array_interface__
        return np.dtype(interface["typestr"]), tuple(interface["shape"])
    return dtype if isinstance(dtype, np.dtype) else _named(dtype), tuple(map(int, array.shape))


def _named(dtype: Any) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = np.dtype(dtype)
        return found
    except TypeError:
        return dtype_of(str(dtype).rpartition(".")[2])


def stream_for(arrays: Sequence[Any], device: Device) -> int:
    """The stream to work on: PyTorch's current one if there are tensors of it, else the device's own."""
    tensor = next((a for a in arrays if _is_torch(a)), None)
    return device.stream if tensor is None else _torch_stream(tensor)


def borrow(array: Any, device: Device, stream: int) -> Borrowed:
    """Read an array in place on `stream`, which waits for what computes it.

    Raises:
        InputError: it is on another device, or in a form that has no addresses.
    """
    if isinstance(array, DeviceArray):
        _same_device(array.device.driver.number, device)
        address = array.address
        if array.stream != stream:
            array.read_on(stream)
        return Borrowed(address, True, array.owner)
    if _is_torch(array):
        _same_device(array.device.index or 0, device)
        current = _torch_stream(array)
        device.driver.order(current, stream)
        return Borrowed(array.data_ptr(), bool(array.is_contiguous()), array, current if current != stream else None)
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return _through_interface(array, interface, device, stream)
    _same_device(_dlpack_device(array)[1], device)
    found = dlpack.import_capsule(array.__dlpack__(stream=stream or _LEGACY))
    whole = found.strides is None or _is_row_major(found.shape, found.strides, found.dtype.itemsize)
    return Borrowed(found.address, whole, found, writable=not found.read_only)


def _through_interface(array: Any, interface: dict[str, Any], device: Device, stream: int) -> Borrowed:
    if interface.get("mask") is not None:
        raise InputError("an array with a mask (__cuda_array_interface__) cannot be an input")
    producer = interface.get("stream")
    if producer == 0:
        raise InputError("__cuda_array_interface__ names stream 0, which may mean two streams: it must be 1 or 2")
    if producer is not None:
        device.driver.order(producer, stream)
    address, read_only = interface["data"]
    strides, itemsize = interface.get("strides"), np.dtype(interface["typestr"]).itemsize
    whole = strides is None or _is_row_major(tuple(interface["shape"]), tuple(strides), itemsize)
    return Borrowed(address or 0, whole, array, producer if producer != stream else None, writable=not read_only)


def _is_torch(array: Any) -> bool:
    return bool(getattr(array, "is_cuda", False)) and hasattr(array, "data_ptr")


def _torch_stream(tensor: Any) -> int:
    return int(sys.modules["torch"].cuda.current_stream(tensor.device).cuda_stream)


def _dlpack_device(array: Any) -> tuple[int, int]:
    kind, number = array.__dlpack_device__()
    return int(kind), int(number)


def _same_device(number: int, device: Device) -> None:
    if number != device.driver.number:
        raise InputError(f"an array is on GPU {number}, the program runs on GPU {device.driver.number}")


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    """Whether elements lie one after the other; the stride of an axis of one element says nothing."""
    if 0 in shape:
        return True
    step = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True
