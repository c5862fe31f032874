"""Elements read and written at computed positions."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices, check_points
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, TensorType, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Cumulative, Gather, GatherElements, GatherND, Iota, ScatterElements, ScatterND

_REDUCTIONS = {"none": "set", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@onnx_op("Gather")
def gather(e: Emitter, n: Node) -> Value:
    x, indices = n.input(0), n.input(1)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    check_indices(e, n, indices, x.type.shape[axis], axis)
    return e.emit(Gather(x, indices, axis))


@onnx_op("GatherElements", since=11)
def gather_elements(e: Emitter, n: Node) -> Value:
    x, indices = n.input(0), n.input(1)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    check_indices(e, n, indices, x.type.shape[axis], axis)
    return e.emit(GatherElements(x, indices, axis))


@onnx_op("GatherND", since=11)
def gather_nd(e: Emitter, n: Node) -> Value:
    x, indices, batch = n.input(0), n.input(1), n.int("batch_dims", 0)
    result = GatherND(x, indices, batch)
    check_points(e, n, indices, _addressed(x, indices, batch), batch)
    return e.emit(result)


@onnx_op("Scatter", since=9)
@onnx_op("ScatterElements", since=11)
def scatter_elements(e: Emitter, n: Node) -> Value:
    x, indices = n.input(0), n.input(1)
    updates = n.input(2)
    if updates.type.rank == indices.type.rank:  # one size may be written in two ways
        updates = e.broadcast_to(updates, indices.type.shape)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    check_indices(e, n, indices, x.type.shape[axis], axis)
    return e.emit(ScatterElements(x, indices, updates, axis, _reduction(n)))


@onnx_op("ScatterND", since=11)
def scatter_nd(e: Emitter, n: Node) -> Value:
    x, indices = n.input(0), n.input(1)
    result = ScatterND(x, indices, n.input(2), _reduction(n))
    check_points(e, n, indices, _addressed(x, indices))
    return e.emit(result)


def _addressed(x: Value, indices: Value, batch: int = 0) -> tuple[Dim, ...]:
    """Sizes of the axes of `x` that the last axis of `indices` (whose size the type rule has checked) addresses."""
    depth = indices.type.shape[-1]
    assert isinstance(depth, int)
    return x.type.shape[batch : batch + depth]


def _reduction(n: Node) -> str:
    return _REDUCTIONS[n.choice("reduction", "none", tuple(_REDUCTIONS))]


def positions_of_true(e: Emitter, flags: Value) -> Value:
    """Where a bool vector is true, in order: an i64 vector whose size depends on the data.

    Each true element's place in the result is the number of true ones before it; the others are written to one place
    behind the result.
    """
    known = e.array(flags)
    if known is not None:
        return e.constant(known.nonzero()[0].astype("int64"))
    (length,) = flags.type.shape
    ordinal = e.emit(Cumulative(e.cast(flags, i64), 0, "sum"))
    count = e.bind(e.reduce(e.cast(flags, i64), (0,), "sum"), "count")
    place = e.select(flags, e.binary("sub", ordinal, 1), e.size(count))
    empty = e.full(0, TensorType((count + 1,), i64))
    written = e.emit(ScatterElements(empty, place, e.emit(Iota((length,), 0, i64)), 0, "set"))
    return e.slice(written, 0, 0, count)


@onnx_op("NonZero", since=9)
def non_zero(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    dims = x.type.shape
    flat = positions_of_true(e, e.truth(e.reshape(x, (product(dims),))))
    (count,) = flat.type.shape
    if not dims:
        return e.full(0, TensorType((0, count), i64))
    rows = []
    for axis, dim in enumerate(dims):
        row = flat
        inner = product(dims[axis + 1 :])
        if inner != 1:
            row = e.binary("div", row, e.size(inner))
        if axis:
            row = e.binary("mod", row, e.size(dim))
        rows.append(e.reshape(row, (1, count)))
    return e.concat(rows, 0)


@onnx_op("Compress", since=9)
def compress(e: Emitter, n: Node) -> Value:
    """A condition that is shorter than the axis leaves the rest out."""
    x, condition = n.input(0), n.input(1)
    if condition.type.rank != 1:
        n.fail(f"the condition is {condition.type}, expected a vector")
    if not n.has("axis"):
        x = e.reshape(x, (x.type.elements,))
    axis = n.axis(n.int("axis", 0), x.type.rank)
    return e.emit(Gather(x, positions_of_true(e, condition), axis))


@onnx_op("ReverseSequence", since=10)
def reverse_sequence(e: Emitter, n: Node) -> Value:
    """Along the time axis, the first ``lengths[b]`` elements of batch entry b are turned round."""
    x, lengths = n.input(0), n.input(1)
    rank = x.type.rank
    time, batch = n.axis(n.int("time_axis", 0), rank), n.axis(n.int("batch_axis", 1), rank)
    if lengths.type.rank != 1 or {time, batch} != {0, 1}:
        n.fail(f"lengths {lengths.type}, time axis {time}, batch axis {batch} of {x.type}")
    step = e.emit(Iota(x.type.shape, time, i64))
    length = e.broadcast(e.cast(lengths, i64), x.type.shape, (batch,))
    turned = e.binary("sub", e.binary("sub", length, 1), step)
    index = e.select(e.compare("lt", step, length), turned, step)
    check_indices(e, n, lengths, x.type.shape[time] + 1, time, what="length", negative=False)
    return e.emit(GatherElements(x, index, time))
