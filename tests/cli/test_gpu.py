"""``--target cuda`` where there is a GPU (one that launches nothing), and where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ds_compiler.runtime.cuda import device, driver
from tests.cli.tiny import run
from tests.runtime.cuda.gpu import pretended


@pytest.mark.parametrize("command", [("run", "--random"), ("bench", "--against", "", "--no-cost", "--repeat", "3")])
def test_on_a_gpu(command: tuple[str, ...], perceptron: Path) -> None:
    with pretended() as library:
        result = run(*command, perceptron, "--target", "cuda", "--json")
    answer = json.loads(result.stdout)
    assert library.named("cuLaunchKernel")
    if command[0] == "run":
        assert answer["outputs"]["y"]["shape"][1] == 4
    else:
        assert answer["target"] == "cuda" and answer["timings"][0]["engine"] == "ds_compiler" and not answer["costs"]


@pytest.mark.parametrize("command", ["run", "bench"])
def test_without_a_driver(command: str, perceptron: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    for cache in (driver.system_driver, device.system_device):
        cache.cache_clear()
    monkeypatch.setattr(driver.ctypes, "CDLL", absent)
    result = run(command, perceptron, "--target", "cuda", code=2)
    assert result.stderr.startswith("error: no CUDA driver") and "Traceback" not in result.stderr


def test_targets_that_cannot_run(perceptron: Path) -> None:
    assert "unknown target 'tpu'" in run("run", perceptron, "--target", "tpu", code=2).stderr
    with pretended():
        assert "this GPU (Fake GPU) is cuda:90" in run("run", perceptron, "--target", "cuda:80", code=2).stderr
