"""Operations outside of any module: operands by their arrays, results checked against the inferred types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ds_compiler.ir import DType, Operation, TensorType, Value, dtypes
from ds_compiler.ir.dim_text import parse_dim
from ds_compiler.ir.dims import evaluate
from tests.ir.random_modules import ALL, FLOATS, NUMBERS, elements

Array = np.ndarray[Any, Any]
PROPERTY = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))

INTEGERS = [d for d in ALL if d.is_integer]
__all__ = ["ALL", "FLOATS", "INTEGERS", "NUMBERS", "PROPERTY", "Array", "arrays", "run", "same", "shapes", "value"]


def value(type_: TensorType | Array | str) -> Value:
    """An operand of a type: a type, an array's, or ``"n 4 f32"``."""
    if isinstance(type_, np.ndarray):
        return Value(TensorType(type_.shape, dtypes.from_numpy(type_.dtype)))
    if isinstance(type_, str):
        *sizes, element = type_.split()
        return Value(TensorType(tuple(parse_dim(s) for s in sizes), dtypes.dtype(element)))
    return Value(type_)


def run(make: Callable[..., Operation], *operands: Array, sizes: Mapping[str, int] | None = None) -> Any:
    """What the operation that `make` builds from operand values computes; a tuple for several results."""
    op = make(*(value(x) for x in operands))
    computed = op.evaluate(sizes or {}, *operands)
    results = computed if isinstance(computed, tuple) else (computed,)
    assert len(results) == len(op.results)
    for result, array in zip(op.results, results, strict=True):
        assert isinstance(array, np.ndarray)
        assert array.dtype == result.type.dtype.numpy
        assert array.shape == tuple(evaluate(d, sizes or {}) for d in result.type.shape)
    cost = op.cost()
    assert all(isinstance(c, int) and c >= 0 for c in (cost.flops, cost.read, cost.written) if not sizes)
    return computed


def shapes(low: int = 0, high: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes with empty axes and axes of size 1."""
    return st.lists(st.integers(0, 4), min_size=low, max_size=high).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, allowed: Sequence[DType], low: int = 0, high: int = 3) -> Array:
    """Arrays of any bits: NaN, infinities, subnormal and huge numbers."""
    return draw(elements(draw(st.sampled_from(allowed)), draw(shapes(low, high))))


def same(got: Array, wanted: Array) -> None:
    """Equal, NaN where NaN; -0 equals 0."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    if got.dtype.kind == "O" or got.dtype.kind in "iub":
        assert (got == wanted).all()
    else:
        np.testing.assert_array_equal(got.astype(np.float64), wanted.astype(np.float64))


def positions(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All indices of a shape, in order."""
    return iter(np.ndindex(*shape))
