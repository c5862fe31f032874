"""Structured operations: type rules, costs, and what the interpreter makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_compiler.ir import Block, CompileError, Region, TensorType, Value, symbol
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ir.parser import parse_module
from ds_compiler.ops import Call, Composite, Fusion, If, Return, Scan, Unary, While, Yield
from ds_compiler.reference import interpret
from tests.ops.running import PROPERTY, value


def region(*types: str, body: Callable[..., list[Value]]) -> Region:
    """A region that takes `types` and yields what `body` gives for its arguments."""
    block = Block([value(t).type for t in types])
    block.append(Yield(tuple(body(*block.arguments))))
    return Region(block)


def same_values(*x: Value) -> list[Value]:
    return list(x)


def nothing(*_: Value) -> list[Value]:
    return []


def test_result_types() -> None:
    x, flag = value("n 4 f32"), value("bool")
    assert If(flag, region(body=lambda: [x]), region(body=lambda: [x])).result.type == x.type
    stated = TensorType((symbol("_k"), 4), f32)
    assert If(flag, region(body=lambda: [x]), region(body=lambda: [x]), (stated,)).result.type == stated
    loop = While((x,), region("n 4 f32", body=lambda v: [flag]), region("n 4 f32", body=same_values))
    assert loop.result.type == x.type
    scan = Scan((value("f32"),), (x,), symbol("n"), region("f32", "4 f32", body=lambda a, b: [a, b, a]))
    assert [str(r.type) for r in scan.results] == ["tensor<f32>", "tensor<n x 4 x f32>", "tensor<n x f32>"]
    for make in (lambda body: Fusion((x,), body, "loop"), lambda body: Composite((x,), body, "softmax")):
        assert make(region("n 4 f32", body=same_values)).result.type == x.type
    assert Call((x,), "f", (stated,)).result.type == stated
    assert Return((x,)).results == [] and Yield((x,)).results == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: If(value("i64"), region(body=nothing), region(body=nothing)),
            "if: condition is tensor<i64>",
        ),
        (lambda: If(value("bool"), region("f32", body=nothing), region(body=nothing)), "if: the then-region takes"),
        (lambda: If(value("bool"), region(body=nothing), region("f32", body=nothing)), "if: the else-region takes"),
        (
            lambda: If(value("bool"), region(body=lambda: [value("f32")]), region(body=lambda: [value("i64")])),
            r"if: the regions yield \[tensor<f32>\] and \[tensor<i64>\]",
        ),
        (
            lambda: If(value("bool"), region(body=nothing), region(body=nothing), (TensorType((), f32),)),
            r"if: a region yields \[\], stated are \[tensor<f32>\]",
        ),
        (
            lambda: While((value("f32"),), region("f32", body=same_values), region("f32", body=same_values)),
            "while: the condition yields",
        ),
        (
            lambda: While((value("f32"),), region("i64", body=nothing), region("f32", body=same_values)),
            "while: the condition takes",
        ),
        (
            lambda: While((value("f32"),), region("f32", body=lambda _: [value("bool")]), region("f32", body=nothing)),
            r"while: the body yields \[\], carried are \[tensor<f32>\]",
        ),
        (
            lambda: Scan((), (value("f32"),), 3, region(body=nothing)),
            "scan: scanned input 0 is tensor<f32>",
        ),
        (lambda: Scan((), (value("4 f32"),), 3, region(body=nothing)), "scan: scanned input 0 is tensor<4xf32>"),
        (lambda: Scan((), (value("3 f32"),), 3, region("3 f32", body=nothing)), "scan: the body takes"),
        (lambda: Scan((value("f32"),), (), 3, region("f32", body=nothing)), "scan: the body yields"),
        (lambda: Fusion((value("f32"),), region(body=nothing), "loop"), "fusion: the body takes"),
        (lambda: Composite((value("f32"),), region("i64", body=nothing), "f"), "composite: the body takes"),
    ],
)
def test_type_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


def test_costs_follow_the_bodies() -> None:
    def exp(x: Value) -> list[Value]:
        op = Unary(x, "exp")
        assert isinstance(x, Value)
        block = getattr(x, "block", None)
        assert isinstance(block, Block)
        return [block.append(op).result]

    once = Unary(value("8 f32"), "exp").cost()
    assert Fusion((value("8 f32"),), region("8 f32", body=exp), "loop").cost() == once
    scan = Scan((value("8 f32"),), (), symbol("t"), region("8 f32", body=exp))
    assert scan.cost().flops == once.flops * symbol("t")
    assert Return(()).cost().read == Yield((value("8 f32"),)).cost().read == 0


PROGRAM = """
func @main(%x: tensor<n x f32>, %start: tensor<i64>, %flag: tensor<bool>)
    -> (total: tensor<f32>, sums: tensor<n x f32>, count: tensor<i64>, branch: tensor<i64>, kept: tensor<n x f32>) {
  %zero = constant 0.0 : tensor<f32>
  %total, %sums = scan [%zero], [%x] length=n reverse=REVERSE body(%sum: tensor<f32>, %e: tensor<f32>) {
    %next = add %sum, %e
    yield %next, %next
  }
  %limit = constant 100
  : tensor<i64>
  %count = while %start condition(%i: tensor<i64>) {
    %more = lt %i, %limit
    yield %more
  } body(%j: tensor<i64>) {
    %two = constant 2
    : tensor<i64>
    %k = mul %j, %two
    yield %k
  }
  %branch = if %flag then { yield %start } orelse { yield %limit }
  %f = fusion %x strategy="loop" body(%a: tensor<n x f32>) {
    %b = neg %a
    yield %b
  }
  %g = composite %f callee="minus" body(%c: tensor<n x f32>) {
    %d = neg %c
    yield %d
  }
  %h = call %g callee="same" types=[tensor<n x f32>]
  return %total, %sums, %count, %branch, %h
}
func @same(%y: tensor<m x f32>) -> (tensor<m x f32>) { return %y }
"""


@pytest.mark.parametrize("reverse", [False, True])
@PROPERTY
@given(x=st.lists(st.integers(-9, 9), max_size=5), start=st.integers(1, 200), flag=st.booleans())
def test_meaning(reverse: bool, x: list[int], start: int, flag: bool) -> None:
    module = parse_module(PROGRAM.replace("REVERSE", str(reverse).lower()))
    array = np.array(x, np.float32)
    total, sums, count, branch, kept = interpret(module, [array, np.array(start), np.array(flag)])
    assert branch == (start if flag else 100)
    running, order = 0, range(len(x))
    expected = [0] * len(x)
    for i in reversed(order) if reverse else order:
        running += x[i]
        expected[i] = running
    assert (total, sums.tolist()) == (running, expected)
    while start < 100:
        start *= 2
    assert count == start
    assert kept.tolist() == x and kept.dtype == np.float32 and count.dtype == i64.numpy
