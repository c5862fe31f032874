"""Steps of training (forward, backward, AdamW) against PyTorch, Inductor and JAX, in turns on the same batches.

    python -m bench.train                                    # all networks, 1 and 2 threads, what is installed
    python -m bench.train mlp --threads 1 --against torch    # one

Each measurement runs in a process of its own, on as many cores as there are threads: not every engine can be told.
Results go to ``bench/results/training/steps.json``, from which `bench.tables` makes its table. The first step's time is
that of everything until its result is there; ours with an empty compile cache and with a filled one. What memory a step
takes is measured in other processes, see `training_memory`.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import tables
from bench.networks import CASES
from bench.training_engines import PEERS, available, ours
from bench.training_memory import ENGINES, peak_bytes
from bench.training_table import OURS

RESULTS = Path(__file__).parent / "results" / "training" / "steps.json"  # not beside the models', which `tables` reads
STEPS = 10
"""How many losses of each engine are compared."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"networks ({', '.join(CASES)})")
    parser.add_argument("--threads", default="1,2", help="numbers of threads [1,2]")
    parser.add_argument("--repeat", type=int, default=30, help="rounds [30]")
    parser.add_argument("--limit", type=float, default=30, help="seconds of rounds for each measurement [30]")
    parser.add_argument("--against", help=f"other engines [those that are installed of {','.join(PEERS)}]")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.networks if name not in CASES]
    if unknown:
        parser.error(f"no network {unknown[0]!r}; there are: {', '.join(CASES)}")
    peers = available() if arguments.against is None else arguments.against.split(",")
    if missing := [name for name in peers if name not in available()]:
        parser.error(f"no engine {missing[0]!r}; installed are: {', '.join(available())}")
    counts = [int(count) for count in arguments.threads.split(",")]
    if arguments.one:
        print(json.dumps(measure(arguments.networks[0], counts[0], peers, arguments)))
        return 0
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in arguments.networks or CASES:
        for count in counts:
            command = [sys.executable, "-m", "bench.train", name, "--one", f"--threads={count}"]
            command += [f"--repeat={arguments.repeat}", f"--limit={arguments.limit}"]
            command += [f"--against={','.join(peers)}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            entry = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(name, {})[str(count)] = entry
            print(f"{name}, {count} thread{'s' if count > 1 else ''}: {summary(entry)}", flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    tables.write(RESULTS.parent.parent)
    return 0


def summary(entry: dict[str, Any]) -> str:
    """One measurement in one line."""
    parts = [
        f"{t['engine']} {1e3 * t['median']:.2f} ms" + (f" (ratio {t['ratio']:.2f})" if t["ratio"] else "")
        for t in entry["timings"]
    ]
    first, apart = entry["first_seconds"], entry["loss_difference"]
    parts.append("first step " + ", ".join(f"{name} {value:.2f} s" for name, value in first.items()))
    parts.append("memory " + ", ".join(f"{name} {b / 2**20:.0f} MiB" for name, b in entry["peak_bytes"].items()))
    parts.append("losses apart " + ", ".join(f"{name} {value:.1g}" for name, value in apart.items()))
    return "; ".join([*parts, f"{entry['peak_gflops_one_core']:.0f} GFLOP/s on one core"])


def measure(name: str, threads: int, peers: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of all engines, in turns, and the memory of those that `training_memory` measures."""
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as folder:
        confine(threads, folder)
        found = compare(name, threads, peers, arguments, folder)
        measured = [engine for engine in ENGINES if engine in (OURS, *peers)]
        found["peak_bytes"] = {engine: peak_bytes(name, engine, threads, f"{folder}/ours") for engine in measured}
        return found


def confine(threads: int, folder: str) -> None:
    """Keep this process to `threads` cores, and Inductor's cache, empty, in `folder`; before engines are imported."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.update({"NPROC": str(threads), "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": folder})
    if threads == 1:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()


def compare(name: str, threads: int, peers: list[str], arguments: argparse.Namespace, cache: str) -> dict[str, Any]:
    import torch

    from ds_compiler.cli.bench import machine
    from ds_compiler.cli.measure import interleave
    from ds_compiler.cli.peak import peak_probe

    torch.set_num_threads(threads)
    case = CASES[name]
    model, batches = case.make(), [case.batch(index) for index in range(8)]
    first: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], float]] = {}

    def begin(engine: str, make: Callable[[], Callable[[], float]], label: str = "") -> None:
        start = time.perf_counter()
        calls[engine] = call = make()
        losses[engine] = [call()]
        first[label or engine] = time.perf_counter() - start
        losses[engine] += [call() for _ in range(STEPS - 1)]

    for label in ("ds_compiler cold", "ds_compiler cached"):
        begin("ds_compiler", lambda: ours(name, model, batches, threads, f"{cache}/ours"), label)
    for peer in peers:
        begin(peer, functools.partial(PEERS[peer], name, model, batches))
    comparison = interleave(calls, arguments.repeat, probe=peak_probe(), limit_seconds=arguments.limit)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "threads": threads,
        "timings": [t.as_json() for t in comparison.timings],
        "first_seconds": first,
        "loss_difference": {peer: apart(losses["ds_compiler"], losses[peer]) for peer in peers},
        "rounds": comparison.rounds,
        "quiet_rounds": comparison.quiet_rounds,
        "peak_gflops_one_core": comparison.peak_gflops,
        "versions": {package: version(package) for package in ("ds_compiler", *roots(peers))},
    }


def roots(peers: list[str]) -> list[str]:
    """The packages of engines."""
    return list(dict.fromkeys(peer.split(".")[0] for peer in peers))


def apart(a: list[float], b: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    sys.exit(main())
