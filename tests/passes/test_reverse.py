"""How cotangents add up."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import Builder, Value
from ds_compiler.ops import Binary, Concat, Pad, Slice, Unary
from tests.passes.differentiating import check_gradient, derived, expanded, module_of
from tests.passes.helpers import tensor


def part(b: Builder, x: Value, start: int, size: int, kind: str) -> Value:
    return b.emit(Unary(b.emit(Slice(x, (0, start), (2, size), (1, 1))), kind))


def thirds(b: Builder, x: Value) -> Value:
    """All of three slices: ``sin(a) * cos(b) * exp(c)``."""
    first = b.emit(Binary(part(b, x, 0, 3, "sin"), part(b, x, 3, 3, "cos"), "mul"))
    return b.emit(Binary(first, part(b, x, 6, 3, "exp"), "mul"))


def apart(b: Builder, x: Value) -> Value:
    """Two slices with an element between them."""
    return b.emit(Binary(part(b, x, 0, 4, "sin"), part(b, x, 5, 4, "cos"), "mul"))


def overlapping(b: Builder, x: Value) -> Value:
    return b.emit(Binary(part(b, x, 0, 5, "sin"), part(b, x, 4, 5, "cos"), "mul"))


@pytest.mark.parametrize(("body", "joined"), [(thirds, True), (apart, False), (overlapping, False)])
def test_neighbouring_slices(body, joined) -> None:  # type: ignore[no-untyped-def]
    """Their cotangents lie side by side: nothing is padded and added."""
    module = module_of(body, [tensor("2 9", "f64")])
    check_gradient(module.clone(), [np.random.default_rng(0).standard_normal((2, 9))])
    reverse, _ = derived(module, "f", [0])
    module.add(reverse)
    kinds = [type(op) for op in expanded(module, reverse.name).main.walk()]
    assert (Concat in kinds, Pad in kinds) == (joined, not joined)
