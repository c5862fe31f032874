"""DLPack for memory on a CUDA device: capsules of others read, and capsules made, in the old form and that of 1.0.

A capsule is handed over once: who reads it renames it, and from then on calls the deleter in it. The structures are
those of ``dlpack.h`` (https://dmlc.github.io/dlpack/latest/c_api.html), the protocol that of the array API standard.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ds_compiler.runtime.dtypes import dtype_of
from ds_compiler.runtime.errors import InputError

#: ``kDLCUDA``
CUDA: Final = 2
_VERSION: Final = (1, 0)
_OLD, _NEW = b"dltensor", b"dltensor_versioned"
_READ_ONLY: Final = 1  # DLPACK_FLAG_BITMASK_READ_ONLY

_KINDS: Final = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_BFLOAT: Final = 4
_NAMES: Final = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex"}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.pythonapi
_new = _api.PyCapsule_New
_new.argtypes, _new.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object
_pointer = _api.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
_is_valid = _api.PyCapsule_IsValid
_is_valid.argtypes, _is_valid.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
_set_name = _api.PyCapsule_SetName
_set_name.argtypes, _set_name.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_int
# In a destructor the capsule's references are counted down already: no Python object may be made of it.
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_dying_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))

#: What exported structures refer to, by the number that they carry as their manager.
_exported: dict[int, tuple[Any, ...]] = {}
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Imported:
    """What a capsule holds; the memory is the producer's until `Imported` is gone.

    Attributes:
        strides: in bytes; None if the elements lie one after the other.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...] | None
    device: tuple[int, int]
    keeper: _Keeper
    read_only: bool


class _Keeper:
    """Calls the deleter when it goes."""

    def __init__(self, address: int, deleter: int | None) -> None:
        self._address, self._deleter = address, deleter

    def __del__(self) -> None:
        if self._deleter:
            _Deleter(self._deleter)(self._address)


def import_capsule(capsule: Any) -> Imported:
    """Take over a capsule.

    Raises:
        InputError: it is used already, or of another version, or its elements have no name here.
    """
    if _is_valid(capsule, _NEW):
        address = int(_pointer(capsule, _NEW))
        managed = _Versioned.from_address(address)
        if managed.major != _VERSION[0]:
            raise InputError(f"DLPack {managed.major}.{managed.minor} is not supported, only {_VERSION[0]}.x")
        used, read_only = b"used_dltensor_versioned", bool(managed.flags & _READ_ONLY)
        tensor, deleter = managed.tensor, managed.deleter
    elif _is_valid(capsule, _OLD):
        address = int(_pointer(capsule, _OLD))
        old = _Managed.from_address(address)
        used, read_only, tensor, deleter = b"used_dltensor", False, old.tensor, old.deleter
    else:
        raise InputError("not a DLPack capsule, or one that was read before")
    shape = tuple(tensor.shape[n] for n in range(tensor.ndim))
    dtype = _dtype(tensor)
    strides = tuple(dtype.itemsize * tensor.strides[n] for n in range(tensor.ndim)) if tensor.strides else None
    _set_name(capsule, used)
    return Imported(
        int(tensor.data or 0) + tensor.byte_offset,
        shape,
        dtype,
        strides,
        (tensor.device_type, tensor.device_id),
        _Keeper(address, deleter),
        read_only,
    )


def _dtype(tensor: _Tensor) -> np.dtype[Any]:
    name = _NAMES.get(tensor.code)
    if tensor.code == _KINDS["b"] and tensor.bits == 8:
        return np.dtype(np.bool_)
    if name is None or tensor.lanes != 1 or tensor.bits < 8:
        raise InputError(
            f"DLPack elements of code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes have no type"
        )
    return dtype_of(f"{name}{tensor.bits}")


def export_capsule(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: int, owner: Any, *, versioned: bool
) -> Any:
    """A capsule of row-major memory on a CUDA device, which keeps `owner` alive.

    Raises:
        BufferError: DLPack has no such element type.
    """
    if dtype.name == "bfloat16":
        code = _BFLOAT
    elif dtype.kind in _KINDS:
        code = _KINDS[dtype.kind]
    else:
        raise BufferError(f"DLPack has no element type {dtype.name}")
    rank = len(shape)
    strides = [1] * rank
    for axis in range(rank - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    sizes = (ctypes.c_int64 * (2 * rank))(*shape, *strides)
    pointer = ctypes.POINTER(ctypes.c_int64)
    start = ctypes.addressof(sizes)
    tensor = _Tensor(
        address, CUDA, device, rank, code, 8 * dtype.itemsize, 1,
        ctypes.cast(start, pointer), ctypes.cast(start + 8 * rank, pointer), 0,
    )  # fmt: skip
    number = next(_numbers)
    managed: _Managed | _Versioned
    if versioned:
        deleter = ctypes.cast(_DELETE_NEW, ctypes.c_void_p)
        managed = _Versioned(*_VERSION, number, deleter, 0, tensor)
    else:
        managed = _Managed(tensor, number, ctypes.cast(_DELETE_OLD, ctypes.c_void_p))
    _exported[number] = (managed, sizes, owner)
    destructor = ctypes.cast(_DESTROY, ctypes.c_void_p)
    return _new(ctypes.addressof(managed), _NEW if versioned else _OLD, destructor)


def _delete_new(address: int) -> None:
    _exported.pop(_Versioned.from_address(address).manager, None)


def _delete_old(address: int) -> None:
    _exported.pop(_Managed.from_address(address).manager, None)


def _destroy(capsule: int) -> None:
    """A capsule that nobody has read."""
    for name, structure in ((_NEW, _Versioned), (_OLD, _Managed)):
        if _dying_is_valid(capsule, name):
            address = _dying_pointer(capsule, name)
            assert address is not None
            _exported.pop(structure.from_address(address).manager, None)


_DELETE_NEW, _DELETE_OLD, _DESTROY = _Deleter(_delete_new), _Deleter(_delete_old), _Destructor(_destroy)
