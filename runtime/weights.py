"""The constant block as a safetensors file that can be mapped: data starts, and each constant lies, on 64 bytes.

Format: 8 bytes length of the header, the header (JSON, padded with spaces), then the data without gaps; gaps between
constants are therefore tensors themselves, named ``__padding__.N``. See github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
from typing import Final

from ds_compiler.runtime.abi import ALIGNMENT
from ds_compiler.runtime.errors import LoadError
from ds_compiler.runtime.manifest import Manifest

_DTYPES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library


def weights_header(manifest: Manifest) -> bytes:
    """What precedes the constant block in the file; constants of types that safetensors lacks appear as bytes."""
    size = manifest.constant_block_bytes()
    header: dict[str, object] = {}
    position, gaps = 0, 0

    def add_gap(end: int) -> None:
        nonlocal position, gaps
        if end > position:
            shape = [end - position]
            header[f"__padding__.{gaps}"] = {"dtype": "U8", "shape": shape, "data_offsets": [position, end]}
            position, gaps = end, gaps + 1

    for constant in sorted(manifest.constants, key=lambda c: (c.offset, c.nbytes)):
        add_gap(constant.offset)
        end = constant.offset + constant.nbytes
        known = _DTYPES.get(constant.dtype)
        shape = list(constant.shape) if known else [constant.nbytes]
        header[constant.name] = {"dtype": known or "U8", "shape": shape, "data_offsets": [constant.offset, end]}
        position = end
    add_gap(size)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def data_offset(head: memoryview) -> int:
    """Where the data starts in a safetensors file that begins with `head`.

    Raises:
        LoadError: not such a file.
    """
    if len(head) < 8:
        raise LoadError("weights: file is truncated")
    (length,) = struct.unpack_from("<Q", head)
    if length > min(_MAX_HEADER, len(head) - 8):
        raise LoadError("weights: file is truncated or not safetensors")
    return 8 + int(length)
