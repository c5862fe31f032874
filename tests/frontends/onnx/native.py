"""Imported modules through the default passes to machine code, in tests."""

from __future__ import annotations

from ds_compiler.backends.llvm.compile import compile_module
from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.backends.llvm.target import host
from ds_compiler.ir import Module
from ds_compiler.passes.manager import run
from ds_compiler.runtime import Executable


def executables(module: Module, *threads: int) -> list[Executable]:
    """A copy of `module`, optimised and compiled, for each number of threads (2 unless told)."""
    optimised = module.clone()
    run(optimised, "default", verify=True)
    compiled = compile_module(optimised, host())
    return [
        Executable(compiled.program, compiled.manifest, compiled.constants, pool_object=pool_object(), threads=count)
        for count in threads or (2,)
    ]
