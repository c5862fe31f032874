"""Canonical forms of products: what fires, what must not, and equal results."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import Builder, Dim, Value
from ds_compiler.ir.dim_text import parse_dim
from ds_compiler.ops import DotGeneral, Reshape, Transpose
from ds_compiler.passes.matching import groups
from tests.passes.helpers import check, const, module_of, names


def rows(shape: str, grouped: tuple[Dim, ...]) -> list[str]:
    """Operations left of ``reshape(x, grouped)·W``."""
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value) -> Value:
        depth = grouped[1]
        assert isinstance(depth, int)
        x = b.emit(Reshape(x, grouped))
        return b.emit(DotGeneral(x, const(b, rng.standard_normal((depth, 3))), (), (), (1,), (0,)))

    return names(check(module_of(body, shape), "cleanup", n=2, m=5))


n, m = parse_dim("n"), parse_dim("m")


@pytest.mark.parametrize(
    "shape, grouped, left",
    [
        ("n m 4", (n * m, 4), ["dot_general", "reshape"]),
        ("n m 2 6", (n * m, 12), ["reshape", "dot_general", "reshape"]),
        ("n 4", (n, 4), ["dot_general"]),
        ("n m 4", (n * m * 2, 2), ["reshape", "dot_general"]),  # a row of the matrix is half a row of x
        ("n 4 m 6", (n * m * 4, 6), ["dot_general", "reshape"]),
    ],
)
def test_regrouped_rows_sink_below_the_product(shape: str, grouped: tuple[Dim, ...], left: list[str]) -> None:
    assert rows(shape, grouped) == left


@pytest.mark.parametrize(
    "before, after, expected",
    [
        ("b 2 4 s 8", "8*b s 8", [((0, 1, 2), (0,)), ((3,), (1,)), ((4,), (2,))]),
        ("8*b s 6", "b 8 s 6", [((0,), (0, 1)), ((1,), (2,)), ((2,), (3,))]),
        ("b s 12", "b*s 3 4", [((0, 1), (0,)), ((2,), (1, 2))]),
        ("b*s 12", "b s 3 4", [((0,), (0, 1)), ((1,), (2, 3))]),
    ],
)
def test_groups_of_symbolic_sizes(before: str, after: str, expected: object) -> None:
    shapes = [tuple(parse_dim(d) for d in text.split()) for text in (before, after)]
    assert groups(*shapes) == expected


@pytest.mark.parametrize(
    "weight, left",
    [
        (False, ["dot_general"]),
        (True, ["dot_general", "transpose"]),  # a constant is packed as the right operand
    ],
)
def test_a_transposed_product_is_the_product_of_transposes(weight: bool, left: list[str]) -> None:
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value, y: Value) -> Value:
        right = const(b, rng.standard_normal((7, 5))) if weight else y
        return b.emit(Transpose(b.emit(DotGeneral(x, right, (), (), (0,), (0,))), (1, 0)))

    assert names(check(module_of(body, "7 3", "7 5"), "cleanup")) == left


def test_a_product_read_both_ways_is_computed_once() -> None:
    def body(b: Builder, x: Value, y: Value) -> Value:
        dot = b.emit(DotGeneral(x, y, (), (), (0,), (0,)))
        return b.emit(DotGeneral(b.emit(Transpose(dot, (1, 0))), dot, (), (), (1,), (0,)))

    assert names(check(module_of(body, "7 3", "7 5"), "cleanup")).count("dot_general") == 2
