"""Sums, extrema and their kin (array API standard, "Statistical", "Searching", "Sorting", "Utility Functions")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, read, together, wrap
from ds_compiler.frontends.trace.axes import axes_of, axis_of, whole
from ds_compiler.frontends.trace.dtypes import element_type, name_of
from ds_compiler.frontends.trace.elementwise import sqrt, square, where
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import DType, Expr, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bool_, i64, u64
from ds_compiler.ops import ArgReduce, Cumulative, GatherElements, TopK

Axis = int | Sequence[int] | None


def _numeric(name: str, x: ArrayLike, kinds: str = "fiu") -> Value:
    value = read(x)
    if value.type.dtype.kind not in kinds:
        wanted = "floating-point" if kinds == "f" else "numeric"
        raise located(f"{name}: needs {wanted} arrays, got {name_of(value.type.dtype)}", help="convert with .astype()")
    return value


def _summed_as(dtype: DType, wanted: Any) -> DType:
    """The type of a sum: integers widen to 64 bits."""
    if wanted is not None:
        return element_type(wanted)
    return dtype if dtype.is_float else u64 if dtype.kind == "u" else i64


@public
def sum(x: ArrayLike, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> TracedArray:
    """The sum over axes; integers and bool are summed in 64 bits."""
    value = _numeric("sum", x, "fiub")
    value = compose.cast(value, _summed_as(value.type.dtype, dtype))
    return wrap(compose.reduce(value, axes_of(axis, value.type.rank), "sum", keepdims))


@public
def prod(x: ArrayLike, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> TracedArray:
    """The product over axes; integers are multiplied in 64 bits."""
    value = _numeric("prod", x)
    value = compose.cast(value, _summed_as(value.type.dtype, dtype))
    return wrap(compose.reduce(value, axes_of(axis, value.type.rank), "prod", keepdims))


@public
def mean(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """The arithmetic mean over axes."""
    value = _numeric("mean", x, "f")
    return wrap(compose.reduce(value, axes_of(axis, value.type.rank), "mean", keepdims))


def _extremum(name: str, x: ArrayLike, axis: Axis, keepdims: bool) -> TracedArray:
    value = _numeric(name, x)
    axes = axes_of(axis, value.type.rank)
    if 0 in [value.type.shape[a] for a in axes]:
        raise located(f"{name}: over no elements of {compose.shown(value.type.shape)}, which has none")
    return wrap(compose.reduce(value, axes, name, keepdims))


@public
def max(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """The largest element over axes; NaN if one is."""
    return _extremum("max", x, axis, keepdims)


@public
def min(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """The smallest element over axes; NaN if one is."""
    return _extremum("min", x, axis, keepdims)


@public
def var(x: ArrayLike, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> TracedArray:
    """The variance over axes, divided by the count less `correction`."""
    return wrap(_variance("var", x, axis, correction, keepdims))


@public
def std(x: ArrayLike, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> TracedArray:
    """The standard deviation over axes. Where it is 0 its derivative is 0, as in PyTorch."""
    return _root(wrap(_variance("std", x, axis, correction, keepdims)))


def _root(x: TracedArray) -> TracedArray:
    """The square root, with the derivative 0 at 0."""
    zero = x == 0
    return where(zero, 0, sqrt(where(zero, 1, x)))


def _variance(name: str, x: ArrayLike, axis: Axis, correction: float, keepdims: bool) -> Value:
    value = _numeric(name, x, "f")
    axes = axes_of(axis, value.type.rank)
    gap = compose.binary("sub", value, compose.reduce(value, axes, "mean", True))
    squares = compose.binary("mul", gap, gap)
    if not correction:
        return compose.reduce(squares, axes, "mean", keepdims)
    total = compose.reduce(squares, axes, "sum", keepdims)
    count = product(tuple(value.type.shape[a] for a in axes))
    divisor = compose.binary("sub", compose.size(count, value.type.dtype), correction)
    return compose.binary("div", total, compose.binary("max", divisor, 0.0))


def _truth(x: ArrayLike) -> Value:
    return compose.cast(read(x), bool_)


@public
def all(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """Whether all elements are true (not 0)."""
    value = _truth(x)
    return wrap(compose.reduce(value, axes_of(axis, value.type.rank), "all", keepdims))


@public
def any(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """Whether an element is true (not 0)."""
    value = _truth(x)
    return wrap(compose.reduce(value, axes_of(axis, value.type.rank), "any", keepdims))


@public
def count_nonzero(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """How many elements are not 0."""
    value = compose.cast(_truth(x), i64)
    return wrap(compose.reduce(value, axes_of(axis, value.type.rank), "sum", keepdims))


def _position(name: str, how: str, x: ArrayLike, axis: int | None, keepdims: bool) -> TracedArray:
    value = _numeric(name, x)
    rank = value.type.rank
    if value.type.elements == 0:
        raise located(f"{name}: {compose.shown(value.type.shape)} has no elements")
    if axis is None:
        result = current().emit(ArgReduce(compose.reshape(value, (value.type.elements,)), 0, how))
        return wrap(compose.reshape(result, (1,) * rank) if keepdims else result)
    place = axis_of(axis, rank)
    result = current().emit(ArgReduce(value, place, how))
    if keepdims:
        result = compose.reshape(result, [1 if a == place else d for a, d in enumerate(value.type.shape)])
    return wrap(result)


@public
def argmax(x: ArrayLike, /, *, axis: int | None = None, keepdims: bool = False) -> TracedArray:
    """Where the largest element is; the first of equal ones."""
    return _position("argmax", "max", x, axis, keepdims)


@public
def argmin(x: ArrayLike, /, *, axis: int | None = None, keepdims: bool = False) -> TracedArray:
    """Where the smallest element is; the first of equal ones."""
    return _position("argmin", "min", x, axis, keepdims)


def _running(name: str, how: str, x: ArrayLike, axis: int | None, dtype: Any, initial: bool) -> TracedArray:
    value = _numeric(name, x)
    if axis is None and value.type.rank != 1:
        raise located(f"{name}: give the axis of an array of {value.type.rank} axes")
    place = axis_of(0 if axis is None else axis, value.type.rank)
    value = compose.cast(value, _summed_as(value.type.dtype, dtype))
    result = current().emit(Cumulative(value, place, how))
    if initial:
        first = [1 if a == place else d for a, d in enumerate(value.type.shape)]
        neutral = compose.full(0 if how == "sum" else 1, first, value.type.dtype)
        result = compose.concat([neutral, result], place)
    return wrap(result)


@public
def cumulative_sum(
    x: ArrayLike, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> TracedArray:
    """The running sum along an axis."""
    return _running("cumulative_sum", "sum", x, axis, dtype, include_initial)


@public
def cumulative_prod(
    x: ArrayLike, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> TracedArray:
    """The running product along an axis."""
    return _running("cumulative_prod", "prod", x, axis, dtype, include_initial)


def _ordered(name: str, x: ArrayLike, axis: int, descending: bool) -> tuple[TracedArray, TracedArray]:
    value = _numeric(name, x)
    rank = value.type.rank
    place = axis_of(axis, rank)
    moved = compose.moved(value, place, rank - 1)
    pair = current().insert(TopK(moved, moved.type.shape[-1], descending))
    elements, positions = (wrap(compose.moved(v, rank - 1, place)) for v in pair)
    return elements, positions


@public
def sort(x: ArrayLike, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> TracedArray:
    """The elements in order along an axis."""
    return _ordered("sort", x, axis, descending)[0]


@public
def argsort(x: ArrayLike, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> TracedArray:
    """The positions of the elements in order; equal ones keep theirs."""
    return _ordered("argsort", x, axis, descending)[1]


@public
def top_k(x: ArrayLike, k: int, /, *, largest: bool = True) -> tuple[TracedArray, TracedArray]:
    """The `k` largest elements along the last axis, in order, and their positions (an extension of the standard)."""
    value = _numeric("top_k", x)
    k = k if isinstance(k, Expr) else whole(k, "top_k: the count")
    elements, positions = current().insert(TopK(value, k, largest))
    return wrap(elements), wrap(positions)


@public
def searchsorted(
    x1: ArrayLike, x2: ArrayLike, /, *, side: str = "left", sorter: ArrayLike | None = None
) -> TracedArray:
    """Where elements of `x2` would stand in the sorted vector `x1`; each is compared with all."""
    if side not in ("left", "right"):
        raise located(f"searchsorted: side is 'left' or 'right', not {side!r}")
    known, wanted = together(x1, x2)
    if known.type.rank != 1:
        raise located("searchsorted: x1 is a vector")
    if sorter is not None:
        order = read(sorter)
        compose.check_indices(order, known.type.shape[0], 0, "searchsorted")
        known = current().emit(GatherElements(known, order, 0))
    wanted = compose.reshape(wanted, (*wanted.type.shape, 1))
    before = compose.compare("lt" if side == "left" else "le", known, wanted)
    return wrap(compose.reduce(compose.cast(before, i64), [before.type.rank - 1], "sum"))


@public
def take_along_axis(x: ArrayLike, indices: ArrayLike, /, *, axis: int = -1) -> TracedArray:
    """Elements at positions along an axis; `indices` has as many axes as `x`, and others broadcast."""
    value, where = read(x), read(indices)
    if value.type.rank != where.type.rank:
        raise located(f"take_along_axis: {value.type.rank} and {where.type.rank} axes")
    place = axis_of(axis, value.type.rank)
    others = compose.common_shape(
        [[1 if a == place else d for a, d in enumerate(v.type.shape)] for v in (value, where)]
    )
    compose.check_indices(where, value.type.shape[place], place, "take_along_axis")
    value, where = (
        compose.broadcast_to(v, [v.type.shape[place] if a == place else d for a, d in enumerate(others)])
        for v in (value, where)
    )
    return wrap(current().emit(GatherElements(value, where, place)))


@public
def diff(
    x: ArrayLike, /, *, axis: int = -1, n: int = 1, prepend: ArrayLike | None = None, append: ArrayLike | None = None
) -> TracedArray:
    """Differences of neighbours along an axis, `n` times; `prepend` and `append` are joined to `x` before."""
    place = axis_of(axis, _numeric("diff", x).type.rank)
    value = compose.concat(together(*(part for part in (prepend, x, append) if part is not None)), place)
    for _ in range(n):
        extent = value.type.shape[place]
        value = compose.binary(
            "sub", compose.sliced(value, place, 1, extent), compose.sliced(value, place, 0, extent - 1)
        )
    return wrap(value)


@public
def logsumexp(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """log(sum(exp(x))) without overflow (an extension of the standard)."""
    value = _numeric("logsumexp", x, "f")
    axes = axes_of(axis, value.type.rank)
    top = compose.reduce(value, axes, "max", True)
    top = compose.select(compose.compare("eq", compose.unary("abs", top), math.inf), compose.full_like(0.0, top), top)
    total = compose.reduce(compose.unary("exp", compose.binary("sub", value, top)), axes, "sum", True)
    result = compose.binary("add", compose.unary("log", total), top)
    return wrap(
        result if keepdims else compose.reshape(result, [d for a, d in enumerate(value.type.shape) if a not in axes])
    )


@public
def vector_norm(x: ArrayLike, /, *, axis: Axis = None, keepdims: bool = False) -> TracedArray:
    """The root of the sum of squares (an extension of the standard). The derivative at 0 is 0, as in PyTorch."""
    return _root(sum(square(x), axis=axis, keepdims=keepdims))
