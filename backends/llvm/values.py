"""LLVM values and types as text: ``%12`` of type ``<8 x float>``, constants, sizes in memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class V:
    """An LLVM value: its type and how it is written as an operand (``%12``, ``7``, ``0x7FF...``)."""

    type: str
    ref: str

    @property
    def lanes(self) -> int:
        """Number of vector lanes; 0 for a scalar."""
        return int(self.type[1:].split(" ", 1)[0]) if self.type.startswith("<") else 0

    @property
    def element(self) -> str:
        """Element type of a vector, or the type itself."""
        return self.type[1:-1].split(" x ", 1)[1] if self.type.startswith("<") else self.type

    def __str__(self) -> str:
        return f"{self.type} {self.ref}"


def vector_of(element: str, lanes: int) -> str:
    """The type of `lanes` elements; `lanes` 0 means a scalar."""
    return f"<{lanes} x {element}>" if lanes else element


def known(value: V) -> int | None:
    """The integer a scalar constant stands for; None for a run-time value."""
    return int(value.ref) if not value.lanes and value.ref.lstrip("-").isdigit() else None


def constant(type_: str, value: int | float | bool) -> V:
    """A scalar constant, or a splat of it when `type_` is a vector."""
    lanes, element = V(type_, "").lanes, V(type_, "").element
    if element in ("float", "double", "half", "bfloat"):
        if element == "double":
            bits = struct.unpack("<Q", struct.pack("<d", float(value)))[0]
            text = f"0x{bits:016X}"
        elif element == "float":
            # LLVM writes a float as the hexadecimal double of the same value.
            try:
                narrowed = struct.unpack("<f", struct.pack("<f", float(value)))[0]
            except OverflowError:
                narrowed = float("inf") if value > 0 else float("-inf")
            bits = struct.unpack("<Q", struct.pack("<d", narrowed))[0]
            text = f"0x{bits:016X}"
        elif element == "half":
            text = f"0xH{struct.unpack('<H', struct.pack('<e', float(value)))[0]:04X}"
        else:
            raw: int = struct.unpack("<I", struct.pack("<f", float(value)))[0]
            text = f"0xR{(raw + 0x7FFF + ((raw >> 16) & 1)) >> 16:04X}"
    elif element == "i1":
        text = "true" if value else "false"
    elif element == "ptr":
        text = "null"
    else:
        text = str(int(value))
    if lanes:
        text = "<" + ", ".join(f"{element} {text}" for _ in range(lanes)) + ">"
    return V(type_, text)


_INVERSE_SUFFIX = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}


def intrinsic_suffix(type_: str) -> str:
    """Mangled type of an overloaded intrinsic: ``<8 x float>`` → ``v8f32``."""
    value = V(type_, "")
    element = _INVERSE_SUFFIX.get(value.element, value.element)
    return f"v{value.lanes}{element}" if value.lanes else element


_BYTES = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "bfloat": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "ptr": 8}


def bytes_of(type_: str) -> int:
    """Size in memory of a scalar type, or of all lanes of a vector type, in bytes."""
    value = V(type_, "")
    return _BYTES[value.element] * max(1, value.lanes)


def natural_alignment(type_: str) -> int:
    """Alignment in bytes that an element of the type has in any array."""
    return _BYTES[V(type_, "").element]
