"""Memory of a training step, ours and PyTorch's: what a process holds at most during one, above what it held before.

Each engine runs in a process of its own. There it first trains a small network, which loads all libraries, and lets go
of it; its resident memory is then the baseline. The network is built (initial weights and the engine's copy of them,
AdamW's state, ours with a filled compile cache) and takes three steps; the kernel's mark of the largest resident memory
(VmHWM) is set back, and what that mark says after five more steps, less the baseline, is the result. It counts weights,
AdamW's state, gradients and all that lives during a step, whoever allocated it: no allocator is asked. Inductor and JAX
are not measured: what their compilers leave in the process would be counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from bench.networks import CASES
from bench.training_engines import Step, ours, torch_step
from bench.training_table import OURS
from ds_compiler.cli.measure import process_bytes

ENGINES = (OURS, "torch")
WARM_UP = "mlp"


def peak_bytes(name: str, engine: str, threads: int, cache: str) -> int:
    """What a step of the network `name` takes.

    Args:
        engine: of `ENGINES`.
        cache: a folder for our compile cache.
    """
    command = [sys.executable, "-m", "bench.training_memory", name, engine, str(threads), cache]
    runs = 2 if engine == OURS else 1  # what the compiler leaves in its process is not the step's
    for _ in range(runs):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, engine: str, threads: int, cache: str) -> int:
    """In a process of its own: see above."""
    import torch

    torch.set_num_threads(threads)
    _steps(_begin(engine, WARM_UP, threads, cache), 4)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = process_bytes("VmRSS")
    step = _begin(engine, name, threads, cache)
    _steps(step, 3)
    Path("/proc/self/clear_refs").write_text("5")
    _steps(step, 5)
    return process_bytes("VmHWM") - before


def _begin(engine: str, name: str, threads: int, cache: str) -> Step:
    case = CASES[name]
    model, batches = case.make(), [case.batch(0)]
    return ours(name, model, batches, threads, cache) if engine == OURS else torch_step(name, model, batches)


def _steps(step: Step, count: int) -> None:
    for _ in range(count):
        step()


if __name__ == "__main__":
    name, engine, threads, cache = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    print(json.dumps(measure(name, engine, int(threads), cache)))
