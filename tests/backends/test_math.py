"""Elementary functions against NumPy in higher precision: all exponents of float32, and special values."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np
import pytest

from ds_compiler.backends.llvm import math
from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V, vector_of
from tests.backends.jit import compile_module

Emit = Callable[..., V]
TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@functools.cache
def native(emit: Emit, operands: int, element: str, lanes: int) -> Callable[..., None]:
    """``f(n, out, in...)`` applying `emit` to `n` (a multiple of `lanes`) elements."""
    module = ModuleBuilder()
    names = [f"a{i}" for i in range(operands)]
    fb: FunctionBuilder = module.function("apply", [("i64", "n"), ("ptr", "out"), *(("ptr", a) for a in names)])
    n, out, *inputs = fb.args
    type_ = vector_of(element, lanes)
    with fb.loop(fb.i64(0), n, max(lanes, 1)) as loop:
        values = [fb.load(type_, fb.gep(element, p, loop.index)) for p in inputs]
        fb.store(emit(fb, *values), fb.gep(element, out, loop.index))
    fb.ret()
    fb.finish()
    return compile_module(module.text()).function("apply", [ctypes.c_int64] + [ctypes.c_void_p] * (operands + 1))


def apply(emit: Emit, *arrays: np.ndarray, lanes: int = 8) -> np.ndarray:
    """`emit` on whole arrays, padded to a multiple of the lanes."""
    dtype = arrays[0].dtype
    n = arrays[0].size
    padded = [np.concatenate([a, np.ones(-n % 16, dtype)]) for a in arrays]
    out = np.empty_like(padded[0])
    native(emit, len(arrays), TYPES[dtype], lanes)(out.size, out.ctypes.data, *(p.ctypes.data for p in padded))
    return out[:n]


def float32_sweep(count: int = 1_000_000) -> np.ndarray:
    """Finite float32 values evenly spread over all bit patterns, both signs, subnormals included."""
    positive = np.linspace(0, 0x7F7FFFFF, count // 2, dtype=np.int64).astype(np.uint32).view(np.float32)
    return np.concatenate([positive, -positive])


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance from the exact value in ulps of the result type; 0 where both are the same special value."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        distance = np.abs(got.astype(want.dtype) - want) / np.spacing(np.abs(rounded)).astype(want.dtype)
        # Next to overflow "inf" and the largest number are one step apart.
        return np.where(same, 0, np.where(np.isnan(distance), np.inf, distance)).astype(np.float64)


def check(emit: Emit, reference: Callable[..., np.ndarray], x: np.ndarray, bound: float, *more: np.ndarray) -> None:
    wide = np.float64 if x.dtype == np.float32 else np.longdouble
    with np.errstate(all="ignore"):
        want = reference(*(a.astype(wide) for a in (x, *more)))
    distance = ulps(apply(emit, x, *more), want)
    worst = int(distance.argmax())
    arguments = ", ".join(repr(a[worst]) for a in (x, *more))
    assert distance[worst] <= bound, f"{emit.__name__}({arguments}): {distance[worst]:.2f} ulp > {bound}"


@pytest.mark.parametrize(("name", "bound"), [("exp", 1.0)])
def test_float32(name: str, bound: float) -> None:
    check(getattr(math, name), getattr(np, name), float32_sweep(), bound)
    check(getattr(math, name), getattr(np, name), np.linspace(-110, 110, 300_000, dtype=np.float32), bound)
