"""Nanoseconds an element of the generated elementary functions against NumPy's, in cache, one thread.

Run ``python -m bench.vector_math [--json FILE]``. Each figure is the best of interleaved repetitions.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from ds_compiler.backends.llvm import math
from ds_compiler.backends.llvm.builder import ModuleBuilder, V, vector_of
from ds_compiler.backends.llvm.target import host

ELEMENTS = 2048
REPETITIONS = 20
# Passes over the arrays inside one native call, so that the call through ctypes (1 us) does not count.
PASSES = 32

# Name, number of operands, NumPy's way to compute it (None: NumPy has none), interval of the operands.
FUNCTIONS: list[tuple[str, int, Callable[..., Any] | None, float, float]] = [
    ("exp", 1, np.exp, -20, 20),
    ("expm1", 1, np.expm1, -5, 5),
    ("sigmoid", 1, lambda x: 1 / (1 + np.exp(-x)), -20, 20),
    ("tanh", 1, np.tanh, -6, 6),
    ("erf", 1, None, -4, 4),
    ("gelu_erf", 1, None, -4, 4),
    ("log", 1, np.log, 0.01, 100),
    ("log2", 1, np.log2, 0.01, 100),
    ("log1p", 1, np.log1p, -0.5, 5),
    ("sin", 1, np.sin, -10, 10),
    ("cos", 1, np.cos, -10, 10),
    ("tan", 1, np.tan, -10, 10),
    ("asin", 1, np.arcsin, -1, 1),
    ("acos", 1, np.arccos, -1, 1),
    ("atan", 1, np.arctan, -5, 5),
    ("atan2", 2, np.arctan2, -5, 5),
    ("sinh", 1, np.sinh, -5, 5),
    ("cosh", 1, np.cosh, -5, 5),
    ("asinh", 1, np.arcsinh, -5, 5),
    ("acosh", 1, np.arccosh, 1, 5),
    ("atanh", 1, np.arctanh, -0.9, 0.9),
    ("pow", 2, np.power, 0.1, 5),
    ("rsqrt", 1, lambda x: 1 / np.sqrt(x), 0.01, 100),
]


def _kernel(name: str, operands: int, element: str, lanes: int) -> tuple[Callable[..., None], Any]:
    """The compiled loop over arrays and the engine that owns it."""
    module = ModuleBuilder()
    names = [f"a{i}" for i in range(operands)]
    fb = module.function("apply", [("i64", "n"), ("ptr", "out"), *(("ptr", a) for a in names)])
    n, out, *inputs = fb.args
    type_ = vector_of(element, lanes)
    with fb.loop(fb.i64(0), fb.i64(PASSES)), fb.loop(fb.i64(0), n, lanes) as loop:
        values: list[V] = [fb.load(type_, fb.gep(element, p, loop.index)) for p in inputs]
        fb.store(getattr(math, name)(fb, *values), fb.gep(element, out, loop.index))
    fb.ret()
    fb.finish()
    machine = host().machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(module.text()), machine)
    engine.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (operands + 1))
    return prototype(engine.get_function_address("apply")), engine


def measure(name: str, operands: int, numpy: Callable[..., Any] | None, low: float, high: float, element: str) -> Any:
    """ns an element: ours with one and with two registers a step, and NumPy's."""
    dtype = np.float32 if element == "float" else np.float64
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(low, high, ELEMENTS).astype(dtype) for _ in range(operands)]
    out = np.empty(ELEMENTS, dtype)
    pointers = [a.ctypes.data for a in (out, *inputs)]
    lanes = host().lanes(element)
    ours = [_kernel(name, operands, element, lanes * k) for k in (1, 2)]
    runs: dict[str, Callable[[], Any]] = {
        f"x{k}": lambda f=f: f(ELEMENTS, *pointers)  # type: ignore[misc]
        for k, (f, _) in zip((1, 2), ours)
    }
    if numpy is not None:
        runs["numpy"] = lambda: numpy(*inputs)
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(REPETITIONS):
        for label, run in runs.items():
            start = time.perf_counter_ns()
            run()
            passes = 1 if label == "numpy" else PASSES
            best[label] = min(best[label], (time.perf_counter_ns() - start) / passes)
    return {label: t / ELEMENTS for label, t in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", nargs="*", help="functions to measure")
    arguments = parser.parse_args()
    rows = {}
    print(f"{host().cpu}, {host().vector_bits}-bit vectors; ns an element\n")
    print("function   type     1 register  2 registers    numpy")
    for name, operands, numpy, low, high in FUNCTIONS:
        if arguments.only and name not in arguments.only:
            continue
        for element in ("float", "double"):
            row = measure(name, operands, numpy, low, high, element)
            rows[f"{name}/{element}"] = row
            reference = f"{row['numpy']:8.2f}" if "numpy" in row else "       -"
            print(f"{name:10} {element:8} {row['x1']:10.2f}  {row['x2']:11.2f} {reference}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
