"""Compiled programs in the cache: the key, told without importing the compiler, and what an entry holds."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from ds_compiler.runtime import artifact
from ds_compiler.runtime.artifact import Contents
from ds_compiler.runtime.cache import Content, Entry
from ds_compiler.runtime.cpu import host_identity
from ds_compiler.runtime.errors import LoadError

_PROGRAM, _ACCOUNT = "program.dsa", "account.json"

_ROOMS: Final = ("ir", "ops", "frontends", "passes", "backends", "runtime")
_FILES: Final = ("build.py", "source.py")
_LIBRARIES: Final = ("llvmlite", "onnx", "numpy")


def cache_key(content: str, name: str, target: str, options: Mapping[str, object]) -> str:
    """64 hexadecimal digits.

    Args:
        content: hash of the model.
        target: as the user named it; ``cpu`` stands for this machine.
        options: whatever else changes the result.
    """
    machine = host_identity() if target in ("cpu", "host", "native") else target
    parts = [content, name, machine, compiler_identity()]
    parts += [f"{key}={value!r}" for key, value in sorted(options.items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@functools.cache
def compiler_identity() -> str:
    """Hash of the compiler's own sources and of the versions of the libraries that it works with."""
    folders = {}
    for room in _ROOMS:
        spec = importlib.util.find_spec(f"ds_compiler.{room}")  # finds it without importing it
        for folder in (spec.submodule_search_locations or []) if spec else []:
            folders[room] = Path(folder)
    digest = hashlib.sha256(sources_identity(folders).encode())
    for name in _FILES:
        digest.update((Path(__file__).parent / name).read_bytes())
    for library in _LIBRARIES:
        digest.update(f"\0{library} {_version(library)}".encode())
    return digest.hexdigest()


def sources_identity(folders: Mapping[str, Path]) -> str:
    """Hash of the names and contents of all Python files; their times do not matter."""
    digest = hashlib.sha256()
    for name, folder in sorted(folders.items()):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"\0{name}/{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(library: str) -> str:
    """The version of an installed package, from its metadata's name (importlib.metadata takes 15 ms to import)."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return "absent"
    found = sorted(path.name for path in Path(spec.origin).parents[1].glob(f"{library}-*.dist-info"))
    if len(found) == 1:
        return found[0]
    from importlib import metadata

    return metadata.version(library)


def files(write: Callable[[BinaryIO], None], account: Mapping[str, Any]) -> dict[str, Content]:
    """The files of an entry: the artifact that `write` writes, and what `CompiledModel.report` tells of its making."""
    return {_PROGRAM: write, _ACCOUNT: json.dumps(account).encode()}


def read(entry: Entry) -> tuple[Contents, dict[str, Any]] | None:
    """What `files` has put into an entry, weights mapped; None if another process has just dropped it."""
    try:
        account: dict[str, Any] = json.loads(entry.read(_ACCOUNT))
        # The cache has compared checksums of the whole file already.
        return artifact.read(entry.path(_PROGRAM), verify=False), account
    except (OSError, LoadError, ValueError):
        return None
