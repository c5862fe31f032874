"""Sorting and the largest elements; ties come in order of position."""

from __future__ import annotations

from ds_compiler.frontends.torch.emitter import Emitter, axis_of
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Value
from ds_compiler.ops import TopK


@aten("aten.topk.default")
def topk(e: Emitter, x: Value, k: Dim, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, Value]:
    return _ordered(e, x, dim, k, largest)


@aten("aten.sort.default")
def sort(e: Emitter, x: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    return _ordered(e, x, dim, None, descending)


@aten("aten.sort.stable")
def sort_stable(
    e: Emitter, x: Value, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    return _ordered(e, x, dim, None, descending)


def _ordered(e: Emitter, x: Value, dim: int, k: Dim | None, largest: bool) -> tuple[Value, Value]:
    rank = x.type.rank
    if not rank:
        return x, e.full(0, x.type.with_dtype(e.results[1].dtype)) if e.results[1] is not None else x
    axis = axis_of(dim, rank)
    order = [*(a for a in range(rank) if a != axis), axis]
    moved = e.transpose(x, order)
    values, positions = e.insert(TopK(moved, x.type.shape[axis] if k is None else k, largest))
    back = [order.index(a) for a in range(rank)]
    return e.transpose(values, back), e.transpose(positions, back)
