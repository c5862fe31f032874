"""Elementwise, movement and reduction kernels under Triton's interpreter."""

from __future__ import annotations

import pytest

from ds_compiler.ir import Builder, Value
from ds_compiler.ops import ArgReduce, Binary, Broadcast, Cumulative, Pad, Reduce, Slice, Transpose, Unary
from tests.backends.triton.interpreting import check, needs_triton
from tests.passes.helpers import const, module_of, tensor

pytestmark = needs_triton


def softmax(b: Builder, x: Value) -> Value:
    top = b.emit(Broadcast(b.emit(Reduce(x, (1,), "max")), x.type.shape, (0,)))
    e = b.emit(Unary(b.emit(Binary(x, top, "sub")), "exp"))
    total = b.emit(Broadcast(b.emit(Reduce(e, (1,), "sum")), x.type.shape, (0,)))
    return b.emit(Binary(e, total, "div"))


@pytest.mark.parametrize("shape", ["7 100", "3 20000", "n m"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_softmax_is_one_kernel(shape: str, dtype: str) -> None:
    lowered = check(module_of(softmax, tensor(shape, dtype)), {"n": 3, "m": 70}, {"n": 1, "m": 2100})
    assert len(lowered.program.kernels) == 1


@pytest.mark.parametrize("shape", ["2 40 70", "n 40 m"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i64", "bool"])
def test_transposes(shape: str, dtype: str) -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        return [b.emit(Transpose(x, p)) for p in ((0, 2, 1), (1, 0, 2), (2, 1, 0))]

    check(module_of(make, tensor(shape, dtype)), {"n": 3, "m": 70})


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32"])
def test_reductions(axes: tuple[int, ...], dtype: str) -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        return [b.emit(Reduce(x, axes, how)) for how in ("sum", "max", "min", "prod")]

    check(module_of(make, tensor("5 33 70", dtype)), scale=4)
    check(module_of(make, tensor("a b c", dtype)), {"a": 3, "b": 7, "c": 9}, {"a": 1, "b": 1, "c": 1}, scale=4)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", ["9 50", "2 40000", "n m"])
def test_positions_of_extrema(shape: str, last: bool) -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        return [b.emit(ArgReduce(x, axis, how, last)) for axis in (0, 1) for how in ("max", "min")]

    check(module_of(make, shape), {"n": 4, "m": 33})
    check(module_of(make, tensor(shape, "i32")), {"n": 4, "m": 33})


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_combinations(exclusive: bool, reverse: bool) -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        return [
            b.emit(Cumulative(x, axis, how, exclusive, reverse)) for axis in (0, 1) for how in ("sum", "max", "prod")
        ]

    check(module_of(make, "6 100"), scale=10)
    check(module_of(make, "n m"), {"n": 5, "m": 30}, {"n": 1, "m": 3000}, scale=30)


def test_guards_read_nothing_outside() -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        padded = b.emit(Pad(x, const(b, 7.0), (1, 2), (3, 0)))
        return [padded, b.emit(Slice(x, (1, 69), (4, 35), (1, -2)))]

    check(module_of(make, "6 70"))
