"""Training steps: the engines that are compared compute the same, and the table."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from bench import training_table
from bench.networks import CASES
from bench.train import apart
from bench.training_engines import PEERS, available, ours
from bench.training_memory import ENGINES, peak_bytes

TOLERANCES = {"mlp": 1e-5, "resnet": 2e-3, "transformer": 1e-5, "gpt2": 1e-5}
"""Over ten steps. In the ResNet a rectifier's input that rounds to the other side of 0 sends the losses apart."""
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "transformer", "gpt2")]


@pytest.mark.parametrize("engine", ["torch", pytest.param("torch.compile", marks=pytest.mark.slow), "jax.jit"])
@pytest.mark.parametrize("name", ["mlp", *SLOW])
def test_engines_agree(name: str, engine: str, tmp_path: Path) -> None:
    if engine not in available():
        pytest.skip(f"{engine} is not installed")
    case = CASES[name]
    model, batches = case.make(), [case.batch(index) for index in range(3)]
    mine, theirs = ours(name, model, batches, 1, str(tmp_path)), PEERS[engine](name, model, batches)
    assert apart([mine() for _ in range(10)], [theirs() for _ in range(10)]) < TOLERANCES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_no_more_memory_than_pytorch(name: str, tmp_path: Path) -> None:
    mine, theirs = (peak_bytes(name, engine, 1, str(tmp_path)) for engine in ENGINES)
    state = CASES[name].make().state_dict().values()
    assert 3 * sum(array.nbytes for array in state) < mine <= theirs  # weights and AdamW's two moments


def _run(seconds: float, peer: float) -> dict[str, Any]:
    return {
        "timings": [
            {"engine": "ds_compiler", "median": seconds, "ratio": None},
            {"engine": "torch", "median": peer, "ratio": seconds / peer},
        ],
        "first_seconds": {"ds_compiler cold": 2.0, "ds_compiler cached": 0.1, "torch": 1.0},
    }


def test_the_table_has_a_cell_for_what_was_not_measured() -> None:
    full = _run(0.5, 1.0) | {"date": "2025-01-02", "machine": "a CPU", "versions": {"torch": "2"}}
    full |= {"peak_bytes": {"ds_compiler": 3 << 20}, "loss_difference": {"torch": 1e-6}}
    page = training_table.section({"mlp": {"1": full}, "other": {"1": _run(2.0, 1.0), "2": _run(1.0, 1.0)}})
    assert "2025-01-02, a CPU; torch 2." in page and "### 2 threads" in page
    assert "| mlp | 500 ms | 1.00 s (0.50) | 2.00 s / 100 ms | 1.00 s | 3 MiB | - | 1e-06 |" in page
    assert "| other | 2.00 s | 1.00 s (2.00) | 2.00 s / 100 ms | 1.00 s | - | - | - |" in page


def test_unknown_engines_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    train = importlib.import_module("bench.train")
    with pytest.raises(SystemExit):
        train.main(["mlp", "--against", "abacus"])
    assert "no engine 'abacus'" in capsys.readouterr().err
