"""Reading and writing at computed positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ds_compiler.frontends.torch.emitter import Emitter, Operand, axis_of
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bool_, i64
from ds_compiler.ops import Cumulative, Gather, GatherND, ScatterElements, ScatterND


@aten("aten.embedding.default")
def embedding(
    e: Emitter,
    weight: Value,
    indices: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    e.check_indices(indices, weight.type.shape[0], 0)
    return e.emit(Gather(weight, indices, 0))


@aten("aten.index_select.default")
def index_select(e: Emitter, x: Value, dim: int, index: Value) -> Value:
    if not x.type.rank:
        return x
    index = e.reshape(index, (1,)) if not index.type.rank else index
    axis = axis_of(dim, x.type.rank)
    e.check_indices(index, x.type.shape[axis], axis)
    return e.emit(Gather(x, index, axis))


def _placed(e: Emitter, x: Value, indices: Sequence[Value | None]) -> tuple[list[int], list[Value], bool]:
    """(indexed axes, their indices of one shape, whether the axes are neighbours)

    Raises:
        CompileError: a mask is among the indices; how many elements it picks is in the data.
    """
    axes = [a for a, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    for index in given:
        if index.type.dtype == bool_:
            raise e.fail("an index is a mask, so the result's size depends on data")
    shape = e.common_shape(*(g.type.shape for g in given))
    wide = [e.broadcast_to(e.cast(g, i64), shape) for g in given]
    return axes, wide, axes == list(range(axes[0], axes[0] + len(axes)))


def _check(e: Emitter, x: Value, indices: Sequence[Value | None], *, negative: bool = True) -> None:
    for axis, index in enumerate(indices):
        if index is not None and index.type.dtype != bool_:
            e.check_indices(index, x.type.shape[axis], axis, negative=negative)


def _points(e: Emitter, x: Value, axes: Sequence[int], given: Sequence[Value]) -> Value:
    """Index vectors, as `gather_nd` and `scatter_nd` read them; no component is negative."""
    columns = []
    for axis, index in zip(axes, given, strict=True):
        from_end = e.binary("add", index, x.type.shape[axis])
        index = e.select(e.compare("lt", index, 0), from_end, index)
        columns.append(e.reshape(index, (*index.type.shape, 1)))
    return e.concat(columns, given[0].type.rank)


def _no_mask(node: Any) -> bool:
    return not any(i is not None and i.meta["val"].dtype == torch.bool for i in node.args[1])


def _no_mask_or_one_number(node: Any) -> bool:
    accumulate = len(node.args) > 3 and node.args[3]
    if accumulate and node.meta["val"].dtype == torch.bool:
        return False
    return _no_mask(node) or (len(node.args[1]) == 1 and not accumulate and node.args[2].meta["val"].numel() == 1)


@aten("aten.index.Tensor", when=_no_mask)
def index(e: Emitter, x: Value, indices: Sequence[Value | None]) -> Value:
    _check(e, x, indices)
    return unsafe_index(e, x, indices)


@aten("aten._unsafe_index.Tensor", when=_no_mask)
def unsafe_index(e: Emitter, x: Value, indices: Sequence[Value | None]) -> Value:
    """Of indices that decompositions make, which are in range."""
    axes, given, adjacent = _placed(e, x, indices)
    if len(axes) == 1:
        return e.emit(Gather(x, given[0], axes[0]))
    others = [a for a in range(x.type.rank) if a not in axes]
    moved = e.transpose(x, (*axes, *others))
    result = e.emit(GatherND(moved, _points(e, x, axes, given), 0))
    if not adjacent or axes[0] == 0:
        return result
    depth, front = given[0].type.rank, axes[0]  # the indices' axes stand where the indexed ones stood
    order = [*range(depth, depth + front), *range(depth), *range(depth + front, result.type.rank)]
    return e.transpose(result, order)


@aten("aten.index_put.default", when=_no_mask_or_one_number)
def index_put(e: Emitter, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    _check(e, x, indices)
    return unsafe_index_put(e, x, indices, values, accumulate)


@aten("aten._unsafe_index_put.default", when=_no_mask_or_one_number)
def unsafe_index_put(
    e: Emitter, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    """At indices that decompositions make, which are in range."""
    if len(indices) == 1 and indices[0] is not None and indices[0].type.dtype == bool_ and not accumulate:
        mask = indices[0]  # a single number written under a mask
        if values.type.elements == 1:
            mask = e.reshape(mask, (*mask.type.shape, *(1,) * (x.type.rank - mask.type.rank)))
            number = e.broadcast_to(e.reshape(values, ()), x.type.shape)
            return e.select(e.broadcast_to(mask, x.type.shape), number, x)
    axes, given, adjacent = _placed(e, x, indices)
    others = [a for a in range(x.type.rank) if a not in axes]
    depth = given[0].type.rank
    inner = [x.type.shape[a] for a in others]
    front = axes[0] if adjacent else 0
    stated = (*inner[:front], *given[0].type.shape, *inner[front:])
    updates = e.broadcast_to(e.cast(values, x.type.dtype), stated)
    order = [*range(front, front + depth), *range(front), *range(front + depth, len(stated))]
    updates = e.transpose(updates, order)
    moved = e.transpose(x, (*axes, *others))
    mode = "add" if accumulate else "set"
    result = e.emit(ScatterND(moved, _points(e, x, axes, given), updates, mode))
    back = [(*axes, *others).index(a) for a in range(x.type.rank)]
    return e.transpose(result, back)


@aten("aten.masked_scatter.default", when=lambda node: node.args[2].meta["val"].numel() != 0)
def masked_scatter(e: Emitter, x: Value, mask: Value, source: Value) -> Value:
    """Where the mask holds, the source's elements one after the other."""
    mask = e.broadcast_to(mask, e.result.shape)
    place = e.reshape(_ranks(e, mask), e.result.shape)
    e.check_indices(place, source.type.elements, 0)
    taken = e.emit(Gather(e.reshape(source, (source.type.elements,)), place, 0))
    return e.select(mask, taken, e.broadcast_to(x, e.result.shape))


@aten("aten.masked_scatter_backward.default")
def masked_scatter_backward(e: Emitter, grad: Value, mask: Value, sizes: Sequence[Dim]) -> Value:
    """The gradients under the mask, one after the other, then zeros."""
    mask = e.broadcast_to(mask, grad.type.shape)
    kept = e.select(mask, grad, e.full(0, grad.type))
    into = e.full(0, grad.type.with_shape((product(tuple(sizes)),)))
    total = (grad.type.elements,)
    return e.reshape(e.emit(ScatterElements(into, _ranks(e, mask), e.reshape(kept, total), 0, "add")), e.result.shape)


def _ranks(e: Emitter, mask: Value) -> Value:
    """Flat: for an element under the mask how many are in front of it there, else 0."""
    flat = e.cast(e.reshape(mask, (mask.type.elements,)), i64)
    return e.binary("mul", e.binary("sub", e.emit(Cumulative(flat, 0, "sum")), 1), flat)


@aten("aten.scatter.src")
def scatter_src(e: Emitter, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _scatter(e, x, dim, index, source, "set")


@aten("aten.scatter.value")
def scatter_value(e: Emitter, x: Value, dim: int, index: Value, value: Operand) -> Value:
    return _scatter(e, x, dim, index, e.full(value, x.type.with_shape(index.type.shape)), "set")


@aten("aten.scatter_add.default")
def scatter_add(e: Emitter, x: Value, dim: int, index: Value, source: Value) -> Value:
    return _scatter(e, x, dim, index, source, "add")


_MODES = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def _scatters(node: Any) -> bool:
    return node.args[4] in _MODES and node.kwargs.get("include_self", True)


@aten("aten.scatter_reduce.two", when=_scatters)
def scatter_reduce(
    e: Emitter, x: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    return _scatter(e, x, dim, index, source, _MODES[reduce])


def _scatter(e: Emitter, x: Value, dim: int, index: Value, source: Value, mode: str) -> Value:
    if not x.type.rank:
        return _scatter_flat(e, x, source, mode)
    for axis, (have, want) in enumerate(zip(source.type.shape, index.type.shape, strict=True)):
        if have != want:  # the source may be larger than the indices
            source = e.slice(source, axis, 0, want)
    axis = axis_of(dim, x.type.rank)
    e.check_indices(index, x.type.shape[axis], axis)
    return e.emit(ScatterElements(x, index, source, axis, mode))


def _scatter_flat(e: Emitter, x: Value, source: Value, mode: str) -> Value:
    source = e.reshape(source, ())
    return source if mode == "set" else e.binary(mode, x, source)


def _is_no_bool(node: Any) -> bool:
    return bool(node.meta["val"].dtype != torch.bool)


@aten("aten.index_add.default", when=_is_no_bool)
def index_add(e: Emitter, x: Value, dim: int, index: Value, source: Value, alpha: Operand = 1) -> Value:
    if not x.type.rank:
        flat = e.reshape(index, (index.type.elements,))
        added = index_add(e, e.reshape(x, (1,)), 0, flat, e.reshape(source, flat.type.shape), alpha)
        return e.reshape(added, ())
    axis = axis_of(dim, x.type.rank)
    source = source if alpha == 1 else e.binary("mul", source, alpha)
    places: list[Value | None] = [*[None] * axis, index]
    _check(e, x, places, negative=False)
    return unsafe_index_put(e, x, places, source, True)
