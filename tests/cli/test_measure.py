"""Interleaved timing: noise is set aside, ratios are paired."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from ds_compiler.cli import measure
from ds_compiler.cli.errors import InputProblem
from ds_compiler.cli.peak import peak_probe
from tests.cli import tiny


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(measure, "LEAST_SECONDS", 0.0)


def test_medians_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    rounds = itertools.count()

    def work(seconds: float) -> None:
        now[0] += seconds * (1 + next(rounds) % 5 / 10)

    found = measure.interleave({"ours": lambda: work(1e-3), "theirs": lambda: work(4e-3)}, 15, probe=lambda: 1e9)
    ours, theirs = found.timings
    assert 0.999e-3 < ours.best <= ours.p10 <= ours.median <= ours.p90 < 1.401e-3
    assert theirs.ratio is not None and 0.25 / 1.4 < theirs.ratio < 0.25 * 1.4
    assert ours.ratio is None and found.peak_gflops == 1 and found.rounds == 15


def test_rounds_on_a_busy_core_are_set_aside() -> None:
    speed = iter(itertools.cycle([1e9] * 4 + [1e8] * 2))  # two probes a round: every third round is slow
    found = measure.interleave({"ours": lambda: None}, 9, probe=lambda: next(speed))
    assert (found.rounds, found.quiet_rounds) == (9, 6)


def test_when_all_is_noise_the_best_rounds_count() -> None:
    speed = itertools.count(1)
    found = measure.interleave({"ours": lambda: None}, 12, probe=lambda: float(2 ** next(speed)))
    assert found.quiet_rounds == 3


def test_the_time_limit_leaves_five_rounds() -> None:
    found = measure.interleave({"ours": lambda: spin(1e-3)}, 1000, probe=lambda: 1.0, limit_seconds=0)
    assert found.rounds == 5


def test_quantiles_lie_between_neighbours() -> None:
    values = [3.0, 1.0, 2.0]
    assert [measure.quantile(values, q) for q in (0, 0.25, 0.5, 1)] == [1, 1.5, 2, 3]
    assert measure.quantile([7.0], 0.9) == 7


def test_the_probe_tells_a_plausible_speed() -> None:
    probe = peak_probe()
    assert 1e9 < max(probe() for _ in range(20)) < 1e12


def test_a_fresh_process_has_its_own_peak(perceptron: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((1, 8), np.float32))
    ballast = np.ones(40_000_000)  # 320 MB here must not show there
    found = measure.cost("ds_compiler", perceptron, tmp_path / "in.npz", 1)
    assert 10e6 < found.base_bytes < found.peak_bytes < 300e6 < ballast.nbytes
    assert found.load_seconds > 0 and found.first_call_seconds > 0


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    path = tiny.save(tiny.perceptron(), tmp_path)
    np.savez(tmp_path / "in.npz", z=np.ones(1))
    with pytest.raises(InputProblem, match="measuring ds_compiler in its own process failed"):
        measure.cost("ds_compiler", path, tmp_path / "in.npz", 1)
