"""Timing engines against each other, and what one costs in a process of its own."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ds_compiler.cli.errors import InputProblem

PROBE_SECONDS = 0.05
"""How long the probe runs before an engine's turn. Meanwhile threads of the engine before go to sleep (onnxruntime's
spin for 20 to 30 ms after a call, on a core that the next engine would need); sleeping here instead would let the core
slow down."""
LEAST_SECONDS = 0.002
"""A turn repeats its call to last at least this long, so that the clock's grain does not show."""
QUIET = 0.9
"""A round counts if the probes around it reached this part of the best probe (another process took the core)."""


@dataclass(frozen=True)
class Timing:
    """Seconds a call of one engine, over the quiet rounds; `ratio` is ours over this one's, paired by round."""

    engine: str
    median: float
    p10: float
    p90: float
    best: float
    ratio: float | None
    ratio_p10: float | None
    ratio_p90: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """All engines of one interleaved measurement; the first is the one that ratios refer to."""

    timings: tuple[Timing, ...]
    rounds: int
    quiet_rounds: int
    peak_gflops: float


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    repeat: int,
    *,
    probe: Callable[[], float],
    seed: int = 0,
    limit_seconds: float | None = None,
) -> Comparison:
    """Time `calls` in turn, in random order in each of `repeat` rounds, probes around every turn.

    Args:
        limit_seconds: stop early (after at least 5 rounds) when this much time has passed.
    """
    inner = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        inner[name] = max(1, int(LEAST_SECONDS / max(time.perf_counter() - start, 1e-7)))
    order, rng = list(calls), random.Random(seed)
    rounds: list[tuple[float, dict[str, float]]] = []
    began = time.perf_counter()
    for number in range(repeat):
        if limit_seconds is not None and number >= 5 and time.perf_counter() - began > limit_seconds:
            break
        rng.shuffle(order)
        times: dict[str, float] = {}
        probes = []
        for name in order:
            probes.append(best_of(probe))
            count = inner[name]
            for _ in range(max(count, 2)):
                calls[name]()  # caches and threads are this engine's again
            start = time.perf_counter()
            for _ in range(count):
                calls[name]()
            times[name] = (time.perf_counter() - start) / count
        probes.append(best_of(probe))
        rounds.append((min(probes), times))
    best = max(speed for speed, _ in rounds)
    quiet = [times for speed, times in rounds if speed >= QUIET * best]
    if len(quiet) < 3:
        quiet = [times for _, times in sorted(rounds, key=lambda entry: -entry[0])[: max(3, len(rounds) // 4)]]
    first = next(iter(calls))
    timings = tuple(_timing(name, first, quiet) for name in calls)
    return Comparison(timings, len(rounds), len(quiet), best / 1e9)


def best_of(probe: Callable[[], float]) -> float:
    """The best that `probe` tells within `PROBE_SECONDS`."""
    end = time.perf_counter() + PROBE_SECONDS
    best = probe()
    while time.perf_counter() < end:
        best = max(best, probe())
    return best


def _timing(name: str, first: str, rounds: Sequence[Mapping[str, float]]) -> Timing:
    times = [entry[name] for entry in rounds]
    ratios = None if name == first else [entry[first] / entry[name] for entry in rounds]
    middle, low, high = (None, None, None) if ratios is None else (quantile(ratios, q) for q in (0.5, 0.1, 0.9))
    median = statistics.median(times)
    return Timing(name, median, quantile(times, 0.1), quantile(times, 0.9), min(times), middle, low, high)


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, between neighbours."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True)
class Cost:
    """An engine in a fresh process: time until ready and of the first call; memory at most, and before loading."""

    load_seconds: float
    first_call_seconds: float
    peak_bytes: int
    base_bytes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def cost(engine: str, model: Path, inputs: Path, threads: int | None, cache: Path | None = None) -> Cost:
    """What `engine` costs in a fresh process that loads `model` and calls it twice on the arrays of `inputs` (.npz).

    Raises:
        InputProblem: the process failed; its last line says why.
    """
    command = [sys.executable, "-m", "ds_compiler.cli.measure", engine, str(model), str(inputs), str(threads or 0)]
    environment = dict(os.environ)
    if cache is not None:
        environment["DSC_CACHE_DIR"] = str(cache)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise InputProblem(f"measuring {engine} in its own process failed: {last[0]}")
    return Cost(**json.loads(done.stdout))


def costs(
    engines: Sequence[str], ours: str, model: Path, feeds: Mapping[str, Any], threads: int | None
) -> dict[str, Cost]:
    """`cost` of each engine; ours twice, with an empty compile cache (``cold``) and then a filled one."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as folder:
        inputs, cache = Path(folder) / "inputs.npz", Path(folder) / "cache"
        np.savez(inputs, **feeds)
        found = {f"{ours} cold": cost(ours, model, inputs, threads, cache)}
        for engine in engines:
            found[engine] = cost(engine, model, inputs, threads, cache)
    return found


def process_bytes(field: str) -> int:
    """A size in bytes from the kernel's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def main(engine: str, model: str, inputs: str, threads: str) -> None:
    """The fresh process."""
    import ds_compiler  # noqa: F401  (the package itself is not what loading a model costs)
    from ds_compiler.cli import engines
    from ds_compiler.cli.inputs import load_archive

    feeds = load_archive(Path(inputs))
    base = process_bytes("VmHWM")
    start = time.perf_counter()
    run = engines.load(engine, Path(model), int(threads) or None)
    loaded = time.perf_counter()
    run(feeds)
    called = time.perf_counter()
    run(feeds)
    print(json.dumps(asdict(Cost(loaded - start, called - loaded, process_bytes("VmHWM"), base))))


if __name__ == "__main__":
    main(*sys.argv[1:])
