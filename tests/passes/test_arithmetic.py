"""Each identity: fires, leaves the near miss alone, and computes the same (exactly)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Builder, Value, dtypes
from ds_compiler.ops import Binary, Cast, Compare, Constant, Reduce, ReduceWindow, Select, Unary
from tests.passes.helpers import check, const, module_of, names, spread, tensor
from tests.passes.interpreting import interpret

Body = Callable[..., Value]


def binary(kind: str, number: float, *, left: bool = False) -> Body:
    def body(b: Builder, x: Value) -> Value:
        c = spread(b, number, x)
        return b.emit(Binary(*((c, x) if left else (x, c)), kind))

    return body


def chain(*kinds: str) -> Body:
    def body(b: Builder, x: Value) -> Value:
        for kind in kinds:
            x = b.emit(Unary(x, kind))
        return x

    return body


def bounded(*steps: tuple[str, float]) -> Body:
    def body(b: Builder, x: Value) -> Value:
        for kind, number in steps:
            x = b.emit(Binary(x, spread(b, number, x), kind))
        return x

    return body


def casts(*types: str) -> Body:
    def body(b: Builder, x: Value) -> Value:
        for name in types:
            x = b.emit(Cast(x, dtypes.dtype(name)))
        return x

    return body


def pair(kind: str, negate: int) -> Body:
    def body(b: Builder, x: Value) -> Value:
        y = b.emit(Unary(x, "exp"))
        operands = [x, y]
        operands[negate] = b.emit(Unary(operands[negate], "neg"))
        return b.emit(Binary(*operands, kind))

    return body


FIRES: list[tuple[str, str, Body, list[str]]] = [
    ("x*1", "f32", binary("mul", 1), []),
    ("1*x", "f32", binary("mul", 1, left=True), []),
    ("x/1", "i32", binary("div", 1), []),
    ("x-0", "f32", binary("sub", 0.0), []),
    ("x+-0", "f32", binary("add", -0.0), []),
    ("int x+0", "i64", binary("add", 0), []),
    ("x**1", "f32", binary("pow", 1), []),
    ("x**2", "f32", binary("pow", 2), ["mul"]),
    ("x**3", "f64", binary("pow", 3), ["mul", "mul"]),
    ("int x*0", "i64", binary("mul", 0), ["broadcast"]),
    ("x*-1", "f32", binary("mul", -1), ["neg"]),
    ("x/8", "f32", binary("div", 8), ["broadcast", "mul"]),
    ("1/x", "f32", binary("div", 1, left=True), ["reciprocal"]),
    ("max inf", "f32", binary("max", -np.inf), []),
    ("or true", "bool", binary("or", True), ["broadcast"]),
    ("and true", "bool", binary("and", True), []),
    ("neg neg", "f32", chain("neg", "neg"), []),
    ("abs neg", "f32", chain("neg", "abs"), ["abs"]),
    ("not not", "i32", chain("not", "not"), []),
    ("floor ceil", "f32", chain("ceil", "floor"), ["ceil"]),
    ("1/sqrt", "f32", chain("abs", "sqrt", "reciprocal"), ["abs", "rsqrt"]),
    ("max max", "f32", bounded(("max", 0.0), ("max", 0.5)), ["broadcast", "max"]),
    ("int add add", "i32", bounded(("add", 1), ("add", 2)), ["broadcast", "add"]),
    ("x + -y", "f32", pair("add", 1), ["exp", "sub"]),
    ("-x + y", "f32", pair("add", 0), ["exp", "sub"]),
    ("x - -y", "f32", pair("sub", 1), ["exp", "add"]),
    ("f32 via f64", "f32", casts("f64", "f32"), []),
    ("bool via i32", "bool", casts("i32", "f32"), ["cast"]),
]

MISSES: list[tuple[str, str, Body, list[str]]] = [
    ("float x+0: -0.0", "f32", binary("add", 0.0), ["broadcast", "add"]),
    ("x--0", "f32", binary("sub", -0.0), ["broadcast", "sub"]),
    ("float x*0: NaN", "f32", binary("mul", 0), ["broadcast", "mul"]),
    ("1-x", "f32", binary("sub", 1, left=True), ["broadcast", "sub"]),
    ("x/3", "f32", binary("div", 3), ["broadcast", "div"]),
    ("int 1/x", "i32", binary("div", 1, left=True), ["broadcast", "div"]),
    ("x**0.5 of any sign", "f32", binary("pow", 0.5), ["broadcast", "pow"]),
    ("x**0.75 of any sign", "f32", binary("pow", 0.75), ["broadcast", "pow"]),
    ("sqrt reciprocal", "f32", chain("abs", "reciprocal", "sqrt"), ["abs", "reciprocal", "sqrt"]),
    ("float add add", "f32", bounded(("add", 1), ("add", 2)), ["broadcast", "broadcast", "add", "add"]),
    ("clamp", "f32", bounded(("max", 0.0), ("min", 0.5)), ["broadcast", "broadcast", "max", "min"]),
    ("i32 via f32", "i32", casts("f32", "i32"), ["cast", "cast"]),
    ("f32 via f16", "f32", casts("f16", "f32"), ["cast", "cast"]),
]


@pytest.mark.parametrize(("dtype", "body", "expected"), [c[1:] for c in FIRES], ids=[c[0] for c in FIRES])
def test_fires(dtype: str, body: Body, expected: list[str]) -> None:
    module = module_of(body, tensor("2 5", dtype))
    tolerance = {"rtol": 1e-15} if expected == ["mul", "mul"] else {}  # two roundings for one
    assert sorted(names(check(module, "canonicalize,cse", **tolerance))) == sorted(expected)


@pytest.mark.parametrize(("dtype", "body", "expected"), [c[1:] for c in MISSES], ids=[c[0] for c in MISSES])
def test_leaves_the_near_miss(dtype: str, body: Body, expected: list[str]) -> None:
    module = module_of(body, tensor("2 5", dtype))
    assert sorted(names(check(module, "canonicalize,cse"))) == sorted(expected)


@pytest.mark.parametrize(("kind", "number"), [("mul", 1.0), ("sub", 0.0), ("add", -0.0), ("div", 1.0), ("div", -4.0)])
def test_identities_keep_signed_zeros_and_specials(kind: str, number: float) -> None:
    from ds_compiler.passes.manager import run

    module = module_of(binary(kind, number), "8")
    changed = module.clone()
    run(changed, "canonicalize")
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3e38, -1.5], np.float32)
    (before,), (after,) = interpret(module, [x]), interpret(changed, [x])
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(np.signbit(before), np.signbit(after))


def test_root_of_a_mean_square_is_sqrt() -> None:
    def body(b: Builder, x: Value) -> Value:
        m = b.emit(Reduce(b.emit(Binary(x, x, "mul")), (1,), "mean"))
        m = b.emit(Binary(m, spread(b, 1e-5, m), "add"))
        return b.emit(Binary(m, spread(b, 0.5, m), "pow"))

    assert "sqrt" in names(check(module_of(body, "3 8"), "canonicalize", rtol=1e-6))


def test_select_of_known_condition_and_swapped_arms() -> None:
    def known(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(Select(const(b, [True] * 4, "bool"), x, y))

    assert names(check(module_of(known, "4", "4"), "canonicalize")) == []

    def swapped(b: Builder, c: Value, x: Value, y: Value) -> Value:
        return b.emit(Select(b.emit(Unary(c, "not")), x, y))

    assert names(check(module_of(swapped, tensor("4", "bool"), "4", "4"), "canonicalize")) == ["select"]

    def mixed(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(Select(const(b, [True, False, True, True], "bool"), x, y))

    assert names(check(module_of(mixed, "4", "4"), "canonicalize")) == ["select"]


def test_comparisons() -> None:
    def same(b: Builder, x: Value) -> Value:
        return b.emit(Compare(x, x, "eq"))

    assert names(check(module_of(same, tensor("4", "i32")), "canonicalize")) == ["broadcast"]
    assert names(check(module_of(same, tensor("4", "f32")), "canonicalize")) == ["eq"]

    def negated(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(Unary(b.emit(Compare(x, y, "lt")), "not"))

    assert names(check(module_of(negated, tensor("4", "i32"), tensor("4", "i32")), "canonicalize")) == ["ge"]
    assert names(check(module_of(negated, "4", "4"), "canonicalize")) == ["lt", "not"]  # NaN


def test_constants_fold_within_limits() -> None:
    def small(b: Builder) -> Value:
        return b.emit(Unary(const(b, [1.0, 4.0]), "sqrt"))

    module = check(module_of(small), "fold")
    assert names(module) == [] and module.main.result_types == [tensor("2")]

    def grows(b: Builder) -> Value:
        x = const(b, np.arange(200))
        y = const(b, np.arange(200))
        from ds_compiler.ops import DotGeneral

        return b.emit(DotGeneral(x, y, (), (), (), ()))

    assert names(check(module_of(grows), "fold")) == ["dot_general"]


def test_uniform_constant_is_a_broadcast_scalar_unless_zeros_differ_in_sign() -> None:
    def uniform(b: Builder, x: Value) -> Value:
        return b.emit(Binary(x, const(b, np.full((2, 3), 7.0)), "add"))

    changed = check(module_of(uniform, "2 3"), "canonicalize")
    assert names(changed) == ["broadcast", "add"]
    assert [op.value.shape for op in changed.walk() if isinstance(op, Constant)] == [()]

    def zeros(b: Builder, x: Value) -> Value:
        values: Any = np.array([[0.0, -0.0, 0.0], [0.0, 0.0, 0.0]])
        return b.emit(Binary(x, const(b, values), "div"))

    assert names(check(module_of(zeros, "2 3"), "canonicalize")) == ["div"]


def test_local_response_normalisation_takes_roots() -> None:
    """``(1 + sum of squares over a window) ** 0.75``: the base is never negative."""

    def body(b: Builder, x: Value) -> Value:
        square = b.emit(Binary(x, x, "mul"))
        total = b.emit(ReduceWindow(square, (1,), (3,), (1,), (1,), (1,), (1,), "mean"))
        base = b.emit(Binary(total, spread(b, 1.0, x), "add"))
        return b.emit(Binary(x, b.emit(Binary(base, spread(b, 0.75, x), "pow")), "div"))

    found = names(check(module_of(body, "2 8 5"), "canonicalize", rtol=1e-6))
    assert found.count("sqrt") == 2 and "pow" not in found
