"""Run a module kernel by kernel in tests: fuse, compile each fusion on its own, call it on NumPy arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ds_compiler.backends.llvm.builder import ModuleBuilder
from ds_compiler.backends.llvm.kernels import emit_kernel
from ds_compiler.backends.llvm.target import Target, host
from ds_compiler.ir import Function, Module, Value
from ds_compiler.ir.dims import evaluate
from ds_compiler.ops import Constant, Fusion, Reshape, Size
from ds_compiler.passes.fuse import fuse
from tests.backends.jit import compile_module

Array = np.ndarray[Any, Any]


def run_fused(module: Module, inputs: list[Array], *, tasks: int = 1, target: Target | None = None) -> list[Array]:
    """Fuse `module` (in place) and run its main function."""
    fuse(module)
    function: Function = module.main
    sizes: dict[str, int] = {}
    for argument, array in zip(function.arguments, inputs, strict=True):
        for dim, size in zip(argument.type.shape, array.shape, strict=True):
            if not isinstance(dim, int) and str(dim).isidentifier():
                sizes[str(dim)] = size
    values: dict[Value, Array] = dict(zip(function.arguments, inputs))
    for op in function.block:
        match op:
            case Constant() | Size() | Reshape():
                values[op.result] = np.ascontiguousarray(op.evaluate(sizes, *(values[o] for o in op.operands)))
            case Fusion():
                for result, array in zip(
                    op.results, run_kernel(op, [values[i] for i in op.inputs], sizes, tasks, target)
                ):
                    values[result] = array
            case _ if op.is_terminator:
                return [values[v] for v in op.operands]
            case _:
                raise NotImplementedError(op.mnemonic)
    raise AssertionError("no return")


def run_kernel(
    fusion: Fusion, inputs: list[Array], sizes: dict[str, int], tasks: int = 1, target: Target | None = None
) -> list[Array]:
    """Compile and call the kernel of one fusion, once for each task."""
    target = target or host()
    builder = ModuleBuilder()
    info = emit_kernel(builder, "kernel", fusion, target)
    # The kernel is internal: an exported wrapper passes everything on.
    parameters = [("ptr", "arguments"), ("ptr", "scratch"), ("i64", "task"), ("i64", "tasks")]
    fb = builder.function("entry", parameters)
    fb.call("kernel", "void", *fb.args)
    fb.ret()
    fb.finish()
    text = builder.text()
    compiled = compile_module(text, target)
    arrays = [
        np.ascontiguousarray(info.packed[n](a)) if n in info.packed else np.ascontiguousarray(a)
        for n, a in enumerate(inputs)
    ]
    results = [np.full([evaluate(d, sizes) for d in r.type.shape], 77, r.type.dtype.numpy) for r in fusion.results]
    scratch = np.zeros(info.scratch_bytes + 64, np.uint8)
    address = (scratch.ctypes.data + 63) // 64 * 64
    call = compiled.function("entry", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64])
    words = [*(a.ctypes.data for a in (*arrays, *results)), *(sizes[s] for s in info.symbols)]
    arguments = (ctypes.c_int64 * len(words))(*words)
    for task in range(tasks if info.parallel else 1):
        call(ctypes.addressof(arguments), address, task, tasks if info.parallel else 1)
    return results
