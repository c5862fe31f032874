"""Artifacts: a compiled program in one file, ``model.dsa``, that runs without the compiler.

The file is a zip archive, nothing in it compressed, so that the weights are mapped and not read, and any zip
tool shows what is inside:

* ``manifest.json``: the `Manifest`
* ``program.o``, ``pool.o``: the program's code, and the thread pool's
* ``weights.safetensors``: the constant block
* ``checksums.json``: a checksum of each of the others (`ds_compiler.runtime.checksum`)
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from ds_compiler.runtime.abi import ALIGNMENT
from ds_compiler.runtime.checksum import checksum
from ds_compiler.runtime.errors import LoadError
from ds_compiler.runtime.executable import Constants, Executable, check_machine, constant_block
from ds_compiler.runtime.files import replacing
from ds_compiler.runtime.manifest import Manifest
from ds_compiler.runtime.memory import ConstantBlock
from ds_compiler.runtime.weights import data_offset, weights_header

_MANIFEST, _PROGRAM, _POOL = "manifest.json", "program.o", "pool.o"
_WEIGHTS, _CHECKSUMS = "weights.safetensors", "checksums.json"
_LARGE: Final = 1 << 31  # bytes from which on a zip archive needs its 64-bit form
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the same program gives the same bytes


class Contents(NamedTuple):
    """What an artifact holds, checked."""

    manifest: Manifest
    program: bytes
    pool: bytes
    constants: ConstantBlock


def save(path: str | os.PathLike[str], program: bytes, manifest: Manifest, constants: Constants, pool: bytes) -> None:
    """Write an artifact; on failure nothing is left behind and an existing file stays as it was.

    Args:
        program, manifest, constants: as for `Executable`.
        pool: the pool object.

    Raises:
        LoadError: the constants do not fit the manifest.
        OSError: the file cannot be written.
    """
    block = constant_block(manifest, constants)
    with replacing(Path(path)) as file:
        write(file, program, manifest, [block.view()[: manifest.constant_block_bytes()]], pool)


def write(
    file: BinaryIO, program: bytes, manifest: Manifest, constants: Sequence[bytes | memoryview], pool: bytes
) -> None:
    """Write an artifact into an open, empty file; `constants` are the bytes of the constant block, in pieces."""
    parts: dict[str, tuple[bytes | memoryview, ...]] = {
        _MANIFEST: (manifest.to_json().encode(),),
        _PROGRAM: (program,),
        _POOL: (pool,),
        _WEIGHTS: (weights_header(manifest), *constants),
    }
    sums = {name: checksum(*data) for name, data in parts.items()}
    parts[_CHECKSUMS] = (json.dumps(sums, indent=1).encode(),)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            # The data follows the local header (30 bytes, the name, the extra field): pad so that it is aligned.
            # A 64-bit size, which zipfile may note in the extra field, takes 20 bytes of it.
            large = sum(map(len, data)) >= _LARGE
            start = archive.fp.tell() + 30 + len(name) + (20 if large else 0)  # type: ignore[union-attr]
            padding = -(start + 4) % ALIGNMENT
            info.extra = struct.pack("<HH", 0xD5C0, padding) + b"\0" * padding
            with archive.open(info, "w", force_zip64=large) as member:
                for piece in data:
                    member.write(piece)


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Executable:
    """Load an artifact. Its weights stay mapped: the file may be replaced or deleted meanwhile, not changed in place.

    Raises:
        LoadError: damaged, of another version, or for another CPU.
        OSError: the file cannot be read.
    """
    contents = read(path)
    return Executable(
        contents.program, contents.manifest, contents.constants, pool_object=contents.pool, threads=threads
    )


def read(path: str | os.PathLike[str], *, verify: bool = True) -> Contents:
    """Read and check an artifact without loading its code.

    Args:
        verify: compare the checksums; needless where that was just done.

    Raises:
        LoadError: damaged, of another version, or for another CPU.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            if os.fstat(file.fileno()).st_size == 0:
                raise LoadError("the file is empty")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return _contents(memoryview(mapping), mapping, _members(file), verify)
        except LoadError as error:
            raise LoadError(f"{os.fspath(path)}: {error}") from None


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Offset and size in the file of each member's data."""
    places = {}
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise LoadError(f"not an artifact, or a damaged one: {error}") from None
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise LoadError(f"not an artifact: {info.filename} is compressed")
        file.seek(max(info.header_offset, 0) + 26)
        lengths = file.read(4)
        if len(lengths) < 4:
            raise LoadError("truncated")
        name_bytes, extra_bytes = struct.unpack("<HH", lengths)
        places[info.filename] = info.header_offset + 30 + name_bytes + extra_bytes, info.file_size
    return places


def _contents(view: memoryview, mapping: mmap.mmap, places: dict[str, tuple[int, int]], verify: bool) -> Contents:
    def part(name: str) -> memoryview:
        if name not in places:
            raise LoadError(f"not an artifact: it has no {name}")
        offset, size = places[name]
        if offset < 0 or size < 0 or offset + size > len(view):
            raise LoadError(f"truncated: {name} lies outside of the file")
        return view[offset : offset + size]

    try:
        sums = json.loads(bytes(part(_CHECKSUMS)))
    except ValueError:
        raise LoadError(f"damaged: {_CHECKSUMS} is not JSON") from None
    if not isinstance(sums, dict):
        raise LoadError(f"damaged: {_CHECKSUMS} is not a JSON object")
    for name in (_MANIFEST, _PROGRAM, _POOL, _WEIGHTS):
        if verify and sums.get(name) != checksum(part(name)):
            raise LoadError(f"damaged: the checksum of {name} does not match")
    manifest = Manifest.from_json(bytes(part(_MANIFEST)))
    check_machine(manifest)
    weights, size = part(_WEIGHTS), manifest.constant_block_bytes()
    start = data_offset(weights)
    if start + size > len(weights):
        raise LoadError("damaged: weights are shorter than the manifest says")
    offset = places[_WEIGHTS][0] + start
    constants = ConstantBlock.mapped(mapping, offset, size)
    return Contents(manifest, bytes(part(_PROGRAM)), bytes(part(_POOL)), constants)
