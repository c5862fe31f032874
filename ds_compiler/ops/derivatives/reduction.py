"""Derivatives of reductions and running reductions."""

from __future__ import annotations

from ds_compiler.ir import Block, Region, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops.control import Scan, Yield
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms, inverse
from ds_compiler.ops.indexing import ScatterElements
from ds_compiler.ops.reduction import ArgReduce, Cumulative, Reduce


@derivative(Reduce)
def reduce(b: Terms, op: Reduce, g: Value) -> Cotangents:
    """Equal extrema share the cotangent evenly. A product's is the product of the others, exact at zeros."""
    x, axes = op.operand, op.axes
    shape = x.type.shape
    match op.how:
        case "sum":
            return [b.spread(g, shape, axes)]
        case "mean":
            return [b.spread(b.div(g, b.size([shape[a] for a in axes], g.type)), shape, axes)]
        case "max" | "min":
            chosen = b.compare("eq", x, b.spread(op.result, shape, axes))
            count = b.sum(b.cast(chosen, x.type.dtype), axes)
            return [b.where(chosen, b.spread(b.div(g, count), shape, axes))]
        case "prod":
            return [b.mul(b.spread(g, shape, axes), _product_of_others(b, x, axes))]
    return [None]


def _product_of_others(b: Terms, x: Value, axes: tuple[int, ...]) -> Value:
    shape = x.type.shape
    order = [*(a for a in range(x.type.rank) if a not in axes), *axes]
    kept = [shape[a] for a in order[: len(order) - len(axes)]]
    flat = b.reshape(b.transpose(x, order), [*kept, product(tuple(shape[a] for a in axes))])
    before = b.emit(Cumulative(flat, len(kept), "prod", exclusive=True))
    behind = b.emit(Cumulative(flat, len(kept), "prod", exclusive=True, reverse=True))
    others = b.reshape(b.mul(before, behind), [shape[a] for a in order])
    return b.transpose(others, inverse(order))


@derivative(ArgReduce)
def arg_reduce(b: Terms, op: ArgReduce, g: Value) -> Cotangents:
    return [None]


@derivative(Cumulative)
def cumulative(b: Terms, op: Cumulative, g: Value) -> Cotangents:
    match op.how:
        case "sum":
            return [b.emit(Cumulative(g, op.axis, "sum", op.exclusive, not op.reverse))]
        case "prod":
            return [_running_product(b, op, g)]
    return [_running_extremum(b, op, g)]


def _running_product(b: Terms, op: Cumulative, g: Value) -> Value:
    """Backwards through the steps of the product, which divides by nothing and so is exact at zeros."""
    order = [op.axis, *(a for a in range(g.type.rank) if a != op.axis)]
    before = op.result
    if not op.exclusive:
        before = b.emit(Cumulative(op.operand, op.axis, "prod", True, op.reverse))
    inputs = tuple(b.transpose(v, order) for v in (op.operand, before, g))
    step = inputs[0].type.with_shape(inputs[0].type.shape[1:])
    block = Block([step] * 4, ["carry", "x", "before", "g"])
    carry, x, product_before, cotangent = block.arguments
    inside = Terms(block, location=b.location)
    after: Value = carry if op.exclusive else inside.add(carry, cotangent)
    back = inside.mul(after, x)
    if op.exclusive:
        back = inside.add(back, cotangent)
    inside.insert(Yield((back, inside.mul(after, product_before))))
    scan = b.insert(Scan((b.zeros(step),), inputs, inputs[0].type.shape[0], Region(block), not op.reverse))
    return b.transpose(scan.results[1], inverse(order))


def _running_extremum(b: Terms, op: Cumulative, g: Value) -> Value:
    """The cotangent goes to where the extremum was found last."""
    x, axis = op.operand, op.axis
    y: Value = op.result
    extent = x.type.shape[axis]
    if op.exclusive:
        y = b.emit(Cumulative(x, axis, op.how, False, op.reverse))
        g = _shifted(b, g, axis, 1 if op.reverse else -1)
    place = b.iota(x.type.shape, axis, i64)
    nowhere = b.size([extent], place.type) if op.reverse else b.full(place.type, -1)
    found = b.where(b.compare("eq", x, y), place, nowhere)
    last = b.emit(Cumulative(found, axis, "min" if op.reverse else "max", False, op.reverse))
    inside = b.binary("max", last, 0)  # NaN equals nothing
    inside = b.binary("min", inside, b.sub(b.size([extent], place.type), 1))
    return b.emit(ScatterElements(b.zeros(x.type), inside, g, axis, "add"))


def _shifted(b: Terms, g: Value, axis: int, by: int) -> Value:
    """`g` moved along an axis, zeros where nothing moved to."""
    shape = g.type.shape
    if shape[axis] == 0:
        return g
    starts = [-by if a == axis and by < 0 else 0 for a in range(g.type.rank)]
    sizes = [n - 1 if a == axis else n for a, n in enumerate(shape)]
    low = [by if a == axis and by > 0 else 0 for a in range(g.type.rank)]
    high = [-by if a == axis and by < 0 else 0 for a in range(g.type.rank)]
    return b.pad(b.slice(g, starts, sizes), low, high)
