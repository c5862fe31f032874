"""Matrix products of the CPU back end against NumPy's BLAS, one thread, as a share of the measured FMA peak.

    OPENBLAS_NUM_THREADS=1 python -m bench.gemm [--json out.json] [--rounds N] [SHAPE ...]

A shape is MxNxK or BATCHxMxNxK, with optional suffixes: ``:rows`` or ``:columns`` for a run-time B (the
default is packed weights), ``:ta`` for an A whose columns are contiguous, ``:m`` for a run-time m, ``:mnk`` for all
extents at run time. ``--training`` times the products of a transformer's training step instead: forward (B is a weight
[n, k]), then the gradients of inputs and of weights.
Each round times both engines in turn, by this thread's CPU time, between two peak probes; rounds whose probes fall
behind the best are dropped (a shared core), and medians of the rest are reported.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ds_compiler.backends.llvm.builder import ModuleBuilder, vector_of
from ds_compiler.backends.llvm.matmul import packed_width
from ds_compiler.backends.llvm.packing import pack_b
from ds_compiler.backends.llvm.target import host
from tests.backends.jit import compile_module
from tests.backends.products import Case, aligned, compile_product

SHAPES = [
    "64x64x64", "256x256x256", "512x512x512", "1024x1024x1024", "128x768x768", "128x3072x768", "128x768x3072",
    "197x768x768", "3136x64x576", "50x1000x2048", "128x768x768:m", "197x768x768:m", "1x768x768", "1x4096x4096",
    "2x768x768", "4x768x768", "8x768x768", "1x768x768:m", "1x768x768:columns", "12x128x128x64:columns",
    "12x128x64x128:rows", "12x128x128x64:columns:mnk", "12x128x64x128:rows:mnk", "1024x1024x1024:rows",
]  # fmt: skip

TRAINING = [
    "1024x768x256:columns", "1024x256x256:columns", "1024x1024x256:columns", "1024x256x1024:columns",
    "1024x256x768:rows", "1024x256x256:rows", "1024x256x1024:rows", "1024x1024x256:rows",
    "768x256x1024:rows:ta", "256x256x1024:rows:ta", "1024x256x1024:rows:ta", "256x1024x1024:rows:ta",
    "64x256x784:columns", "256x784x64:rows:ta",
]  # fmt: skip


@dataclass
class Result:
    """One shape's figures; times in seconds, shares of the peak between 0 and 1."""

    shape: str
    seconds: float
    gflops: float
    share: float
    numpy_seconds: float
    numpy_share: float
    speedup: float
    compile_ms: float


def peak_probe() -> Callable[[], float]:
    """A function that measures FLOP/s of independent multiply-adds on this core."""
    module = ModuleBuilder()
    fb = module.function("peak", [("ptr", "p"), ("i64", "n")])
    lanes, chains = host().lanes("float"), 12
    type_ = vector_of("float", lanes)
    x = fb.load(type_, fb.args[0])
    with fb.loop(fb.i64(0), fb.args[1], carried=[x] * chains) as loop:
        loop.carry(*(fb.intrinsic("fmuladd", x, x, c) for c in loop.carried))
    total = loop.results[0]
    for value in loop.results[1:]:
        total = fb.fadd(total, value)
    fb.store(total, fb.args[0])
    fb.ret()
    fb.finish()
    call = compile_module(module.text()).function("peak", [ctypes.c_void_p, ctypes.c_int64])
    data, count = aligned(16, np.float32, 1e-3), 40_000

    def probe() -> float:
        data[:] = 1e-3
        start = time.thread_time()
        call(data.ctypes.data, count)
        return count * chains * lanes * 2 / (time.thread_time() - start)

    return probe


def parse(shape: str) -> Case:
    """The case that a shape on the command line means."""
    sizes, *flags = shape.split(":")
    extents = [int(x) for x in sizes.split("x")]
    batch, m, n, k = extents if len(extents) == 4 else [1, *extents]
    layout = next((f for f in flags if f in ("rows", "columns")), "packed")
    dynamic = next((f for f in flags if set(f) <= set("mnk")), "")
    a = "columns" if "ta" in flags else "rows"
    return Case(batch, m, n, k, a, layout, constant="".join(c for c in "mnk" if c not in dynamic))


def measure(shape: str, rounds: int, probe: Callable[[], float]) -> Result:
    """Time one shape."""
    case = parse(shape)
    start = time.thread_time()
    call, scratch_bytes = compile_product(case)
    compile_ms = (time.thread_time() - start) * 1e3
    rng = np.random.default_rng(0)
    order = (0, 2, 1) if case.a == "columns" else (0, 1, 2)
    extents = (case.batch, case.m, case.k)
    laid_a = aligned(case.batch * case.m * case.k, "f4").reshape([extents[axis] for axis in order])
    laid_a[:] = rng.standard_normal(laid_a.shape)
    a = laid_a.transpose(order)
    b = rng.standard_normal((case.batch, case.k, case.n)).astype("f4")
    if case.b == "packed":
        laid = pack_b(b, packed_width(host(), case.n if "n" in case.constant else None))
    else:
        laid = np.ascontiguousarray(b.swapaxes(1, 2)) if case.b == "columns" else b
    right = aligned(laid.size, "f4")
    right[:] = laid.ravel()
    out = aligned(case.batch * case.m * case.n, "f4")
    scratch, bias = aligned(scratch_bytes // 4 + 16, "f4"), aligned(case.n, "f4")
    other = laid.swapaxes(1, 2) if case.b == "columns" else b
    reference = np.empty((case.batch, case.m, case.n), "f4")
    arguments = (laid_a.ctypes.data, right.ctypes.data, bias.ctypes.data, out.ctypes.data, scratch.ctypes.data)
    sizes = (case.batch, case.m, case.n, case.k, 0, 1)

    flops = 2 * case.batch * case.m * case.n * case.k
    repeat = max(1, int(2e8 // flops))
    best, kept = 0.0, []
    for _ in range(rounds):
        before = probe()
        start = time.thread_time()
        for _ in range(repeat):
            call(*arguments, *sizes)
        ours = (time.thread_time() - start) / repeat
        between = probe()
        start = time.thread_time()
        for _ in range(repeat):
            np.matmul(a, other, out=reference)
        theirs = (time.thread_time() - start) / repeat
        after = probe()
        best = max(best, before, between, after)
        kept.append((min(before, between, after), ours, theirs))
    np.testing.assert_allclose(out.reshape(reference.shape), reference, rtol=2e-3, atol=2e-3)
    quiet = [entry for entry in kept if entry[0] > 0.95 * best] or [max(kept)]
    ours, theirs = (statistics.median(entry[i] for entry in quiet) for i in (1, 2))
    return Result(
        shape, ours, flops / ours / 1e9, flops / ours / best, theirs, flops / theirs / best, theirs / ours, compile_ms
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--training", action="store_true", help="the products of a training step")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    probe = peak_probe()
    print(f"FMA peak {max(probe() for _ in range(20)) / 1e9:.1f} GFLOP/s, {host().cpu}")
    print(f"{'shape':28} {'GFLOP/s':>8} {'of peak':>8} {'NumPy':>8} {'speedup':>8} {'compile':>9}")
    results = []
    for shape in options.shapes or (TRAINING if options.training else SHAPES):
        r = measure(shape, options.rounds, probe)
        results.append(r)
        print(
            f"{shape:28} {r.gflops:8.1f} {r.share:8.1%} {r.numpy_share:8.1%} {r.speedup:7.2f}x {r.compile_ms:6.0f} ms",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
