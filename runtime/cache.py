"""Compiled programs on disk, found by a key that the caller derives from everything the result depends on.

Layout: ``<root>/<key[:2]>/<key>/`` holds an entry's files and ``entry.json`` with their sizes and checksums. An
entry is filled in a temporary folder and renamed into place, so it is there completely or not at all; whatever
does not match its checksums is removed and counts as absent. Keys are locked one at a time while compiling, so
that of several processes one compiles and the others wait and load.

Environment: ``DSC_CACHE_DIR`` sets the folder, ``DSC_CACHE_MAX_BYTES`` the size above which the entries used
least recently are dropped (default 8 GiB).
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from ds_compiler.runtime.checksum import checksum

_ENTRY: Final = "entry.json"
_FORMAT: Final = 1
_DEFAULT_MAX_BYTES: Final = 8 << 30
_STALE_SECONDS: Final = 3600.0  # a temporary folder older than this was left by a process that died
_KEY: Final = re.compile(r"[0-9a-f]{16,128}")

#: An entry's file: its bytes, or a function that writes them into an open file.
Content = bytes | memoryview | Callable[[BinaryIO], None]


@dataclass(frozen=True)
class Entry:
    """One cached result: the folder, and the names of its files."""

    key: str
    folder: Path
    names: tuple[str, ...]

    def path(self, name: str) -> Path:
        """Where file `name` is. Another process may drop the entry: be ready for `FileNotFoundError`."""
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The bytes of file `name`."""
        return self.path(name).read_bytes()


def default_folder() -> Path:
    """``$DSC_CACHE_DIR``, or ``ds_compiler`` in the user's cache folder."""
    named = os.environ.get("DSC_CACHE_DIR")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("ds_compiler"))


def _default_max_bytes() -> int:
    text = os.environ.get("DSC_CACHE_MAX_BYTES", "")
    return int(text) if text.isascii() and text.isdigit() else _DEFAULT_MAX_BYTES


@dataclass
class Cache:
    """A folder of entries.

    Attributes:
        folder: where; made when first needed.
        max_bytes: size to keep below.
        enabled: with False nothing is found and nothing kept.
        warnings: what went wrong without harm (a folder that cannot be written, say), for reports.
    """

    folder: Path = field(default_factory=default_folder)
    max_bytes: int = field(default_factory=_default_max_bytes)
    enabled: bool = True
    warnings: list[str] = field(default_factory=list)

    def get(self, key: str) -> Entry | None:
        """The entry for `key` if it is there and undamaged."""
        if not self.enabled:
            return None
        folder = self._entry_folder(key)
        try:
            names = _verified(folder)
        except FileNotFoundError:
            return None
        except _Damaged as damage:
            self._warn(f"cache entry {key[:16]} is damaged ({damage}) and was removed")
            self._remove(folder)
            return None
        except OSError as error:
            self._warn(f"cache entry {key[:16]} cannot be read: {error}")
            return None
        with suppress(OSError):
            os.utime(folder / _ENTRY)
        return Entry(key, folder, names)

    def put(self, key: str, files: Mapping[str, Content]) -> Entry | None:
        """Keep `files` under `key`, replacing what was there; None when the folder cannot be written.

        Raises:
            ValueError: a malformed key or file name.
        """
        target = self._entry_folder(key)
        for name in files:
            if name in ("", "..", _ENTRY) or Path(name).name != name:
                raise ValueError(f"bad name for a cached file: {name!r}")
        if not self.enabled:
            return None
        temporary: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            described = {name: _write(temporary / name, content) for name, content in files.items()}
            text = json.dumps({"format": _FORMAT, "key": key, "files": described}, indent=1)
            _write(temporary / _ENTRY, text.encode())
            for attempt in range(3):
                self._remove(target)
                try:
                    os.replace(temporary, target)
                    break
                except OSError:  # another process has put the same key in between; ours is as good
                    if attempt == 2:
                        raise
        except OSError as error:
            self._warn(f"the cache in {self.folder} cannot be written: {error}")
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            return None
        self.trim(keep=key)
        return Entry(key, target, tuple(files))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the key among processes and threads; without effect where locks cannot be made."""
        import filelock  # here, since a program that is found needs no lock, and importing this takes 10 ms

        lock: filelock.BaseFileLock | None = None
        if self.enabled:
            try:
                folder = self.folder / "locks"
                folder.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(folder / f"{key}.lock", thread_local=False)
                lock.acquire()
            except (OSError, NotImplementedError) as error:
                self._warn(f"the cache in {self.folder} cannot be locked: {error}")
                lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def get_or_build(self, key: str, build: Callable[[], Mapping[str, Content]]) -> Entry | None:
        """The entry for `key`; if there is none, `build` makes its files, in one process at a time.

        Returns None when the result of `build` could not be kept: the caller then uses what it has built.
        """
        entry = self.get(key)
        if entry is not None:
            return entry
        with self.lock(key):
            return self.get(key) or self.put(key, build())

    def trim(self, keep: str = "") -> None:
        """Drop the entries used least recently until the cache is below `max_bytes`; never the entry `keep`."""
        entries = []
        for path in self.folder.glob("??/*/" + _ENTRY):
            with suppress(OSError):
                size = sum(f.stat().st_size for f in path.parent.iterdir())
                entries.append((path.stat().st_mtime, size, path.parent))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self.max_bytes:
                break
            if folder.name != keep:
                self._remove(folder)
                total -= size
        for left in (*self.folder.glob(".new-*"), *self.folder.glob(".old-*")):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)

    def size(self) -> int:
        """Bytes of all files of all entries."""
        return sum(f.stat().st_size for f in self.folder.glob("??/*/*") if f.is_file())

    def clear(self) -> None:
        """Remove every entry."""
        for path in self.folder.glob("??/*"):
            self._remove(path)

    def _entry_folder(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a cache key is 16 to 128 lower-case hexadecimal digits, got {key!r}")
        return self.folder / key[:2] / key

    def _remove(self, folder: Path) -> None:
        """Take an entry away in one step, then delete it: nobody finds half of it meanwhile."""
        if not folder.exists():
            return
        with suppress(OSError):
            aside = Path(tempfile.mkdtemp(prefix=".old-", dir=self.folder))
            with suppress(OSError):
                os.replace(folder, aside / "entry")
            shutil.rmtree(aside, ignore_errors=True)

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)


class _Damaged(Exception):
    """An entry does not match its description."""


def _write(path: Path, content: Content) -> dict[str, int | str]:
    # Not forced to the disk, which would take longer than compiling does: what a power cut leaves of it does not match
    # its checksum.
    with open(path, "wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)
    return _measure(path)


def _measure(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return {"size": 0, "checksum": checksum(b"")}
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            return {"size": size, "checksum": checksum(mapping)}  # type: ignore[arg-type]


def _verified(folder: Path) -> tuple[str, ...]:
    text = (folder / _ENTRY).read_bytes()
    try:
        description = json.loads(text)
        key, files = description["key"], description["files"]
        known = description["format"] == _FORMAT and key == folder.name and isinstance(files, dict)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _Damaged(f"{_ENTRY} cannot be read") from None
    if not known:
        raise _Damaged(f"{_ENTRY} is of another version")
    for name, expected in files.items():
        if name in ("", "..") or Path(name).name != name:
            raise _Damaged(f"{_ENTRY} names a file outside of the entry")
        try:
            actual = _measure(folder / name)
        except FileNotFoundError:
            raise _Damaged(f"{name} is missing") from None
        if actual != expected:
            raise _Damaged(f"the checksum of {name} does not match")
    return tuple(files)
