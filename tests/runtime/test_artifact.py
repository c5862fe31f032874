"""Artifacts: round trip, what they need to load, damage."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_programs import reverse_scaled

from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.runtime import LoadError, Manifest, artifact
from ds_compiler.runtime.manifest import Constant

C = np.array([0.5, -1.0, 3.0, 8.0], np.float32)
X = np.arange(10, dtype=np.float32)
WANT = (2 * X + C[np.arange(10) % 4])[::-1]


def saved(path: Path, manifest: Manifest | None = None) -> Path:
    program, usual = reverse_scaled()
    artifact.save(path, program, manifest or usual, {"c": C}, pool_object())
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("good") / "model.dsa")


@pytest.mark.parametrize("threads", [1, 2])
def test_round_trip(good: Path, threads: int) -> None:
    executable = artifact.load(good, threads=threads)
    np.testing.assert_array_equal(executable(X)["y"], WANT)
    assert executable.manifest == reverse_scaled()[1]


def test_same_program_gives_the_same_bytes(good: Path, tmp_path: Path) -> None:
    assert saved(tmp_path / "again.dsa").read_bytes() == good.read_bytes()


@pytest.mark.parametrize("large_from", [1 << 31, 0])
def test_weights_are_aligned_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_from: int) -> None:
    monkeypatch.setattr(artifact, "_LARGE", large_from)  # 0: every member in the zip format's 64-bit form
    path = saved(tmp_path / "model.dsa")
    assert artifact.read(path).constants.address % 64 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_weights_open_with_the_safetensors_library(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    constants = {"a": np.arange(3, dtype=np.int8), "b": np.full((2, 2), 7.0), "c": C, "h": np.zeros(5, np.float16)}
    entries = tuple(
        Constant(name, array.dtype.name, array.shape, 64 * index)
        for index, (name, array) in enumerate(constants.items())
    )
    program, manifest = reverse_scaled()
    manifest = dataclasses.replace(manifest, constants=entries, constants_bytes=300)
    artifact.save(tmp_path / "model.dsa", program, manifest, constants, pool_object())
    with zipfile.ZipFile(tmp_path / "model.dsa") as archive:
        tensors = safetensors.load(archive.read("weights.safetensors"))
    for name, array in constants.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype


def test_loading_imports_no_compiler(good: Path) -> None:
    code = f"""
import sys
from ds_compiler.runtime import artifact
y = artifact.load({str(good)!r}, threads=2)(x=__import__("numpy").arange(10, dtype="f4"))["y"]
assert y.tolist() == {WANT.tolist()}, y
bad = [m for m in sys.modules if m.split(".")[0] in ("llvmlite", "onnx", "onnxruntime", "torch")
       or m.startswith(("ds_compiler.ir", "ds_compiler.ops", "ds_compiler.backends", "ds_compiler.passes"))]
assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_replaced_file_does_not_disturb_a_loaded_program(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.dsa")
    executable = artifact.load(path, threads=1)
    saved(path)
    path.unlink()
    np.testing.assert_array_equal(executable(X)["y"], WANT)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.dsa")
    before = path.read_bytes()
    program, manifest = reverse_scaled()
    with pytest.raises(LoadError, match="constant 'c'"):
        artifact.save(path, program, manifest, {}, pool_object())
    with pytest.raises(TypeError):
        artifact.save(path, None, manifest, {"c": C}, pool_object())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        saved(tmp_path / "missing" / "model.dsa")


def test_needs_of_another_machine_are_named(tmp_path: Path) -> None:
    manifest = dataclasses.replace(reverse_scaled()[1], features=("avx2", "imaginary", "sse2"))
    with pytest.raises(LoadError, match=r"model\.dsa: needs imaginary, this CPU lacks it"):
        artifact.load(saved(tmp_path / "model.dsa", manifest))
    manifest = dataclasses.replace(reverse_scaled()[1], arch="aarch64")
    with pytest.raises(LoadError, match="unsupported architecture: compiled for aarch64"):
        artifact.load(saved(tmp_path / "model.dsa", manifest))


def test_another_interface_version_is_refused(tmp_path: Path) -> None:
    manifest = dataclasses.replace(reverse_scaled()[1], abi=999)
    with pytest.raises(LoadError, match="compiled for runtime interface 999"):
        artifact.load(saved(tmp_path / "model.dsa", manifest))


def test_not_an_artifact(tmp_path: Path) -> None:
    path = tmp_path / "model.dsa"
    path.write_bytes(b"")
    with pytest.raises(LoadError, match=r"model\.dsa: the file is empty"):
        artifact.load(path)
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(LoadError, match="not an artifact, or a damaged one"):
        artifact.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(LoadError, match=r"not an artifact: it has no checksums\.json"):
        artifact.load(path)
    with pytest.raises(FileNotFoundError):
        artifact.load(tmp_path / "missing.dsa")


@pytest.mark.parametrize("name", ["manifest.json", "program.o", "pool.o", "weights.safetensors"])
def test_damage_names_the_part(good: Path, tmp_path: Path, name: str) -> None:
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        content = archive.read(name)
    data[data.index(content) + len(content) // 2] ^= 0x10
    (tmp_path / "bad.dsa").write_bytes(data)
    with pytest.raises(LoadError, match=f"the checksum of {name} does not match"):
        artifact.load(tmp_path / "bad.dsa")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_artifacts_are_refused_or_whole(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(good.read_bytes())
    # Most of an artifact's bytes are content, covered by checksums: half of the changes go to the zip directory.
    tail = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(len(damaged) - 500 if tail else 0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    keep = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    path = tmp_path / "damaged.dsa"
    path.write_bytes(damaged[:keep])
    try:
        executable = artifact.load(path, threads=1)
    except LoadError as error:
        assert "damaged.dsa" in str(error)
    else:
        np.testing.assert_array_equal(executable(X)["y"], WANT)


def test_manifest_json() -> None:
    manifest = reverse_scaled()[1]
    assert Manifest.from_json(manifest.to_json()) == manifest
    data = json.loads(manifest.to_json())
    for change, message in [
        ({"inputs": 3}, "manifest.inputs: expected a list"),
        ({"inputs": [{"name": "x"}]}, "missing 2 required"),
        ({"inputs": [{"name": "x", "dtype": "f99", "dims": []}]}, "unknown element type 'f99'"),
        ({"scratch": 8}, "manifest.scratch: expected str, got 8"),
        ({"speed": 8}, "manifest: unknown entry 'speed'"),
        ({"symbols": [{"name": "n", "input": 4, "axis": 0}]}, "bound to input 4, which does not exist"),
        ({"symbols": [{"name": "n", "input": 0, "axis": 2}]}, "bound to axis 2, which does not exist"),
        ({"constants": [{"name": "c", "dtype": "int8", "shape": [4], "offset": 8}]}, "64-byte aligned"),
        ({"abi": None}, "compiled for runtime interface None"),
    ]:
        with pytest.raises(LoadError, match=message):
            Manifest.from_json(json.dumps({**data, **change}))
    for text in ("", "[]", "{", "null"):
        with pytest.raises(LoadError, match=r"not JSON|not a JSON object"):
            Manifest.from_json(text)
