"""Reductions, extrema with positions, running sums."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.torch.emitter import Emitter, axes_of, axis_of
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bool_, i64
from ds_compiler.ops import ArgReduce, Cumulative, GatherElements

Axes = Sequence[int] | int | None


@aten("aten.sum.dim_IntList", "aten.sum.default")
def sum_(e: Emitter, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return e.reduce(e.cast(x, e.result.dtype), axes_of(dim, x.type.rank), "sum", keepdim)


@aten("aten.mean.dim", "aten.mean.default")
def mean(e: Emitter, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return e.reduce(e.cast(x, e.result.dtype), axes_of(dim, x.type.rank), "mean", keepdim)


@aten("aten.prod.default")
def prod(e: Emitter, x: Value) -> Value:
    return e.reduce(e.cast(x, e.result.dtype), range(x.type.rank), "prod")


@aten("aten.prod.dim_int")
def prod_dim(e: Emitter, x: Value, dim: int, keepdim: bool = False) -> Value:
    return e.reduce(e.cast(x, e.result.dtype), axes_of(dim, x.type.rank), "prod", keepdim)


def _extremum(e: Emitter, x: Value, axes: Sequence[int], how: str, keepdim: bool) -> Value:
    if x.type.dtype == bool_:
        return e.reduce(x, axes, "any" if how == "max" else "all", keepdim)
    return e.reduce(x, axes, how, keepdim)


@aten("aten.amax.default", "aten.max.default")
def amax(e: Emitter, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return _extremum(e, x, axes_of(dim, x.type.rank), "max", keepdim)


@aten("aten.amin.default", "aten.min.default")
def amin(e: Emitter, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return _extremum(e, x, axes_of(dim, x.type.rank), "min", keepdim)


@aten("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_(e: Emitter, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return e.cast(e.reduce(e.truth(x), axes_of(dim, x.type.rank), "any", keepdim), e.result.dtype)


@aten("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_(e: Emitter, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return e.cast(e.reduce(e.truth(x), axes_of(dim, x.type.rank), "all", keepdim), e.result.dtype)


def _position(e: Emitter, x: Value, dim: int | None, how: str, keepdim: bool) -> Value:
    """The first position of an extremum, in the flattened tensor without `dim`."""
    if x.type.dtype == bool_:
        x = e.cast(x, i64)
    shape = x.type.shape
    if dim is None or not shape:
        flat = e.reshape(x, (product(shape),))
        found = e.emit(ArgReduce(flat, 0, how))
        return e.reshape(found, (1,) * len(shape)) if keepdim and dim is None else found
    axis = axis_of(dim, len(shape))
    found = e.emit(ArgReduce(x, axis, how))
    return e.reshape(found, [1 if a == axis else d for a, d in enumerate(shape)]) if keepdim else found


@aten("aten.argmax.default")
def argmax(e: Emitter, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _position(e, x, dim, "max", keepdim)


@aten("aten.argmin.default")
def argmin(e: Emitter, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _position(e, x, dim, "min", keepdim)


@aten("aten.max.dim")
def max_dim(e: Emitter, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return _extremum(e, x, axes_of(dim, x.type.rank), "max", keepdim), _position(e, x, dim, "max", keepdim)


@aten("aten.min.dim")
def min_dim(e: Emitter, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return _extremum(e, x, axes_of(dim, x.type.rank), "min", keepdim), _position(e, x, dim, "min", keepdim)


@aten("aten.cumsum.default")
def cumsum(e: Emitter, x: Value, dim: int) -> Value:
    return _running(e, x, dim, "sum")


@aten("aten.cumprod.default")
def cumprod(e: Emitter, x: Value, dim: int) -> Value:
    return _running(e, x, dim, "prod")


def _running(e: Emitter, x: Value, dim: int, how: str) -> Value:
    x = e.cast(x, e.result.dtype)
    return e.emit(Cumulative(x, axis_of(dim, x.type.rank), how)) if x.type.rank else x


@aten("aten.var.correction")
def var(e: Emitter, x: Value, dim: Axes = None, correction: float | None = None, keepdim: bool = False) -> Value:
    return _moments(e, x, dim, correction, keepdim)[0]


@aten("aten.var_mean.correction")
def var_mean(
    e: Emitter, x: Value, dim: Axes = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return _moments(e, x, dim, correction, keepdim)


def _moments(e: Emitter, x: Value, dim: Axes, correction: float | None, keepdim: bool) -> tuple[Value, Value]:
    """(variance, mean)"""
    wide = e.wide(x)
    axes = axes_of(dim, x.type.rank)
    average = e.reduce(wide, axes, "mean", True)
    centred = e.binary("sub", wide, average)
    square = e.binary("mul", centred, centred)
    correction = 1 if correction is None else correction
    if correction == 0:
        variance = e.reduce(square, axes, "mean", keepdim)
    else:
        count = product(tuple(x.type.shape[a] for a in axes))
        degrees = e.binary("sub", e.scalar(count, wide.type.dtype), correction)
        total = e.reduce(square, axes, "sum", keepdim)
        variance = e.binary("div", total, e.binary("max", degrees, 0))
    dtype = e.result.dtype
    if not keepdim:
        average = e.reshape(average, variance.type.shape)
    return e.cast(variance, dtype), e.cast(average, dtype)


@aten("aten.gather.default")
def gather(e: Emitter, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    if index.type.elements == 0:  # PyTorch asks neither for i64 nor for as many axes
        return e.full(0, e.result)
    if not x.type.rank:
        flat = e.reshape(index, (index.type.elements,))
        e.check_indices(flat, 1, 0)
        return e.reshape(e.emit(GatherElements(e.reshape(x, (1,)), flat, 0)), e.result.shape)
    axis = axis_of(dim, x.type.rank)
    e.check_indices(index, x.type.shape[axis], axis)
    return e.emit(GatherElements(x, index, axis))
