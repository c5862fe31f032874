"""What leaves a loop, what stays, and that results stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Block, Builder, Dim, Module, Operation, Region, TensorType, Value, symbol
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import (
    Assume,
    Binary,
    Bind,
    Broadcast,
    Compare,
    DotGeneral,
    Reduce,
    Scan,
    Transpose,
    Unary,
    While,
    Yield,
)
from tests.backends.programs import check_program
from tests.passes.helpers import check, const, module_of, spread

Body = Callable[..., Any]
length = symbol("n")


def scan(b: Builder, h: Value, xs: Value, body: Body, steps: Dim = length) -> Value:
    """``h = body(builder, h, x)`` for each x of `xs`; returns the last h."""
    inner = Block([h.type, xs.type.with_shape(xs.type.shape[1:])], ["h", "x"])
    ib = Builder(inner)
    ib.insert(Yield((body(ib, *inner.arguments),)))
    return b.insert(Scan((h,), (xs,), steps, Region(inner))).results[0]


def product(b: Builder, h: Value, w: Value) -> Value:
    return b.emit(DotGeneral(h, w, (), (), (1,), (1,)))


def inside(module: Module) -> list[str]:
    """Mnemonics of the operations in loops."""
    loops = [op for op in module.walk() if isinstance(op, Scan | While)]
    nested: dict[Operation, None] = {}
    for loop in loops:
        nested.update(dict.fromkeys(op for region in loop.regions for op in region.walk()))
    return [op.mnemonic for op in nested if op.mnemonic not in ("constant", "yield", "broadcast")]


def weights_prepared(b: Builder, h: Value, xs: Value, w: Value) -> Value:
    def body(b: Builder, h: Value, x: Value) -> Value:
        prepared = b.emit(Unary(b.emit(Binary(w, spread(b, 0.5, w), "mul")), "tanh"))
        return b.emit(Binary(product(b, h, b.emit(Transpose(prepared, (1, 0)))), x, "add"))

    return scan(b, h, xs, body)


def nothing_invariant(b: Builder, h: Value, xs: Value, w: Value) -> Value:
    return scan(b, h, xs, lambda b, h, x: b.emit(Unary(product(b, b.emit(Binary(h, x, "add")), w), "tanh")))


def nested_loops(b: Builder, h: Value, xs: Value, w: Value) -> Value:
    def outer(b: Builder, h: Value, x: Value) -> Value:
        def inner(b: Builder, h: Value, y: Value) -> Value:
            all_outside = b.emit(Unary(w, "exp"))
            of_outer = b.emit(Unary(x, "sigmoid"))
            return b.emit(Binary(product(b, b.emit(Binary(h, y, "sub")), all_outside), of_outer, "mul"))

        return scan(b, h, xs, inner)

    return scan(b, h, xs, outer)


CASES: dict[Callable[..., Value], tuple[int, list[str]]] = {
    weights_prepared: (2, ["dot_general", "add"]),
    nothing_invariant: (0, ["add", "dot_general", "tanh"]),
    nested_loops: (3, ["sigmoid", "scan", "sub", "dot_general", "mul"]),
}


@pytest.mark.parametrize("make", CASES, ids=lambda m: m.__name__)
def test_invariant_operations_leave(make: Callable[..., Value]) -> None:
    _, left = CASES[make]
    changed = check(module_of(make, "2 4", "n 2 4", "4 4"), "cleanup,hoist", rtol=1e-6, atol=1e-6, n=3)
    assert inside(changed) == left
    check_program(changed, {"n": 3}, {"n": 0}, {"n": 1})


def test_out_of_the_condition_and_body_of_while() -> None:
    def body(b: Builder, x: Value, limit: Value) -> Value:
        one = const(b, 1, "i64")
        types = [TensorType((), i64), x.type]
        condition, step = Block(types), Block(types)
        cb, sb = Builder(condition), Builder(step)
        bound = cb.emit(Binary(limit, limit, "mul"))
        cb.insert(Yield((cb.emit(Compare(condition.arguments[0], bound, "lt")),)))
        count, y = step.arguments
        factor = sb.emit(Unary(x, "sigmoid"))
        sb.insert(Yield((sb.emit(Binary(count, one, "add")), sb.emit(Binary(y, factor, "mul")))))
        zero = const(b, 0, "i64")
        return b.insert(While((zero, x), Region(condition), Region(step))).results[1]

    changed = check(module_of(body, "4", TensorType((), i64)), "cleanup,hoist", rtol=1e-6)
    assert inside(changed) == ["lt", "add", "mul"]
    check_program(changed, inputs=[np.linspace(0, 1, 4, dtype=np.float32), np.int64(2)])


def test_sizes_of_an_iteration_stay() -> None:
    """An operation whose shape mentions a size that the loop binds is not invariant."""

    def body(b: Builder, h: Value, xs: Value, counts: Value) -> Value:
        def step(b: Builder, h: Value, c: Value) -> Value:
            b.insert(Bind(c, "_k"))
            wide = b.emit(Unary(b.emit(Broadcast(xs, (symbol("_k"), 4), (1,))), "exp"))
            return b.emit(Binary(h, b.emit(Reduce(wide, (0,), "sum")), "add"))

        return scan(b, h, counts, step)

    types = ("4", "4", TensorType((length,), i64))
    changed = check(module_of(body, *types), "hoist", rtol=1e-6, n=3)
    assert inside(changed) == ["bind", "exp", "reduce", "add"]


def test_what_follows_an_assumption_stays() -> None:
    def body(b: Builder, h: Value, xs: Value, w: Value) -> Value:
        def step(b: Builder, h: Value, x: Value) -> Value:
            b.insert(Assume(symbol("m"), 4))
            return b.emit(Binary(h, b.emit(Unary(w, "exp")), "add"))

        return scan(b, h, xs, step)

    changed = check(module_of(body, "m", "n 2", "m"), "hoist", n=3, m=4)
    assert inside(changed) == ["assume", "exp", "add"]
