"""Compile whole modules in tests and compare them with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ds_compiler.backends.llvm.compile import Compiled, compile_module
from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.backends.llvm.target import host
from ds_compiler.ir import Module
from ds_compiler.passes.fuse import fuse
from ds_compiler.runtime import Executable
from ds_compiler.runtime.threads import pool, pool_code
from tests.passes.helpers import random_inputs
from tests.passes.interpreting import interpret

STRESSED = 7
Array = np.ndarray[Any, Any]


def compiled(module: Module, max_ops: int = 64) -> tuple[Module, Compiled]:
    """A fused copy of `module`, compiled; its memory plan is checked for overlaps."""
    fused = module.clone()
    fuse(fused, max_ops=max_ops)
    result = compile_module(fused, host())
    for value in (1, 7, 1000):
        assert result.plan.overlaps({s.name: value for s in result.manifest.symbols}) == []
    return fused, result


def executable(result: Compiled, threads: int = 1) -> Executable:
    return Executable(result.program, result.manifest, result.constants, pool_object=pool_object(), threads=threads)


def check_program(
    module: Module,
    *sizes: dict[str, int],
    inputs: Sequence[Array] | None = None,
    threads: Sequence[int] = (1, 2, 3, STRESSED),
    max_ops: int = 64,
    rtol: float = 1e-5,
) -> Compiled:
    """One compilation must agree with the interpreter for all `sizes` and thread counts.

    `STRESSED` threads share all work whose size is symbolic, however small, and workers pause at random.
    """
    pool(pool_code(pool_object()), STRESSED).stress(20e-6)
    _, result = compiled(module, max_ops)
    runs = {count: executable(result, count) for count in threads}
    for number, values in enumerate(sizes or ({},)):
        arrays = random_inputs(module, values, seed=number) if inputs is None else inputs
        expected = interpret(module, arrays)
        for run in runs.values():
            for _ in range(2):  # the second call finds the first one's arena
                got = list(run(*[a.copy() for a in arrays]).values()) if arrays else list(run({}).values())
                for ours, reference in zip(got, expected, strict=True):
                    assert ours.dtype == reference.dtype and ours.shape == reference.shape
                    np.testing.assert_allclose(ours, reference, rtol=rtol, atol=1e-5, err_msg=f"{run.threads} threads")
    return result
