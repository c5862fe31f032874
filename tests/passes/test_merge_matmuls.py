"""Projections that one attention reads become one product; others stay apart; results stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Binary, Broadcast, Composite, DotGeneral, Fusion
from ds_compiler.passes.manager import run
from tests.backends.programs import check_program, compiled
from tests.passes.helpers import check, const, module_of, spread
from tests.passes.test_attention import attend, heads, merged, scaled

PIPELINE = "cleanup,attention,merge-matmuls,cleanup"
_rng = np.random.default_rng(0)


def project(b: Builder, x: Value, width: int = 24, biased: bool = True, how: str = "add") -> Value:
    y = b.emit(DotGeneral(x, const(b, _rng.standard_normal((16, width)) / 4), (), (), (2,), (0,)))
    if not biased:
        return y
    bias = b.emit(Broadcast(const(b, _rng.standard_normal(width)), y.type.shape, (2,)))
    return b.emit(Binary(y, bias, how))


def self_attention(b: Builder, x: Value) -> Value:
    q, k, v = (heads(b, project(b, x)) for _ in range(3))
    return merged(b, attend(b, scaled(b, q, 0.3), k, v))


def some_biased(b: Builder, x: Value) -> Value:
    q, k, v = heads(b, project(b, x, biased=False)), heads(b, project(b, x)), heads(b, project(b, x, 15))
    return merged(b, attend(b, q, k, v))


def cross_attention(b: Builder, x: Value, y: Value) -> Value:
    return merged(b, attend(b, heads(b, project(b, x)), heads(b, project(b, y)), heads(b, project(b, y))))


def uniform_bias(b: Builder, x: Value) -> Value:
    q, k, v = (heads(b, b.emit(Binary(y := project(b, x, biased=False), spread(b, 0.5, y), "add"))) for _ in range(3))
    return merged(b, attend(b, q, k, v))


FORMS: dict[Callable[..., Any], tuple[tuple[str, ...], int, int]] = {
    self_attention: (("b s 16",), 1, 1),
    some_biased: (("b s 16",), 1, 1),
    uniform_bias: (("b s 16",), 1, 1),
    cross_attention: (("b s 16", "b s 16"), 2, 2),
}


def products(module: Module) -> int:
    return sum(isinstance(op, DotGeneral) for op in module.main.block)


@pytest.mark.parametrize("make", FORMS, ids=lambda m: m.__name__)
def test_projections_of_one_tensor_are_one_product(make: Callable[..., Any]) -> None:
    inputs, left, operands = FORMS[make]
    module = module_of(make, *inputs)
    changed = check(module, PIPELINE, rtol=2e-5, atol=2e-6, b=2, s=7)
    assert products(changed) == left
    (attention,) = (op for op in changed.main.block if isinstance(op, Composite))
    assert len(attention.inputs) == operands
    fused, _ = compiled(changed)
    assert sum(isinstance(op, Fusion) for op in fused.main.block) == left + 1
    check_program(changed, {"b": 2, "s": 7}, {"b": 1, "s": 1}, {"b": 1, "s": 40})


def shared_with_others(b: Builder, x: Value) -> list[Value]:
    q, k, v = (project(b, x) for _ in range(3))
    return [merged(b, attend(b, *(heads(b, y) for y in (q, k, v)))), k]


def rotated(b: Builder, x: Value) -> Value:
    q, k, v = (heads(b, project(b, x)) for _ in range(3))
    position = const(b, _rng.standard_normal(8))
    q, k = (b.emit(Binary(y, b.emit(Broadcast(position, y.type.shape, (3,))), "mul")) for y in (q, k))
    return merged(b, attend(b, q, k, v))


@pytest.mark.parametrize("make, left", [(shared_with_others, 2), (rotated, 3)])
def test_projections_with_other_readers_stay(make: Callable[..., Any], left: int) -> None:
    changed = check(module_of(make, "b s 16"), PIPELINE, rtol=2e-5, atol=2e-6, b=2, s=7)
    assert products(changed) == left
    check_program(changed, {"b": 2, "s": 7})


def test_products_without_attention_stay() -> None:
    def body(b: Builder, x: Value) -> list[Value]:
        return [project(b, x), project(b, x)]

    module = module_of(body, "b s 16")
    run(module, PIPELINE)
    assert products(module) == 2
