"""Unique: equal elements (or slices) found by sorting."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.indexing import positions_of_true
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Region, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bool_, i64, u8
from ds_compiler.ops import Cumulative, Gather, Iota, Predicate, Scan, ScatterElements, TopK, Yield


@onnx_op("Unique", since=11)
def unique(e: Emitter, n: Node) -> list[Value | None]:
    """Values, where each comes first, which of them each element is, and how often each occurs."""
    x = n.input(0)
    if x.type.dtype == bool_:
        x = e.cast(x, u8)
    axis = n.axis(n.int("axis", 0), x.type.rank) if n.has("axis") else None
    outer = [a for a in range(x.type.rank) if a != axis]
    if axis is None:
        rows = e.reshape(x, (x.type.elements, 1))
    else:
        moved = e.transpose(x, (axis, *outer))
        rows = e.reshape(moved, (moved.type.shape[0], product(moved.type.shape[1:])))
    count = rows.type.shape[0]
    order = _sorted(e, rows)
    ranked = e.emit(Gather(rows, order, 0))
    place = e.emit(Iota((count,), 0, i64))
    previous = e.emit(Gather(ranked, e.binary("max", e.binary("sub", place, 1), 0), 0))
    new = e.binary("or", e.compare("eq", place, 0), e.reduce(_differ(e, ranked, previous), (1,), "any"))
    group = e.binary("sub", e.emit(Cumulative(e.cast(new, i64), 0, "sum")), 1)
    starts = positions_of_true(e, new)
    groups = starts.type.shape[0]
    first = e.emit(Gather(order, starts, 0))  # sorting is stable: the earliest of equal elements
    ends = e.concat([e.slice(starts, 0, 1, groups), e.reshape(e.size(count), (1,))], 0)
    ends = e.reshape(e.slice(ends, 0, 0, groups), (groups,))
    counts = e.binary("sub", ends, starts)
    inverse = _written(e, order, group)
    if not n.int("sorted", 1):  # in the order in which they come first
        first, by_place = e.insert(TopK(first, groups, False))
        counts = e.emit(Gather(counts, by_place, 0))
        renamed = _written(e, by_place, e.emit(Iota((groups,), 0, i64)))
        inverse = e.emit(Gather(renamed, inverse, 0))
    values = e.emit(Gather(rows, first, 0))
    if axis is None:
        values = e.reshape(values, (groups,))
    else:
        values = e.reshape(values, (groups, *(x.type.shape[a] for a in outer)))
        back = [0 if a == axis else 1 + outer.index(a) for a in range(x.type.rank)]
        values = e.transpose(values, back)
    return [e.cast(values, n.input(0).type.dtype), first, inverse, counts]


def _sorted(e: Emitter, rows: Value) -> Value:
    """The order of rows [count, columns], compared from the first column on: a stable sort a column, the last first."""
    count, columns = rows.type.shape
    if columns == 1:
        return e.insert(TopK(e.reshape(rows, (count,)), count, False))[1]
    start = e.emit(Iota((count,), 0, i64))
    body = Block([start.type, rows.type.with_shape((count,))])
    with e.into(body):
        order, column = body.arguments
        _, moved = e.insert(TopK(e.emit(Gather(column, order, 0)), count, False))
        e.insert(Yield((e.emit(Gather(order, moved, 0)),)))
    scanned = (e.transpose(rows, (1, 0)),)
    return e.insert(Scan((start,), scanned, columns, Region(body), reverse=True))[0]


def _differ(e: Emitter, a: Value, b: Value) -> Value:
    """Whether elements differ; all NaN are one value, as in NumPy."""
    different = e.compare("ne", a, b)
    if not a.type.dtype.is_float:
        return different
    both = e.binary("and", *(e.emit(Predicate(v, "isnan")) for v in (a, b)))
    return e.binary("and", different, e.unary("not", both))


def _written(e: Emitter, places: Value, values: Value) -> Value:
    """A vector that holds ``values[i]`` at ``places[i]``, which are all different."""
    return e.emit(ScatterElements(e.full(0, values.type), places, values, 0, "set"))
