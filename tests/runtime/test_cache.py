"""The compile cache: hits, damage, several processes, limits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_compiler.runtime.cache import Cache

KEY, OTHER, THIRD = "0a" * 32, "1b" * 32, "2c" * 32
FILES = {"program.o": b"\1\2\3" * 1000, "empty": b""}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_put_then_get(cache: Cache) -> None:
    assert cache.get(KEY) is None
    assert cache.put(KEY, {**FILES, "written": lambda file: file.write(b"by hand") and None}) is not None
    entry = cache.get(KEY)
    assert entry is not None and set(entry.names) == {"program.o", "empty", "written"}
    assert entry.read("program.o") == FILES["program.o"] and entry.read("written") == b"by hand"
    assert cache.get(OTHER) is None and not cache.warnings
    assert [p.name for p in cache.folder.iterdir()] == [KEY[:2]], "nothing temporary stays behind"


def test_put_replaces(cache: Cache) -> None:
    cache.put(KEY, FILES)
    cache.put(KEY, {"program.o": b"new"})
    entry = cache.get(KEY)
    assert entry is not None and entry.names == ("program.o",) and entry.read("program.o") == b"new"


def test_a_failing_writer_leaves_nothing(cache: Cache) -> None:
    def fail(_: object) -> None:
        raise OSError("disk full")

    assert cache.put(KEY, {"a": fail}) is None
    assert cache.get(KEY) is None
    assert "cannot be written: disk full" in cache.warnings[0]
    assert not list(cache.folder.glob(".new-*"))


@pytest.mark.parametrize("key", ["", "../../etc", "ABCDEF0123456789", "0" * 15, "0" * 129, "0" * 16 + "/x"])
def test_bad_keys(cache: Cache, key: str) -> None:
    with pytest.raises(ValueError, match="cache key"):
        cache.put(key, FILES)
    with pytest.raises(ValueError, match="cache key"):
        cache.get(key)


@pytest.mark.parametrize("name", ["", "entry.json", "../x", "a/b", ".."])
def test_bad_file_names(cache: Cache, name: str) -> None:
    with pytest.raises(ValueError, match="bad name"):
        cache.put(KEY, {name: b""})


@pytest.mark.parametrize("victim", ["program.o", "empty", "entry.json"])
@pytest.mark.parametrize("damage", ["truncate", "append", "delete", "flip"])
def test_damaged_entries_are_absent_and_can_be_rebuilt(cache: Cache, victim: str, damage: str) -> None:
    entry = cache.put(KEY, FILES)
    assert entry is not None
    path = entry.folder / victim
    content = path.read_bytes()
    if not content and damage in ("truncate", "flip"):
        pytest.skip("an empty file cannot be damaged like this")
    middle = len(content) // 2
    if damage == "delete":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :] if content else b""
        path.write_bytes({"truncate": content[:middle], "append": content + b"x", "flip": flipped}[damage])
    assert cache.get(KEY) is None
    built = cache.get_or_build(KEY, lambda: FILES)
    assert built is not None and cache.get(KEY) is not None


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["program.o", "entry.json"]), st.integers(0, 2999), st.integers(1, 255))
def test_any_flipped_byte_is_noticed_or_harmless(cache: Cache, victim: str, at: int, mask: int) -> None:
    entry = cache.put(KEY, FILES)
    assert entry is not None
    content = bytearray((entry.folder / victim).read_bytes())
    content[at % len(content)] ^= mask
    (entry.folder / victim).write_bytes(content)
    found = cache.get(KEY)
    assert found is None or (victim == "entry.json" and found.read("program.o") == FILES["program.o"])


def test_another_format_is_absent(cache: Cache) -> None:
    entry = cache.put(KEY, FILES)
    assert entry is not None
    path = entry.folder / "entry.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    assert cache.get(KEY) is None
    assert "another version" in cache.warnings[0]


def test_an_entry_moved_to_another_key_is_absent(cache: Cache) -> None:
    entry = cache.put(KEY, FILES)
    assert entry is not None
    (cache.folder / OTHER[:2]).mkdir()
    entry.folder.rename(cache.folder / OTHER[:2] / OTHER)
    assert cache.get(OTHER) is None


def test_disabled(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", enabled=False)
    built = []
    assert cache.get_or_build(KEY, lambda: built.append(1) or FILES) is None
    assert built == [1] and cache.get(KEY) is None and not cache.folder.exists()


def test_unwritable_folder_works_without_keeping(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = Cache(blocked / "cache")
    built = []
    assert cache.get_or_build(KEY, lambda: built.append(1) or FILES) is None
    assert built == [1]
    assert any("cannot be written" in w for w in cache.warnings)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=9000)
    now = time.time()
    for age, key in ((300, KEY), (200, OTHER)):
        entry = cache.put(key, FILES)
        assert entry is not None
        os.utime(entry.path("entry.json"), (now - age, now - age))
    assert cache.get(KEY) is not None  # now the more recent one
    cache.put(THIRD, FILES)
    assert cache.get(OTHER) is None
    assert cache.get(KEY) is not None and cache.get(THIRD) is not None
    assert cache.size() <= 9000
    tiny = Cache(tmp_path, max_bytes=10)
    assert tiny.put(OTHER, FILES) is not None and tiny.get(OTHER) is not None, "the newest stays"
    assert tiny.get(KEY) is None
    tiny.clear()
    assert tiny.get(OTHER) is None


def test_what_a_dead_process_left_is_cleaned_up(cache: Cache) -> None:
    old, young = cache.folder / ".new-dead", cache.folder / ".new-alive"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "half").write_text("half")
    os.utime(old, (0, 0))
    cache.put(KEY, FILES)
    assert not old.exists() and young.exists()


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSC_CACHE_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DSC_CACHE_MAX_BYTES", "12345")
    assert Cache().folder == tmp_path / "elsewhere" and Cache().max_bytes == 12345
    monkeypatch.delenv("DSC_CACHE_DIR")
    assert Cache().folder.name == "ds_compiler"


BUILDER = """
import sys, time
from pathlib import Path
from ds_compiler.runtime.cache import Cache
folder, log = Path(sys.argv[1]), Path(sys.argv[2])
def build():
    with open(log, "a") as file:
        file.write("built\\n")
    time.sleep(0.3)
    return {"program.o": b"x" * 100000}
for key in ("0a" * 32, "1b" * 32):
    entry = Cache(folder).get_or_build(key, build)
    assert entry.read("program.o") == b"x" * 100000
"""


def test_several_processes_compile_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(log)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert log.read_text() == "built\n" * 2


PUTTER = """
import sys
from pathlib import Path
from ds_compiler.runtime.cache import Cache
cache = Cache(Path(sys.argv[1]))
content = {"a": sys.argv[2].encode() * 50000, "b": sys.argv[2].encode()}
for _ in range(60):
    cache.put("0a" * 32, content)
    entry = cache.get("0a" * 32)
    try:
        if entry is not None:
            assert entry.read("a") in (b"p" * 50000, b"q" * 50000)
    except FileNotFoundError:
        pass  # replaced between the two steps, as documented
"""


def test_two_processes_put_the_same_key(cache: Cache) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PUTTER, str(cache.folder), letter]) for letter in "pq"]
    assert [p.wait(60) for p in processes] == [0, 0]
    entry = cache.get(KEY)
    assert entry is not None and entry.read("a")[:1] == entry.read("b")
    assert [p.name for p in cache.folder.iterdir()] == [KEY[:2]]
