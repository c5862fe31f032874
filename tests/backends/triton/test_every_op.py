"""Primitives on the element types that GPUs compute with: the CPU back end's cases, under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Module, dtypes
from ds_compiler.ops import ScatterND
from tests.backends import test_every_op as every
from tests.backends.triton import interpreting
from tests.backends.triton.interpreting import needs_triton
from tests.passes.helpers import module_of, tensor

pytestmark = needs_triton

#: All types for what differs between them, one for what only moves or only has one kind of code.
TYPES = {"select": ("bool",), "cumulative": ("bf16", "i8"), "reduce": ("bf16", "bool", "u8"), "top_k": ("f32", "bool")}


def _check(module: Module, inputs: Sequence[np.ndarray[Any, Any]], *, scale: float = 1.0) -> None:
    interpreting.check(module, inputs=inputs, scale=max(scale, 4))


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "check", _check)


@pytest.mark.parametrize("name", ["f64", "f32", "bf16", "i64", "i8", "u32", "bool"])
def test_unary_and_predicates(name: str) -> None:
    every.test_unary_and_predicates(name)


@pytest.mark.parametrize("name", ["f64", "f32", "f16", "i32", "u8", "bool"])
def test_binary_and_comparisons(name: str) -> None:
    every.test_binary_and_comparisons(name)


@pytest.mark.parametrize("source", every.ALL)
def test_casts(source: str) -> None:
    every.test_casts(source)


@pytest.mark.parametrize(
    ("case", "name"), [(c, n) for c in every.CASES for n in TYPES.get(c, every.CASES[c][2][1:2] or every.CASES[c][2])]
)
def test_operation(case: str, name: str) -> None:
    every.test_operation(case, name)


@pytest.mark.parametrize("mode", ["add", "mul", "max"])
@pytest.mark.parametrize("name", ["f32", "bf16", "i64", "i8"])
def test_scatter_combines_equal_positions(mode: str, name: str) -> None:
    dtype = dtypes.dtype(name)
    module = module_of(
        lambda b, x, i, u: b.emit(ScatterND(x, i, u, mode)),
        tensor("4 5", name),
        tensor("6 1", "i64"),
        tensor("6 5", name),
    )
    indices = np.array([[0], [1], [0], [3], [0], [1]])
    interpreting.check(module, inputs=[every.array((4, 5), dtype, 0), indices, every.array((6, 5), dtype, 1)], scale=4)
