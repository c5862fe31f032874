"""Arrays made from nothing (array API standard, "Creation Functions")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, dtype_of, is_array, read, wrap
from ds_compiler.frontends.trace.axes import shape_of
from ds_compiler.frontends.trace.dtypes import DEFAULT_FLOAT, element_type, weak_type
from ds_compiler.frontends.trace.frame import current, located, tracing
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import Dim, DType, Expr, Value
from ds_compiler.ir.dtypes import bool_, i64
from ds_compiler.ops import Iota


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> TracedArray:
    """An array of a number, an array, or nested sequences of them. Python floats become the default type, f32.

    Args:
        copy: False outside of a trace: the result shares memory with `obj`. (Traced arrays do not change.)

    Raises:
        TraceError: `copy` is False where one is needed.
    """
    if copy is False and not tracing():
        if not isinstance(obj, np.ndarray) or (dtype is not None and obj.dtype != dtype):
            raise located("asarray: this needs a copy, but copy=False", help="leave copy= out")
        shared: Any = obj
        return shared  # type: ignore[no-any-return]
    return _asarray(obj, dtype)


@public
def _asarray(obj: Any, dtype: Any) -> TracedArray:
    wanted = None if dtype is None else element_type(dtype)
    if isinstance(obj, list | tuple):
        return wrap(_nested(obj, wanted))
    value = read(obj, wanted) if not is_array(obj) and not isinstance(obj, bool) else read(obj)
    return wrap(value if wanted is None else compose.cast(value, wanted))


def _nested(obj: Sequence[Any], wanted: DType | None) -> Value:
    def holds_arrays(x: Any) -> bool:
        return any(map(holds_arrays, x)) if isinstance(x, list | tuple) else isinstance(x, TracedArray | Expr)

    if not holds_arrays(obj):
        array = np.asarray(obj)
        if array.dtype.kind not in "fiub":
            raise located(f"asarray: nested sequences of {array.dtype}")
        if wanted is None and array.dtype == np.float64:
            wanted = DEFAULT_FLOAT
        return current().constant(array if wanted is None else array.astype(wanted.numpy))
    parts = [wrap(_nested(x, wanted)) if isinstance(x, list | tuple) else asarray(x, dtype=wanted) for x in obj]
    from ds_compiler.frontends.trace.manipulation import stack

    return stack(parts).read()


def iota(shape: Sequence[Dim], axis: int, dtype: DType) -> Value:
    """Each element's index along `axis`."""
    return current().emit(Iota(tuple(shape), axis, dtype))


@public
def arange(
    start: ArrayLike, /, stop: ArrayLike | None = None, step: float = 1, *, dtype: Any = None, device: Any = None
) -> TracedArray:
    """The numbers from `start` (default 0) up to `stop` in steps of `step`. A size may be symbolic."""
    if stop is None:
        start, stop = 0, start
    bounds: list[Any] = [start, stop, step]
    if any(is_array(b) and isinstance(b, TracedArray) for b in bounds):
        raise located("arange: a bound is a traced array, so the length is not known", help="the length must be known")
    if any(isinstance(b, Expr) for b in bounds):
        if step != 1 or not all(isinstance(b, int | Expr) for b in bounds):
            raise located("arange: with a symbolic size, bounds are integers and the step is 1")
        found = i64 if dtype is None else element_type(dtype)
        numbers = iota((bounds[1] - bounds[0],), 0, found)
        return wrap(compose.binary("add", numbers, compose.size(bounds[0], found)) if bounds[0] != 0 else numbers)
    if step == 0:
        raise located("arange: the step is 0")
    if dtype is None:
        found = i64 if all(isinstance(b, int | np.integer) for b in bounds) else DEFAULT_FLOAT
    else:
        found = element_type(dtype)
    first, last, _ = bounds
    length = max(0, math.ceil((last - first) / step))
    if first == 0 and step == 1:
        return wrap(iota((length,), 0, found))
    return wrap(current().constant((first + np.arange(length) * step).astype(found.numpy)))


@public
def linspace(
    start: float, stop: float, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> TracedArray:
    """`num` evenly spaced numbers from `start` to `stop`."""
    found = DEFAULT_FLOAT if dtype is None else element_type(dtype)
    return wrap(current().constant(np.linspace(start, stop, num, endpoint=endpoint).astype(found.numpy)))


@public
def full(shape: Any, fill_value: ArrayLike, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """`fill_value` everywhere."""
    wanted = None if dtype is None else element_type(dtype)
    value = read(fill_value, None if is_array(fill_value) or isinstance(fill_value, bool) else wanted)
    if value.type.rank:
        raise located("full: the fill value is no scalar")
    return wrap(compose.broadcast_to(value if wanted is None else compose.cast(value, wanted), shape_of(shape)))


@public
def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """0 everywhere."""
    return wrap(compose.full(0, shape_of(shape), DEFAULT_FLOAT if dtype is None else element_type(dtype)))


@public
def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """1 everywhere."""
    return wrap(compose.full(1, shape_of(shape), DEFAULT_FLOAT if dtype is None else element_type(dtype)))


def _like(x: ArrayLike, dtype: Any) -> tuple[tuple[Dim, ...], DType]:
    found = dtype_of(x)
    shape = shape_of(x.shape) if is_array(x) else ()  # type: ignore[union-attr]
    if dtype is not None:
        return shape, element_type(dtype)
    return shape, weak_type(x, None) if found is None else found


@public
def full_like(x: ArrayLike, /, fill_value: bool | int | float, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """`fill_value` in the shape of `x`."""
    shape, found = _like(x, dtype)
    return wrap(compose.full(fill_value, shape, found))


@public
def zeros_like(x: ArrayLike, /, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """0 in the shape of `x`."""
    shape, found = _like(x, dtype)
    return wrap(compose.full(0, shape, found))


@public
def ones_like(x: ArrayLike, /, *, dtype: Any = None, device: Any = None) -> TracedArray:
    """1 in the shape of `x`."""
    shape, found = _like(x, dtype)
    return wrap(compose.full(1, shape, found))


empty, empty_like = zeros, zeros_like


def _below(rows: Dim, columns: Dim, k: int, kind: str) -> Value:
    """Whether column - row relates to `k` as `kind` says."""
    row, column = iota((rows, columns), 0, i64), iota((rows, columns), 1, i64)
    k = max(-(2**62), min(k, 2**62))  # beyond, no diagonal differs
    return compose.compare(kind, compose.binary("sub", column, row), k)


@public
def eye(n_rows: Dim, n_cols: Dim | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> TracedArray:
    """1 on the `k`-th diagonal."""
    found = DEFAULT_FLOAT if dtype is None else element_type(dtype)
    return wrap(compose.cast(_below(n_rows, n_rows if n_cols is None else n_cols, k, "eq"), found))


def _triangle(name: str, x: ArrayLike, k: int, kind: str) -> TracedArray:
    value = read(x)
    if value.type.rank < 2:
        raise located(f"{name}: needs two axes, the array has shape {compose.shown(value.type.shape)}")
    rows, columns = value.type.shape[-2:]
    inside = compose.broadcast_to(_below(rows, columns, k, kind), value.type.shape)
    if value.type.dtype == bool_:
        return wrap(compose.binary("and", value, inside))
    return wrap(compose.select(inside, value, 0))


@public
def tril(x: ArrayLike, /, *, k: int = 0) -> TracedArray:
    """The lower triangle of the last two axes; 0 above the `k`-th diagonal."""
    return _triangle("tril", x, k, "le")


@public
def triu(x: ArrayLike, /, *, k: int = 0) -> TracedArray:
    """The upper triangle of the last two axes; 0 below the `k`-th diagonal."""
    return _triangle("triu", x, k, "ge")


@public
def meshgrid(*arrays: ArrayLike, indexing: str = "xy") -> list[TracedArray]:
    """Coordinates of a grid over vectors."""
    if indexing not in ("xy", "ij"):
        raise located(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    values = [read(a) for a in arrays]
    values = [compose.reshape(v, (v.type.elements,)) for v in values]
    order = list(range(len(values)))
    if indexing == "xy" and len(values) > 1:
        order[:2] = [1, 0]
    shape = [values[i].type.shape[0] for i in order]
    result = []
    for index, value in enumerate(values):
        place = order.index(index)
        view = [d if a == place else 1 for a, d in enumerate(shape)]
        result.append(wrap(compose.broadcast_to(compose.reshape(value, view), shape)))
    return result
