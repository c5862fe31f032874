"""Weights of a large model file, mapped and not copied.

Protobuf would copy each initializer twice (into its message, and out of it), which for hundreds of megabytes takes
longer than all other work on the model. So the ``raw_data`` of initializers is cut out of the file's bytes before
they are parsed; what is cut are views into the mapping. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

_GRAPH: Final = 7  # ModelProto.graph
_INITIALIZER: Final = 5  # GraphProto.initializer
_NAME, _RAW_DATA = 8, 9  # of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

LARGE: Final = 1 << 20
"""Files smaller than this are parsed whole."""
_KEPT: Final = 4096
"""Bytes of raw data that stay where they are."""


@dataclass
class Cut:
    """A model's bytes without weights.

    Attributes:
        weights: raw data by the initializer's name.
    """

    model: bytes
    weights: dict[str, memoryview] = field(default_factory=dict)


def cut_file(path: Path) -> Cut:
    """The model in `path`, the weights of its main graph cut out if it is large.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size < LARGE:
            return Cut(file.read())
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(mapping)
    try:
        return _cut(view)
    except ValueError:  # damaged, or of an unusual form: protobuf is to judge it
        return Cut(bytes(view))


def _cut(view: memoryview) -> Cut:
    graphs = [entry for entry in _fields(view, 0, len(view)) if entry.number == _GRAPH]
    if len(graphs) != 1:
        raise ValueError("not one graph")
    (graph,) = graphs
    weights: dict[str, memoryview] = {}
    pieces: list[bytes | memoryview] = []
    kept = graph.start
    for tensor in _fields(view, graph.start, graph.end):
        if tensor.number != _INITIALIZER or tensor.end - tensor.start <= _KEPT:
            continue
        parts = [part for part in _fields(view, tensor.start, tensor.end) if part.number in (_NAME, _RAW_DATA)]
        found = {part.number: part for part in parts}
        if len(parts) != 2 or len(found) != 2:
            continue
        name = bytes(view[found[_NAME].start : found[_NAME].end]).decode()
        if name in weights:
            raise ValueError("a name twice")
        raw = found[_RAW_DATA]
        weights[name] = view[raw.start : raw.end]
        rest = b"".join([view[tensor.start : raw.tag], view[raw.end : tensor.end]])
        pieces += [view[kept : tensor.tag], _head(_INITIALIZER, rest), rest]
        kept = tensor.end
    pieces.append(view[kept : graph.end])
    small = b"".join(pieces)
    return Cut(b"".join([view[: graph.tag], _head(_GRAPH, small), small, view[graph.end :]]), weights)


class _Field(NamedTuple):
    """A field of a message: its number, and where its tag, its value, and its end are."""

    number: int
    tag: int
    start: int
    end: int


def _fields(view: memoryview, position: int, end: int) -> Iterator[_Field]:
    """The fields of the message between two positions.

    Raises:
        ValueError: malformed.
    """
    while position < end:
        tag = position
        key, position = _read_varint(view, position, end)
        kind = key & 7
        if kind == _VARINT:
            start = position
            _, position = _read_varint(view, position, end)
        elif kind == _BYTES:
            length, start = _read_varint(view, position, end)
            position = start + length
        elif kind in (_FIXED64, _FIXED32):
            start, position = position, position + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if position > end:
            raise ValueError("truncated")
        yield _Field(key >> 3, tag, start, position)


def _read_varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("malformed number")


def _head(number: int, content: bytes) -> bytes:
    """What stands before `content` as the value of field `number`."""
    return _varint(number << 3 | _BYTES) + _varint(len(content))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
