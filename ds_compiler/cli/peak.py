"""A probe of the speed of one core right now: a loop of independent multiply-adds.

Timings on a shared machine are only worth something if the core was free; the probe runs before, between and
after them, and rounds during which it was slow are set aside.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import numpy as np

CHAINS = 12
"""Independent sums: more than a core has multiply-adds in flight."""
ITERATIONS = 20_000


def peak_probe() -> Callable[[], float]:
    """A function that measures single-precision FLOP/s of multiply-adds on the calling core, in about 0.1 ms."""
    from ds_compiler.backends.llvm.builder import ModuleBuilder, vector_of
    from ds_compiler.backends.llvm.compile import generate
    from ds_compiler.backends.llvm.target import host
    from ds_compiler.runtime.elf import LoadedObject

    target = host()
    module, lanes = ModuleBuilder(target.triple), target.lanes("float")
    builder = module.function("peak", [("ptr", "p"), ("i64", "n")])
    x = builder.load(vector_of("float", lanes), builder.args[0], align=4)
    with builder.loop(builder.i64(0), builder.args[1], carried=[x] * CHAINS) as loop:
        loop.carry(*(builder.intrinsic("fmuladd", x, x, total) for total in loop.carried))
    total = loop.results[0]
    for value in loop.results[1:]:
        total = builder.fadd(total, value)
    builder.store(total, builder.args[0], align=4)
    builder.ret()
    builder.finish()
    loaded = LoadedObject(generate(module.text(), target))
    call = loaded.function("peak", None, ctypes.c_void_p, ctypes.c_int64)
    data = np.empty(lanes, np.float32)

    def probe(_keep: LoadedObject = loaded) -> float:
        data[:] = 1e-3
        start = time.perf_counter()
        call(data.ctypes.data, ITERATIONS)
        return ITERATIONS * CHAINS * lanes * 2 / (time.perf_counter() - start)

    return probe
