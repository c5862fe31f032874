"""Points in tensors, and how the points of a movement's result and of its operand belong together.

A point has one index a dimension. A transpose permutes it, a slice scales and shifts it; a reshape splits and merges
indices exactly where groups of dimensions have equal products, and computes quotients where none do.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.loops.ir import Graph, Index
from ds_compiler.ir.dims import Dim, Expr, mod, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ir.types import TensorType
from ds_compiler.ops import Broadcast

Point = tuple[Index, ...]


def strides_of(type_: TensorType) -> tuple[Dim, ...]:
    """Row-major strides in elements."""
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(type_.shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


def linear(point: Point, type_: TensorType) -> Index:
    """Position of `point` in a row-major buffer of `type_`."""
    total = Index()
    for index, stride, dim in zip(point, strides_of(type_), type_.shape, strict=True):
        if dim != 1:  # the only index of a unit dimension is 0
            total = total + index.scaled(stride)
    return total


def placed(rank: int, axes: Sequence[int], values: Sequence[Index]) -> Point:
    """The point with ``values[i]`` at ``axes[i]``, 0 elsewhere."""
    out = [Index()] * rank
    for axis, value in zip(axes, values, strict=True):
        out[axis] = value
    return tuple(out)


def broadcast_point(graph: Graph, op: Broadcast, point: Point) -> Point:
    """The operand's point of a broadcast."""
    source: list[Index] = []
    for dim, axis in zip(op.operand.type.shape, op.axes, strict=True):
        wanted = op.shape[axis]
        if dim == 1:
            source.append(Index())
        elif dim == wanted or not isinstance(dim, Expr):
            source.append(point[axis])
        else:  # repeats if the size turns out to be 1: index * (size != 1)
            differs = graph.compare("ne", graph.size(dim), graph.size(1))
            varies = graph.node("cast", (differs,), i64)
            product_ = graph.node("mul", (graph.index(point[axis]), varies), i64)
            source.append(Index(((product_, 1),)))
    return tuple(source)


def reshape_point(graph: Graph, source: TensorType, result: TensorType, point: Point) -> Point:
    """Index into the operand of a reshape: matching groups of dimensions are split or merged exactly."""
    if [d for d in source.shape if d != 1] == [d for d in result.shape if d != 1]:
        kept = iter(i for i, d in zip(point, result.shape, strict=True) if d != 1)
        return tuple(Index() if d == 1 else next(kept) for d in source.shape)
    groups = _match_groups(source.shape, result.shape)
    out: list[Index] = []
    for source_dims, result_range in groups:
        flat = Index()
        for axis in result_range:
            flat = flat.scaled(result.shape[axis]) + point[axis]
        out.extend(delinearize(graph, flat, source_dims))
    return tuple(out)


def delinearize(graph: Graph, flat: Index, dims: Sequence[Dim]) -> list[Index]:
    """The indices of `dims` whose row-major position is `flat`."""
    if not dims:
        return []
    if not flat.terms and flat.offset == 0:
        return [Index() for _ in dims]
    rest = graph.index(flat)
    divided = False
    out: list[Index] = []
    for position, dim in enumerate(dims):
        if position == len(dims) - 1:
            out.append(Index(((rest, 1),)) if divided else flat)
            break
        if dim == 1:
            out.append(Index())
            continue
        step = graph.size(product(tuple(dims[position + 1 :])))
        out.append(Index(((graph.node("index_div", (rest, step), i64), 1),)))
        rest = graph.node("index_mod", (rest, step), i64)
        divided = True
    return out


def _match_groups(source: Sequence[Dim], result: Sequence[Dim]) -> list[tuple[list[Dim], range]]:
    """Smallest groups of adjacent dimensions with equal products: (source dims, range of result axes)."""
    groups: list[tuple[list[Dim], range]] = []
    i = j = 0
    while i < len(source) or j < len(result):
        si, sj = i, j
        a: Dim = 1
        b: Dim = 1
        while True:
            if i < len(source) and (a == b or _smaller(a, b)) and not (a == b and i > si and j > sj):
                a, i = a * source[i], i + 1
            elif j < len(result):
                b, j = b * result[j], j + 1
            elif i < len(source):
                a, i = a * source[i], i + 1
            else:
                break
            if a == b and i > si and j > sj:
                break
        # trailing unit dimensions belong to the last group
        if i == len(source) or j == len(result):
            while i < len(source) and source[i] == 1:
                i += 1
            while j < len(result) and result[j] == 1:
                j += 1
        groups.append((list(source[si:i]), range(sj, j)))
    return groups


def _smaller(a: Dim, b: Dim) -> bool:
    """Whether to extend `a` rather than `b`: by value when both are known, the one that divides the other, else by
    number of symbols."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int)
    if mod(b, a) == 0 or mod(a, b) == 0:
        return mod(b, a) == 0
    return len(str(a)) < len(str(b))
