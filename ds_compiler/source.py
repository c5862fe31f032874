"""What `compile` was given: where it comes from, a hash of its content, and its module when that is needed.

The hash must be had without importing ONNX, and for a file of hundreds of megabytes in no time: what a file's hash
was is noted in the cache folder under its path, size, times and inode, and believed while these stay the same.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ds_compiler.runtime.files import replacing

if TYPE_CHECKING:
    from ds_compiler.frontends.onnx.given import Given
    from ds_compiler.ir import Module

_CHUNK: Final = 8 << 20
_RACY_SECONDS: Final = 2.0
"""A file changed as recently as this may change again within one tick of the file system's clock, unseen."""
_LOCATION: Final = b"\n\x08location"
"""How protobuf says that a tensor's data lies elsewhere: the key of a string pair; the value follows."""


class Uncacheable(Exception):
    """The content cannot be identified, so nothing may be found or kept under it."""


@dataclass(frozen=True)
class Source:
    """One model.

    Attributes:
        model: a path of an ONNX model or IR text (.dsir), a serialised model, an `onnx.ModelProto`, or a `Module`.
        name: for people.
        dims: sizes to fix, by symbol.
        given: what the program holds for beyond the types of an ONNX model's inputs
            (`ds_compiler.frontends.onnx.given`), by input; None: nothing.
        strict: import an ONNX model as `ds_compiler.frontends.onnx.strict` says.
    """

    model: Any
    name: str
    dims: Mapping[str, int]
    given: Mapping[str, Given] | None = None
    strict: bool = False

    @staticmethod
    def of(model: Any, dims: Mapping[str, int] | None = None, *, strict: bool = False) -> Source:
        """The source that the user means.

        Raises:
            TypeError: it is none of the accepted kinds.
        """
        if isinstance(model, str | os.PathLike):
            path = Path(os.fsdecode(model))
            return Source(path, path.stem, dict(dims or {}), None, strict)
        if isinstance(model, bytes | bytearray | memoryview):
            return Source(bytes(model), "model", dict(dims or {}), None, strict)
        if hasattr(model, "SerializeToString") and hasattr(model, "opset_import"):
            return Source(model, model.graph.name or "model", dict(dims or {}), None, strict)
        if hasattr(model, "functions") and hasattr(model, "main"):
            return Source(model, "module", dict(dims or {}))
        what = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"expected a path, bytes, an onnx.ModelProto or an IR module, got {what}")

    def module(self) -> Module:
        """The module before any pass; the caller may change it.

        Raises:
            CompileError: it cannot be read, is malformed, or uses operators that are not supported.
        """
        from ds_compiler.ir import CompileError, Module

        is_text = isinstance(self.model, Path) and self.model.suffix == ".dsir"
        if isinstance(self.model, Module) or is_text:
            if self.dims:
                raise CompileError("dims= fixes sizes of ONNX models only", help="state the sizes in the IR")
            if isinstance(self.model, Module):
                return self.model.clone()
            from ds_compiler.ir.parser import load_module

            return load_module(self.model)
        from ds_compiler.frontends.onnx import import_model

        return import_model(self.model, dims=self.dims, given=self.given, strict=self.strict)

    def fingerprint(self, notes: Path) -> str:
        """Hexadecimal hash of the content; `notes` is the folder where hashes of files are remembered.

        Raises:
            Uncacheable: a file cannot be read, or what belongs to it cannot be told.
        """
        if isinstance(self.model, Path):
            return _of_file(self.model, notes)
        if isinstance(self.model, bytes):
            return _chunked(memoryview(self.model))
        if hasattr(self.model, "SerializeToString"):
            try:
                return _chunked(memoryview(self.model.SerializeToString(deterministic=True)))
            except Exception as error:  # too large for protobuf: its classes of errors differ by version
                raise Uncacheable(str(error)) from error
        from ds_compiler.ir.printer import print_module

        return hashlib.sha256(print_module(self.model).encode()).hexdigest()


# -- files --------------------------------------------------------------------------------------------
def _of_file(path: Path, notes: Path) -> str:
    path = path.absolute()
    try:
        stamp = _stamp(path)
    except OSError as error:
        raise Uncacheable(str(error)) from error
    note = notes / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_bytes())
        beside = {name: _stamp(path.parent / name) for name in known["beside"]}
        if known["stamp"] == stamp and known["beside"] == beside:
            return str(known["hash"])
    started = time.time()
    try:
        names = _beside(path)
        digest = hashlib.sha256(_of_content(path).encode())
        for name in names:
            digest.update(f"\0{name}\0{_of_content(path.parent / name)}".encode())
        stamps = {name: _stamp(path.parent / name) for name in names}
        settled = _stamp(path) == stamp
    except OSError as error:
        raise Uncacheable(str(error)) from error
    newest = max(max(entry[1:3], default=0) for entry in (stamp, *stamps.values())) / 1e9
    if settled and started - newest > _RACY_SECONDS:
        with suppress(OSError):
            notes.mkdir(parents=True, exist_ok=True)
            with replacing(note) as file:
                file.write(json.dumps({"stamp": stamp, "beside": stamps, "hash": digest.hexdigest()}).encode())
    return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    """Size, times and inode; empty for a file that is not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _beside(path: Path) -> list[str]:
    """Names of the files that belong to `path`: constants of IR text, external data of a model."""
    if path.suffix == ".dsir":
        return [f"{path.name}.safetensors"]
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return sorted(set(_external(data)))


def _of_content(path: Path) -> str:
    """Hash of a file: SHA-256 over those of its chunks, which several threads compute. "absent" if there is none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return hashlib.sha256().hexdigest()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping, memoryview(mapping) as view:
                return _chunked(view)
    except FileNotFoundError:
        return "absent"


def _chunked(view: memoryview) -> str:
    def digest(start: int) -> bytes:
        with view[start : start + _CHUNK] as part:
            return hashlib.sha256(part).digest()

    starts = range(0, len(view), _CHUNK)
    if len(starts) <= 1:
        return hashlib.sha256(view).hexdigest()
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1, 8)) as pool:
        return hashlib.sha256(b"".join(pool.map(digest, starts))).hexdigest()


def _external(data: mmap.mmap) -> Iterator[str]:
    """Values of all string pairs with the key "location". A few may be something else; then no such file exists."""
    position = data.find(_LOCATION)
    while position >= 0:
        position += len(_LOCATION)
        following = data[position : position + 1]
        if following in (b"j", b"p"):  # within a tensor, after a pair that has its value before its key
            raise Uncacheable("external data in an unusual encoding")
        if following != b"\x12":  # an input of a node that has this name
            position = data.find(_LOCATION, position)
            continue
        length, shift, position = 0, 0, position + 1
        while position < len(data):
            byte = data[position]
            length |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80 or shift > 28:
                break
        with suppress(UnicodeDecodeError):
            name = data[position : position + min(length, 4096)].decode()
            if name and "\0" not in name:
                yield name
        position = data.find(_LOCATION, position)
