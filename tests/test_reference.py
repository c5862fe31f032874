"""The interpreter: sizes from shapes, control flow, calls, and errors that name the place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ds_compiler.ir import Block, Builder, CompileError, Function, Location, Module, Region, TensorType, Value, symbol
from ds_compiler.ir.dtypes import bool_, f32, i64
from ds_compiler.ops import (
    Binary,
    Bind,
    Broadcast,
    Call,
    Compare,
    Constant,
    If,
    Iota,
    Reshape,
    Return,
    Scan,
    Unary,
    While,
    Yield,
)
from ds_compiler.reference import interpret

N = symbol("n")


def function(
    types: list[TensorType], body: Callable[[Builder, list[Value]], list[Value]], name: str = "main"
) -> Function:
    block = Block(types, [f"x{i}" for i in range(len(types))])
    builder = Builder(block)
    builder.insert(Return(tuple(body(builder, list(block.arguments)))))
    return Function(name, Region(block))


def region(types: list[TensorType], body: Callable[[Builder, list[Value]], list[Value]]) -> Region:
    block = Block(types)
    builder = Builder(block)
    builder.insert(Yield(tuple(body(builder, list(block.arguments)))))
    return Region(block)


def test_symbols_come_from_shapes() -> None:
    double = function([TensorType((N, 3), f32)], lambda b, x: [b.emit(Reshape(x[0], (3 * N,)))])
    (result,) = interpret(double, [np.ones((5, 3), np.float32)])
    assert result.shape == (15,)


def test_inputs_by_name() -> None:
    subtract = function([TensorType((), f32)] * 2, lambda b, x: [b.emit(Binary(x[0], x[1], "sub"))])
    (result,) = interpret(subtract, {"x1": np.float32(1), "x0": np.float32(5)})
    assert result == 4


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x0": np.ones((2, 3), np.float32), "y": 1}, "no input called 'y'"),
        ({}, "input 'x0' is missing"),
        ([], "0 inputs given, 'main' takes 2"),
        ([np.ones(3, np.float32)] * 2, "input 'x0' has rank 1"),
        ([np.ones((2, 3))] * 2, "input 'x0' has element type float64"),
        ([np.ones((2, 4), np.float32)] * 2, r"input 'x0' has shape \(2, 4\)"),
        ([np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)], "input 'x1' has shape .* with n = 2"),
    ],
)
def test_bad_inputs(inputs: object, message: str) -> None:
    program = function([TensorType((N, 3), f32)] * 2, lambda b, x: [x[0]])
    with pytest.raises(CompileError, match=message):
        interpret(program, inputs)  # type: ignore[arg-type]


def test_if_binds_the_size_of_its_branch() -> None:
    out = TensorType((symbol("_k"),), i64)

    def branch(count: int) -> Region:
        def body(b: Builder, _: list[Value]) -> list[Value]:
            b.insert(Bind(b.emit(Constant(np.array(count))), "_k"))
            return [b.emit(Iota((count,), 0, i64))]

        return region([], body)

    program = function([TensorType((), bool_)], lambda b, x: [b.emit(If(x[0], branch(2), branch(5), (out,)))])
    assert [interpret(program, [np.bool_(c)])[0].tolist() for c in (True, False)] == [[0, 1], [0, 1, 2, 3, 4]]


def test_while_and_scan_read_enclosing_values() -> None:
    scalar = TensorType((), f32)

    def body(b: Builder, x: list[Value]) -> list[Value]:
        one = b.emit(Constant(np.float32(1)))
        loop = b.emit(
            While(
                (x[0],),
                region([scalar], lambda c, s: [c.emit(Compare(s[0], x[1], "lt"))]),
                region([scalar], lambda c, s: [c.emit(Binary(s[0], one, "add"))]),
            )
        )
        rows = b.emit(Broadcast(loop, (N,), ()))
        scan = b.insert(
            Scan((one,), (rows,), N, region([scalar] * 2, lambda c, s: [c.emit(Binary(s[0], s[1], "add")), s[0]]), True)
        )
        return [loop, *scan.results]

    program = function([scalar, scalar, TensorType((N,), f32)], body)
    last, total, steps = interpret(program, [np.float32(0.5), np.float32(3), np.zeros(3, np.float32)])
    assert (last, total) == (3.5, 11.5)
    assert steps.tolist() == [8.0, 4.5, 1.0]


def test_call_has_symbols_of_its_own() -> None:
    flat = TensorType((N * symbol("m"),), f32)
    callee = function([TensorType((N,), f32)], lambda b, x: [b.emit(Unary(x[0], "neg"))], "callee")

    def body(b: Builder, x: list[Value]) -> list[Value]:
        return [b.emit(Call((b.emit(Reshape(x[0], flat.shape)),), "callee", (flat,)))]

    module = Module([function([TensorType((N, symbol("m")), f32)], body), callee])
    (result,) = interpret(module, [np.ones((2, 3), np.float32)])
    assert result.tolist() == [-1.0] * 6


def test_errors_name_the_operation() -> None:
    def body(b: Builder, x: list[Value]) -> list[Value]:
        with b.at(Location(("head/reshape",), "Reshape")):
            return [b.emit(Reshape(x[0], (2, N)))]

    with pytest.raises(CompileError, match=r"reshape: .*; at 'head/reshape'"):
        interpret(function([TensorType((N,), f32)], body), [np.ones(3, np.float32)])


def test_unbound_symbol() -> None:
    program = function([TensorType((), f32)], lambda b, x: [b.emit(Broadcast(x[0], (symbol("_k"),), ()))])
    with pytest.raises(CompileError, match="'_k'"):
        interpret(program, [np.float32(1)])
    assert interpret(program, [np.float32(1)], {"_k": 2})[0].tolist() == [1, 1]


def test_trace_sees_each_operation() -> None:
    seen: list[str] = []
    program = function([TensorType((), f32)], lambda b, x: [b.emit(Unary(b.emit(Unary(x[0], "exp")), "neg"))])
    interpret(program, [np.float32(0)], trace=lambda op, results: seen.append(f"{op.mnemonic} {results[0]}"))
    assert seen == ["exp 1.0", "neg -1.0"]
