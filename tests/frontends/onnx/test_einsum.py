"""Einsum: ONNX's own cases, and equations of every kind against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from ds_compiler.reference import interpret
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases
from tests.frontends.onnx.symbolic import single_node

SIZES = dict(zip("abcdefgh", (2, 3, 4, 5, 6, 2, 3, 4), strict=True))


@pytest.mark.parametrize("case", node_cases("Einsum"))
def test_node(case: NodeCase) -> None:
    check_case(case)


def symbolic_shape(term: str) -> list[str | int]:
    before, dots, after = term.partition("...")
    return [*before, *(["g", "h"] if dots else []), *after]


@pytest.mark.parametrize(
    "equation",
    [
        "ab,bc->ac",
        "ab,bc->ca",
        "ab,cb",
        "abcd,abed->abce",
        "acbd,aebd->abce",
        "ab,ab->",
        "ab->ba",
        "ab->",
        "abc->b",
        "aab->ab",
        "aab->b",
        "aaa->a",
        "a,b->ab",
        "a,b->ba",
        "ab,b->ab",
        "ab,bc,cd->ad",
        "ab,bc,cd->dba",
        "abc,cd,be->ade",
        "...ab,...bc->...ac",
        "...ab,bc->...ac",
        "ab,...b->...a",
        "a...b->b...",
        "...a",
        "abc,ab->c",
        "ab , bc -> ac",
    ],
)
def test_equation(equation: str) -> None:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    module = import_model(single_node("Einsum", [symbolic_shape(t) for t in terms], equation=equation))
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal([SIZES[str(d)] for d in symbolic_shape(t)]).astype(np.float32) for t in terms]
    (result,) = interpret(module, operands)
    expected = np.einsum(equation, *(x.astype(np.float64) for x in operands))
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("equation", "a", "b"), [("ab,ab->ab", [3, 1], [3, 4]), ("ab,ab->a", [3, 1], [3, 4])])
def test_units_broadcast(equation: str, a: list[int], b: list[int]) -> None:
    module = import_model(single_node("Einsum", [a, b], equation=equation))
    x, y = np.arange(np.prod(a), dtype=np.float32).reshape(a), np.arange(np.prod(b), dtype=np.float32).reshape(b)
    np.testing.assert_allclose(interpret(module, [x, y])[0], np.einsum(equation, x, y))


def test_attention_products_need_no_transposition() -> None:
    module = import_model(single_node("Einsum", [["b", "q", 2, 8], ["b", "k", 2, 8]], equation="bqhd,bkhd->bhqk"))
    assert [op.mnemonic for op in module.walk()] == ["dot_general", "return"]


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        ("ab,bc->ad", "labels of the result must be labels of the operands"),
        ("abc,bc->a", "'abc' does not fit"),
        ("ab->a", "1 operands, the node has 2"),
        ("a1,bc->a", "no list of letters"),
        ("...b,...b->b", "the result needs the ellipsis"),
    ],
)
def test_malformed(equation: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        import_model(single_node("Einsum", [[3, 4], [4, 5]], equation=equation))
