"""When a program comes from the cache, when it must not, and what that imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ds_compiler as ds
from ds_compiler import cached, source
from tests.api import models

HEAVY = ["onnx", "llvmlite", "ds_compiler.ir", "ds_compiler.passes", "ds_compiler.frontends", "ds_compiler.backends"]


def in_fresh_process(code: str, *arguments: object) -> Any:
    """What `code` leaves in ``answer``, and which heavy modules it has imported."""
    program = textwrap.dedent(code) + f"\nimport json, sys\nheavy = [n for n in {HEAVY} if n in sys.modules]"
    program += "\nprint(json.dumps([answer, heavy]))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


RUN = """
    import sys
    import numpy as np
    import ds_compiler as ds
    program = ds.compile(sys.argv[1])
    answer = [program.report().cached, program(x=np.ones((2, 8), np.float32))["y"].tolist()]
"""


def test_the_package_alone_imports_nothing() -> None:
    answer, heavy = in_fresh_process("import sys, ds_compiler\nanswer = 'numpy' in sys.modules")
    assert answer is False and heavy == []


def test_a_hit_imports_no_part_of_the_compiler(tmp_path: Path) -> None:
    path = models.save(models.perceptron(), tmp_path)
    (first_cached, first), heavy = in_fresh_process(RUN, path)
    assert not first_cached and set(heavy) == set(HEAVY)
    (again_cached, again), heavy = in_fresh_process(RUN, path)
    assert again_cached and heavy == [] and again == first


def test_loading_an_artifact_imports_no_part_of_the_compiler(tmp_path: Path) -> None:
    ds.compile(models.perceptron()).save(tmp_path / "tiny.dsa")
    code = """
        import sys
        import numpy as np
        import ds_compiler as ds
        answer = ds.load(sys.argv[1])(x=np.ones((2, 8), np.float32))["y"].tolist()
    """
    answer, heavy = in_fresh_process(code, tmp_path / "tiny.dsa")
    assert heavy == []
    np.testing.assert_allclose(answer, models.perceptron_in_numpy(np.ones((2, 8))), rtol=1e-5)


def hit(model: Any, **options: Any) -> bool:
    return ds.compile(model, **options).report().cached


def test_what_makes_another_program() -> None:
    proto = models.perceptron()
    assert not hit(proto) and hit(proto) and hit(proto.SerializeToString()) is False  # known by another name
    for options in ({"target": "x86-64-v2"}, {"passes": "cleanup"}, {"dims": {"batch": 2}}, {"verify": True}):
        assert not hit(proto, **options) and hit(proto, **options)
    assert hit(proto, threads=1) and not hit(proto, cache=False)
    other = models.perceptron()
    weights = onnx.numpy_helper.to_array(other.graph.initializer[0]).copy()
    weights[0, 0] += 1e-6
    other.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    assert not hit(other) and hit(proto)


def test_a_changed_compiler_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = models.perceptron()
    assert not hit(proto)
    monkeypatch.setattr(cached, "compiler_identity", lambda: "another")
    assert not hit(proto) and hit(proto)


def test_the_identity_of_the_compiler_is_its_content(tmp_path: Path) -> None:
    import ds_compiler.passes

    folder = tmp_path / "passes"
    shutil.copytree(Path(ds_compiler.passes.__file__).parent, folder)
    first = cached.sources_identity({"passes": folder})
    for path in folder.rglob("*.py"):
        os.utime(path, (1, 1))
    assert cached.sources_identity({"passes": folder}) == first
    with (folder / "cse.py").open("a") as file:
        file.write("# changed\n")
    assert cached.sources_identity({"passes": folder}) != first


def test_a_changed_file_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_RACY_SECONDS", -1.0)  # believe the notes at once
    path = models.save(models.perceptron(), tmp_path)
    assert not hit(path) and hit(path)
    os.utime(path)
    assert hit(path)
    data = bytearray(path.read_bytes())
    place = data.index(models.perceptron().graph.initializer[0].raw_data)
    data[place + 2] ^= 1
    path.write_bytes(data)
    assert not hit(path) and hit(path)


def test_a_note_is_used_while_the_file_stays_the_same(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.save(models.perceptron(), tmp_path)
    monkeypatch.setattr(source, "_RACY_SECONDS", -1.0)
    first = source.Source.of(path).fingerprint(cache_folder / "sources")
    hashed: list[Path] = []
    original = source._of_content
    monkeypatch.setattr(source, "_of_content", lambda path: hashed.append(path) or original(path))
    assert source.Source.of(path).fingerprint(cache_folder / "sources") == first and not hashed
    os.utime(path)
    assert source.Source.of(path).fingerprint(cache_folder / "sources") == first and hashed


def test_a_file_changed_just_now_is_always_hashed(tmp_path: Path, cache_folder: Path) -> None:
    path = models.save(models.perceptron(), tmp_path)
    assert not hit(path) and not list((cache_folder / "sources").glob("*"))


def test_external_data_is_part_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_RACY_SECONDS", -1.0)
    path = models.external(tmp_path)
    x = models.x_of(2)
    before = ds.compile(path)(x=x)["y"]
    assert hit(path)
    weights = np.fromfile(tmp_path / "weights.bin", np.float32)
    (2 * weights).astype(np.float32).tofile(tmp_path / "weights.bin")
    program = ds.compile(path)
    assert not program.report().cached and not np.allclose(program(x=x)["y"], before)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ds.CompileError, match=r"initializer 'w'.*weights\.bin.*missing"):
        ds.compile(path)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "empty"])
def test_a_damaged_entry_is_built_again(damage: str, cache_folder: Path) -> None:
    proto, x = models.perceptron(), models.x_of(2)
    expected = ds.compile(proto)(x=x)["y"]
    (program,) = cache_folder.glob("??/*/program.dsa")
    data = bytearray(program.read_bytes())
    if damage == "missing":
        program.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        program.write_bytes({"flipped": data, "truncated": data[: len(data) // 2], "empty": b""}[damage])
    again = ds.compile(proto)
    assert not again.report().cached and np.array_equal(again(x=x)["y"], expected)
    assert damage == "missing" or "damaged" in str(again.report())
    assert hit(proto)


def test_an_entry_that_vanishes_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    proto, x = models.perceptron(), models.x_of(2)
    expected = ds.compile(proto)(x=x)["y"]
    monkeypatch.setattr(cached, "read", lambda entry: None)  # as when another process drops it after it was found
    program = ds.compile(proto)
    assert not program.report().cached and np.array_equal(program(x=x)["y"], expected)


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    program = ds.compile(models.perceptron(), cache=tmp_path / "file" / "cache")
    assert "warning: the cache" in str(program.report())
    assert program(x=models.x_of(1))["y"].shape == (1, 4)


def test_weights_are_mapped_from_the_cache(cache_folder: Path) -> None:
    ds.compile(models.perceptron())
    again = ds.compile(models.perceptron())
    assert str(cache_folder) in Path("/proc/self/maps").read_text() and again.report().cached


def test_of_several_processes_one_compiles(tmp_path: Path) -> None:
    path = models.save(models.perceptron(), tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(RUN) + "\nprint(answer[0])", str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = sorted(process.communicate()[0].strip() for process in running)
    assert said == ["False", "True", "True", "True"]
