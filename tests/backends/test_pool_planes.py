"""Pooling over the last axes against the interpreter: one compilation for many sizes, fixed sizes, edges, NaN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Binary, Broadcast, Fusion, ReduceWindow, Unary
from ds_compiler.passes.fuse import fuse
from tests.backends.programs import check_program
from tests.passes.helpers import const, module_of, random_inputs, tensor

Window = tuple[str, *tuple[tuple[int, ...], ...]]

# how, window, strides, low, high, dilations: one entry an axis, all the last ones
_WINDOWS: list[Window] = [
    ("max", (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ("mean_valid", (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ("mean_valid", (3, 2), (2, 3), (2, 0), (1, 1), (1, 1)),
    ("mean", (2, 3), (2, 2), (0, 1), (1, 0), (1, 1)),
    ("sum", (2, 2), (1, 4), (0, 0), (0, 0), (2, 3)),
    ("max", (1, 5), (1, 1), (0, 2), (0, 2), (1, 1)),
    ("mean_valid", (2, 4), (1, 7), (1, 3), (1, 6), (1, 2)),  # a stride that is gathered
    ("max", (11, 2), (1, 2), (5, 0), (5, 1), (1, 1)),  # more rows than are combined at once
    ("max", (6,), (3,), (2,), (4,), (1,)),
    ("mean_valid", (4,), (2,), (3,), (0,), (2,)),
    ("max", (2, 3, 2), (1, 2, 2), (1, 1, 0), (0, 1, 1), (1, 1, 1)),
    ("mean_valid", (3, 3, 3), (2, 1, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
]


def pooling(window: Window) -> Callable[[Builder, Value], Value]:
    how, (taps, strides, low, high, dilations) = window[0], window[1:]

    def build(b: Builder, x: Value) -> Value:
        axes = tuple(range(x.type.rank - len(taps), x.type.rank))
        return b.emit(ReduceWindow(x, axes, taps, strides, low, high, dilations, how))

    return build


def scheduled(module: Module) -> Module:
    """`module`, which must fuse to one pooling kernel."""
    fused = module.clone()
    fuse(fused)
    strategies = [op.strategy for op in fused.main.walk() if isinstance(op, Fusion)]
    assert strategies == ["pool"]
    return module


@pytest.mark.parametrize("window", _WINDOWS, ids=str)
def test_sizes_known_at_run_time(window: Window) -> None:
    rank = len(window[1])
    module = scheduled(module_of(pooling(window), "n 3 " + " ".join("hwd"[:rank])))
    sizes = [(1, 13, 12, 13), (2, 11, 15, 16), (1, 17, 11, 130), (3, 12, 70, 12)]
    check_program(module, *[dict(zip("n" + "hwd"[:rank], (s[0], *s[-rank:]))) for s in sizes], threads=(1, 3))


@pytest.mark.parametrize("window", _WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_fixed_sizes(window: Window, dtype: str) -> None:
    rank = len(window[1])
    shape = "2 3 " + " ".join(("14", "11", "21")[-rank:])
    module = scheduled(module_of(pooling(window), tensor(shape, dtype)))
    check_program(module, threads=(1, 2))


def test_one_window_a_row_reads_the_whole_row() -> None:
    for taps in ((7, 7), (5, 30)):
        window: Window = ("mean_valid", taps, taps, (0, 0), (0, 0), (1, 1))
        check_program(scheduled(module_of(pooling(window), f"2 5 {taps[0]} {taps[1]}")), threads=(1, 2))


def test_long_rows_are_done_in_tiles() -> None:
    window: Window = ("mean_valid", (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    check_program(scheduled(module_of(pooling(window), "1 2 9 301")), threads=(1, 2))


def test_elementwise_operations_follow_in_registers() -> None:
    def build(b: Builder, x: Value, y: Value) -> Value:
        pooled = pooling(_WINDOWS[0])(b, x)
        bias = b.emit(Broadcast(const(b, np.arange(3.0)), pooled.type.shape, (1,)))
        return b.emit(Binary(b.emit(Unary(b.emit(Binary(pooled, bias, "add")), "tanh")), y, "mul"))

    check_program(scheduled(module_of(build, "n 3 14 22", "n 3 7 11")), {"n": 1}, {"n": 4})


@pytest.mark.parametrize("place", range(25))
def test_max_propagates_nan_from_every_place(place: int) -> None:
    module = module_of(pooling(_WINDOWS[0]), "1 1 5 5")
    (x,) = random_inputs(module)
    x.flat[place] = np.nan
    check_program(module, inputs=[x], threads=(1,))


def test_max_of_infinities_and_of_padding_alone() -> None:
    minus = np.full((1, 2, 6, 9), -np.inf, np.float32)
    check_program(module_of(pooling(_WINDOWS[0]), "1 2 6 9"), inputs=[minus], threads=(1,))
    beyond = pooling(("max", (2, 2), (2, 2), (3, 3), (3, 3), (1, 1)))
    check_program(module_of(beyond, "1 2 6 9"), threads=(1,))
