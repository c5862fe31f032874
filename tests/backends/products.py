"""Builds and runs one matrix product for tests and the benchmark: a function around `emit_matmul`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V, vector_of
from ds_compiler.backends.llvm.matmul import (
    Epilogue,
    Matrix,
    PackedMatrix,
    emit_matmul,
    matmul_scratch_bytes,
    packed_width,
)
from ds_compiler.backends.llvm.target import Target, host
from tests.backends.jit import compile_module

_PARAMETERS = [("ptr", "a"), ("ptr", "b"), ("ptr", "bias"), ("ptr", "c"), ("ptr", "scratch")]
_SIZES = [("i64", x) for x in ("batch", "m", "n", "k", "task", "tasks")]


@dataclass(frozen=True)
class Case:
    """One product. ``a`` and ``b``: ``rows``, ``columns``, ``strided`` or (b only) ``packed``."""

    batch: int
    m: int
    n: int
    k: int
    a: str = "rows"
    b: str = "packed"
    element: str = "float"
    constant: str = "mnk"  # the extents known to the generator
    shared_b: bool = False
    bias_relu: bool = False
    scratch: bool = True


def epilogue(c: V, bias: V, n: V, m: V, element: str, bias_relu: bool) -> Epilogue:
    """Store C row-major; with `bias_relu` add a bias along n and clamp at zero (NaN stays)."""

    def finish(fb: FunctionBuilder, batch: V, row: V, col: V, lanes: int, mask: V | None, value: V) -> None:
        type_ = vector_of(element, lanes)
        if bias_relu:
            at = fb.gep(element, bias, col)
            value = fb.fadd(value, fb.load(type_, at) if mask is None else fb.masked_load(type_, at, mask))
            negative = fb.fcmp("olt", value, fb.const(type_, 0.0))
            value = fb.select(negative, fb.const(type_, 0.0), value)
        offset = fb.add(fb.mul(fb.add(fb.mul(batch, m), row), n), col)
        at = fb.gep(element, c, offset)
        if mask is None:
            fb.store(value, at)
        else:
            fb.masked_store(value, at, mask)

    return finish


def module_text(case: Case, target: Target | None = None) -> tuple[str, int]:
    """LLVM text of function ``product`` and the scratch bytes that a task needs."""
    target = target or host()
    module = ModuleBuilder()
    fb = module.function("product", [*_PARAMETERS, *_SIZES])
    a, b, bias, c, scratch, batch, m, n, k, task, tasks = fb.args
    known: dict[str, int | None] = {}
    for name, value in (("m", case.m), ("n", case.n), ("k", case.k)):
        known[name] = value if name in case.constant else None
    m, n, k = (v if known[name] is None else fb.i64(known[name] or 0) for name, v in (("m", m), ("n", n), ("k", k)))
    one, zero = fb.i64(1), fb.i64(0)
    right: Matrix | PackedMatrix
    if case.b == "packed":
        nr = packed_width(target, known["n"], case.element)
        size = fb.mul(fb.mul(fb.sdiv(fb.add(n, fb.i64(nr - 1)), fb.i64(nr)), k), fb.i64(nr))
        right = PackedMatrix(b, nr, zero if case.shared_b else size)
    else:
        step = fb.i64(3) if case.b == "strided" else one
        size = zero if case.shared_b else fb.mul(fb.mul(k, n), step)
        rows = case.b != "columns"
        right = Matrix(b, fb.mul(n, step) if rows else one, step if rows else k, size)
    a_step = fb.i64(2) if case.a == "strided" else one
    a_size = fb.mul(fb.mul(m, k), a_step)
    left = Matrix(a, one if case.a == "columns" else fb.mul(k, a_step), m if case.a == "columns" else a_step, a_size)
    emit_matmul(
        fb,
        target,
        batch=batch,
        m=m,
        n=n,
        k=k,
        a=left,
        b=right,
        task=task,
        tasks=tasks,
        scratch=scratch if case.scratch else None,
        epilogue=epilogue(c, bias, n, m, case.element, case.bias_relu),
        element=case.element,
    )
    fb.ret()
    fb.finish()
    if not case.scratch:
        return module.text(), 0
    return module.text(), matmul_scratch_bytes(
        target, **known, b_layout=right.layout, a_layout=left.layout, element=case.element
    )


def aligned(count: int, dtype: Any, fill: float = 0) -> npt.NDArray[Any]:
    """A 64-byte aligned array."""
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array: npt.NDArray[Any] = raw[start : start + count * size].view(dtype)
    array[:] = fill
    return array


def compile_product(case: Case, target: Target | None = None) -> tuple[Callable[..., None], int]:
    """The compiled function (pointers a, b, bias, c, scratch; batch, m, n, k, task, tasks) and its scratch bytes."""
    text, scratch = module_text(case, target)
    arguments = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 6
    return compile_module(text, target).function("product", arguments), scratch
