"""Stores of a few values side by side (nearest upscaling, pixel shuffle) against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.backends.llvm.interleaved import find_interleaving
from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Binary, Broadcast, Cast, Fusion, Reshape, Transpose, Unary
from ds_compiler.passes.fuse import fuse
from tests.backends.programs import check_program
from tests.passes.helpers import const, module_of, tensor


def enlarged(b: Builder, x: Value, times: int) -> Value:
    n, c, h, w = x.type.shape
    return b.emit(Broadcast(x, (n, c, h, times, w, times), (0, 1, 2, 4)))


def shuffled(b: Builder, x: Value, times: int) -> Value:
    """Pixel shuffle of ``[n, times * times * c, h, w]``."""
    n, c, h, w = x.type.shape
    assert isinstance(c, int)
    parts = b.emit(Reshape(x, (n, c // times**2, times, times, h, w)))
    return b.emit(Transpose(parts, (0, 1, 4, 2, 5, 3)))


def interleaves(module: Module) -> bool:
    fused = module.clone()
    fuse(fused)
    (kernel,) = [lower_loops(op) for op in fused.main.walk() if isinstance(op, Fusion)]
    return all(find_interleaving(nest) is not None for nest in collapse(kernel).nests)


@pytest.mark.parametrize("times", [2, 3, 4, 5, 8])
def test_nearest_at_run_time_sizes(times: int) -> None:
    module = module_of(lambda b, x: enlarged(b, x, times), "n 3 h w")
    assert interleaves(module)
    check_program(module, *({"n": n, "h": h, "w": w} for n, h, w in [(1, 2, 1), (2, 3, 8), (1, 5, 13), (1, 2, 1030)]))


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "u8", "i64"])
@pytest.mark.parametrize("shape", ["1 3 4 16", "2 5 3 7", "1 2 3 2053"])
def test_nearest_at_fixed_sizes(dtype: str, shape: str) -> None:
    module = module_of(lambda b, x: enlarged(b, x, 2), tensor(shape, dtype))
    assert interleaves(module)
    check_program(module)


@pytest.mark.parametrize("times, channels", [(2, 8), (3, 18), (4, 16)])
def test_pixel_shuffle(times: int, channels: int) -> None:
    module = module_of(lambda b, x: shuffled(b, x, times), f"n {channels} h w")
    assert interleaves(module)
    check_program(module, *({"n": n, "h": h, "w": w} for n, h, w in [(1, 3, 5), (2, 4, 24), (1, 2, 1031)]))


def test_elementwise_operations_between() -> None:
    def build(b: Builder, x: Value, y: Value) -> Value:
        big = enlarged(b, x, 2)
        bias = b.emit(Broadcast(const(b, np.arange(3.0)), big.type.shape, (1,)))
        fine = b.emit(Reshape(y, big.type.shape))
        return b.emit(Binary(b.emit(Unary(b.emit(Binary(big, bias, "add")), "tanh")), fine, "mul"))

    check_program(module_of(build, "1 3 4 21", "1 3 8 42"))


def test_results_of_another_type() -> None:
    module = module_of(lambda b, x: b.emit(Cast(enlarged(b, x, 2), tensor("", "f32").dtype)), tensor("1 3 4 21", "u8"))
    check_program(module)


def test_a_long_inner_axis_is_left_to_loops() -> None:
    assert not interleaves(module_of(lambda b, x: enlarged(b, x, 9), "1 3 4 16"))
