"""The script for a machine with a GPU goes through without one: small sizes, a driver that launches nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from bench import gpu_check


def went_through(sections: list[str], folder: Path) -> dict[str, list[dict[str, object]]]:
    out = folder / "out.json"
    assert gpu_check.main(["--dry", "--out", str(out), *(f"--only={s}" for s in sections)]) == 0
    found: dict[str, list[dict[str, object]]] = json.loads(out.read_text())
    assert all(found[s] for s in sections)
    assert all("skipped" not in row for s in sections for row in found[s])
    return found


def test_kernels_and_launches(tmp_path: Path) -> None:
    assert len(went_through(["bandwidth", "kernels", "launches"], tmp_path)["kernels"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("section", ["attention", "training", "networks"])
def test_sections_that_compile_with_pytorch(section: str, tmp_path: Path) -> None:
    went_through([section], tmp_path)


def test_what_there_is_no_time_for_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert gpu_check.main(["--dry", "--out", str(out), "--only=kernels", "--seconds=0"]) == 0
    assert all("skipped" in row for row in json.loads(out.read_text())["kernels"])
