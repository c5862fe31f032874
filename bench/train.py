"""Steps of training (forward, backward, AdamW) against PyTorch, in turns on the same batches.

    python -m bench.train                         # all networks, 1 and 2 threads, against torch eager
    python -m bench.train mlp --threads 1 --compile   # torch.compile too (it needs a C++ compiler)

Each measurement runs in a process of its own. Results go to ``bench/results/training/steps.json``. The first
step's time is that of everything until its result is there, with an empty compile cache and with a filled one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "training" / "steps.json"  # not beside the models', which `tables` reads
RATE = 1e-3


def main(argv: list[str] | None = None) -> int:
    from bench.networks import CASES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"networks ({', '.join(CASES)})")
    parser.add_argument("--threads", default="1,2", help="numbers of threads [1,2]")
    parser.add_argument("--repeat", type=int, default=30, help="rounds [30]")
    parser.add_argument("--limit", type=float, default=30, help="seconds of rounds for each measurement [30]")
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.networks if name not in CASES]
    if unknown:
        parser.error(f"no network {unknown[0]!r}; there are: {', '.join(CASES)}")
    counts = [int(count) for count in arguments.threads.split(",")]
    if arguments.one:
        print(json.dumps(measure(arguments.networks[0], counts[0], arguments)))
        return 0
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in arguments.networks or CASES:
        for count in counts:
            command = [sys.executable, "-m", "bench.train", name, "--one", f"--threads={count}"]
            command += [f"--repeat={arguments.repeat}", f"--limit={arguments.limit}"]
            command += ["--compile"] if arguments.compile else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            entry = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(name, {})[str(count)] = entry
            print(f"{name}, {count} thread{'s' if count > 1 else ''}: {summary(entry)}", flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def summary(entry: dict[str, Any]) -> str:
    """One measurement in one line."""
    parts = [
        f"{t['engine']} {1e3 * t['median']:.2f} ms" + (f" (ratio {t['ratio']:.2f})" if t["ratio"] else "")
        for t in entry["timings"]
    ]
    first = entry["first_seconds"]
    parts.append("first step " + ", ".join(f"{name} {value:.2f} s" for name, value in first.items()))
    return "; ".join([*parts, f"{entry['peak_gflops_one_core']:.0f} GFLOP/s on one core"])


def measure(name: str, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of all engines, in turns."""
    import torch

    from bench.networks import CASES, twin
    from ds_compiler.cli.measure import interleave
    from ds_compiler.cli.peak import peak_probe

    torch.set_num_threads(threads)
    case = CASES[name]
    batches = [case.batch(index) for index in range(8)]
    first: dict[str, float] = {}

    def begin(engine: str, make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
        start = time.perf_counter()
        call = make()
        call()
        first[engine] = time.perf_counter() - start
        return call

    model = case.make()
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as cache:
        begin("ds_compiler cold", lambda: our_step(model, batches, threads, cache))
        calls["ds_compiler"] = begin("ds_compiler cached", lambda: our_step(model, batches, threads, cache))
    calls["torch"] = begin("torch", lambda: torch_step(twin(case, model), batches))
    if arguments.compile:
        calls["torch.compile"] = begin("torch.compile", lambda: torch_step(torch.compile(twin(case, model)), batches))
    comparison = interleave(calls, arguments.repeat, probe=peak_probe(), limit_seconds=arguments.limit)
    return {
        "threads": threads,
        "timings": [t.as_json() for t in comparison.timings],
        "first_seconds": first,
        "rounds": comparison.rounds,
        "quiet_rounds": comparison.quiet_rounds,
        "peak_gflops_one_core": comparison.peak_gflops,
        "torch_version": torch.__version__,
    }


def our_step(model: Any, batches: Any, threads: int, cache: str) -> Callable[[], Any]:
    """One step after another, on our side."""
    import ds_compiler as ds
    from bench.networks import loss_of

    optimizer = ds.optim.AdamW(RATE)

    @ds.compile(threads=threads, donate=("model", "state"), cache=cache)
    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = ds.value_and_grad(loss_of)(model, x, y)
        model, state = optimizer.update(model, grads, state)
        return model, state, loss

    own = model.replace({name: array.copy() for name, array in model.state_dict().items()})  # donated arrays change
    held = {"model": own, "state": optimizer.init(model), "count": 0}

    def call() -> float:
        x, y = batches[held["count"] % len(batches)]
        held["count"] += 1
        held["model"], held["state"], loss = step(held["model"], held["state"], x, y)
        return float(loss)

    return call


def torch_step(model: Any, batches: Any) -> Callable[[], Any]:
    """One step after another, on PyTorch's side."""
    import torch

    from bench.networks import torch_loss

    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    tensors = [(torch.tensor(x), torch.tensor(y)) for x, y in batches]
    count = 0

    def call() -> float:
        nonlocal count
        x, y = tensors[count % len(tensors)]
        count += 1
        loss = torch_loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return call


if __name__ == "__main__":
    sys.exit(main())
