"""Scatters of rows, whose updates run as vectors one row after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds_compiler.ops import ScatterElements, ScatterND
from tests.backends.programs import check_program
from tests.passes.helpers import module_of, tensor

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(7)


@pytest.mark.parametrize("width", [1, 3, 8, 19, 64])
@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "i32", "i8"])
@pytest.mark.parametrize("mode", ["set", "add", "mul", "min", "max"])
def test_rows_that_meet(mode: str, dtype: str, width: int) -> None:
    """Many updates of few rows: each element sees its updates in order."""
    module = module_of(
        lambda b, x, i, u: b.emit(ScatterND(x, i, u, mode)),
        tensor(f"r {width}", dtype),
        tensor("n 1", "i64"),
        tensor(f"n {width}", dtype),
    )
    kind = module.main.arguments[0].type.dtype.numpy
    x = RANDOM.integers(-2, 3, (4, width)).astype(kind)
    updates = RANDOM.choice([-1, 1, 2, 0.5] if kind.kind == "f" else [-1, 1, 2], (9, width)).astype(kind)
    indices = RANDOM.integers(0, 4, (9, 1))
    check_program(module, {"r": 4, "n": 9}, inputs=[x, indices, updates], threads=(1, 3), rtol=1e-3)
    check_program(module, {"r": 4, "n": 0}, inputs=[x, indices[:0], updates[:0]], threads=(1,))


@pytest.mark.parametrize("axis", [0, 1])
def test_elements_along_either_axis(axis: int) -> None:
    """Along the last axis lanes could meet: these are added one at a time."""
    module = module_of(
        lambda b, x, i, u: b.emit(ScatterElements(x, i, u, axis, "add")),
        tensor("4 20"),
        tensor("3 20", "i64"),
        tensor("3 20"),
    )
    x, updates = (RANDOM.integers(-5, 6, (n, 20)).astype(np.float32) for n in (4, 3))
    check_program(module, inputs=[x, RANDOM.integers(0, 4, (3, 20)), updates], threads=(1, 2))
