"""The constant block: every tensor known at compile time, each once, packed for its kernel where that asks for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.ops import Constant
from ds_compiler.runtime import manifest
from ds_compiler.runtime.abi import ALIGNMENT
from ds_compiler.runtime.memory import ConstantBlock

Array = np.ndarray[Any, Any]

_SAMPLE = 4096
_BLOCK = 256


@dataclass(frozen=True)
class Packing:
    """Repacking of a constant operand; equal names on one constant give equal data."""

    name: str
    function: Callable[[Array], Array]

    def __call__(self, value: Array) -> Array:
        return self.function(value)


@dataclass
class _Entry:
    """One stored tensor; `data` is released once it has been copied into the block."""

    name: str
    data: Array
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class ConstantPool:
    """Collects constants while the program is emitted; `offset` says where each will lie."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._by_identity: dict[tuple[int, str], int] = {}
        self._by_sample: dict[tuple[object, ...], list[int]] = {}
        self._packed: dict[tuple[int, str, tuple[int, ...]], int] = {}
        self._canonical: dict[tuple[object, ...], list[Array]] = {}
        self._names: dict[str, int] = {}
        self._kept: list[Array] = []
        self.size = 0

    def offset(self, constant: Constant, packing: Packing | None = None) -> int:
        """Offset in bytes of the constant, packed or as it is; stored on first request."""
        name = packing.name if packing else ""
        identity = (id(constant.value), name)
        found = self._by_identity.get(identity)
        if found is None:
            self._kept.append(constant.value)  # its id stays taken
            found = self._by_identity[identity] = self._store(constant, packing)
        return self._entries[found].offset

    def _store(self, constant: Constant, packing: Packing | None) -> int:
        raw = np.asarray(constant.value)
        name = constant.result.hint or (constant.location.names[0] if constant.location else "constant")
        if packing is None:
            return self._add(name, raw)
        # Packing is the expensive part, so equal operands are found before it.
        key = (self._representative(raw), packing.name, raw.shape)
        if key not in self._packed:
            self._packed[key] = self._add(f"{name}:{packing.name}", packing(raw))
        return self._packed[key]

    def _representative(self, value: Array) -> int:
        candidates = self._canonical.setdefault(_sample(value), [])
        for other in candidates:
            if other.shape == value.shape and _same(other, value):
                return id(other)
        candidates.append(value)
        self._kept.append(value)
        return id(value)

    def _add(self, name: str, value: Array) -> int:
        value = _contiguous(value)
        same = self._by_sample.setdefault(_sample(value), [])
        for index in same:
            if _same(self._entries[index].data, value):
                return index
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        count = self._names[name] = self._names.get(name, 0) + 1
        unique = name if count == 1 else f"{name}.{count}"
        self._entries.append(_Entry(unique, value, value.dtype, value.shape, offset))
        same.append(len(self._entries) - 1)
        self.size = offset + value.nbytes
        return len(self._entries) - 1

    def block(self) -> ConstantBlock:
        """The filled block. Call it once: the constants' own memory is released on the way."""
        block, view = ConstantBlock.empty(self.size)
        target = np.frombuffer(view, np.uint8) if self.size else np.empty(0, np.uint8)
        for entry in self._entries:
            if entry.data.nbytes:
                target[entry.offset : entry.offset + entry.data.nbytes] = _bytes(entry.data)
            entry.data = np.empty(0, np.uint8)
        self._kept.clear()
        self._canonical.clear()
        return block

    def pieces(self) -> list[memoryview]:
        """The block's bytes in order, gaps included, not copied: to write a file from. Not after `block`."""
        pieces: list[memoryview] = []
        position = 0
        for entry in self._entries:
            if entry.data.nbytes:
                pieces += [memoryview(bytes(entry.offset - position)), _bytes(entry.data).data]
                position = entry.offset + entry.data.nbytes
        return pieces

    def describe(self) -> tuple[manifest.Constant, ...]:
        """The manifest's list."""
        return tuple(manifest.Constant(e.name, e.dtype.name, e.shape, e.offset) for e in self._entries)


def _contiguous(value: Array) -> Array:
    """`value` in C order; a transposed matrix is copied in blocks, so that the lines it is read from stay in cache."""
    if value.ndim != 2 or value.flags.c_contiguous:
        return np.ascontiguousarray(value) if value.ndim else value
    result = np.empty(value.shape, value.dtype)
    for row in range(0, value.shape[0], _BLOCK):
        for column in range(0, value.shape[1], _BLOCK):
            block = np.s_[row : row + _BLOCK, column : column + _BLOCK]
            result[block] = value[block]
    return result


def _bytes(value: Array) -> Array:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _sample(value: Array) -> tuple[object, ...]:
    """Equal for equal contents; different contents mostly differ in it."""
    ends = value.flat[:_SAMPLE].tobytes() + value.flat[max(value.size - _SAMPLE, 0) :].tobytes()
    return (value.dtype.str, value.nbytes, hashlib.sha256(ends).digest())


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.nbytes == b.nbytes and bool(np.array_equal(_bytes(a), _bytes(b)))
