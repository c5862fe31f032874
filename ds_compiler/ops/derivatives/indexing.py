"""Derivatives of gathers and scatters: one is the transpose of the other."""

from __future__ import annotations

from collections.abc import Callable

from ds_compiler.ir import Value
from ds_compiler.ops.derivatives.rules import Cotangents, derivative
from ds_compiler.ops.derivatives.terms import Terms, inverse
from ds_compiler.ops.indexing import Gather, GatherElements, GatherND, ScatterElements, ScatterND, TopK


@derivative(Gather)
def gather(b: Terms, op: Gather, g: Value) -> Cotangents:
    """Rows are added up where they were read."""
    source, indices, axis = op.operand.type, op.indices, op.axis
    count = indices.type.rank
    order = [*range(axis, axis + count), *range(axis), *range(axis + count, g.type.rank)]
    front = [axis, *(a for a in range(source.rank) if a != axis)]
    zeros = b.zeros(source.with_shape([source.shape[a] for a in front]))
    at = b.reshape(indices, (*indices.type.shape, 1))
    summed = b.emit(ScatterND(zeros, at, b.transpose(g, order), "add"))
    return [b.transpose(summed, inverse(front)), None]


@derivative(GatherElements)
def gather_elements(b: Terms, op: GatherElements, g: Value) -> Cotangents:
    return [b.emit(ScatterElements(b.zeros(op.operand.type), op.indices, g, op.axis, "add")), None]


@derivative(GatherND)
def gather_nd(b: Terms, op: GatherND, g: Value) -> Cotangents:
    indices = op.indices
    if op.batch_axes:  # say the batch's indices too
        shape = (*indices.type.shape[:-1], 1)
        own = [b.iota(shape, axis, indices.type.dtype) for axis in range(op.batch_axes)]
        indices = b.concat([*own, indices], len(shape) - 1)
    return [b.emit(ScatterND(b.zeros(op.operand.type), indices, g, "add")), None]


def _scattered(
    b: Terms, op: ScatterND | ScatterElements, g: Value, read: Callable[[Value], Value], write: Callable[..., Value]
) -> Cotangents:
    """`read` takes elements at the indices, ``write(target, updates, mode)`` puts them there."""
    updates, y = op.updates, op.result
    match op.mode:
        case "set":
            return [write(g, b.zeros(updates.type), "set"), None, read(g)]
        case "add":
            return [g, None, read(g)]
        case "mul":
            zero = b.compare("eq", updates, 0)
            others = b.div(read(b.mul(g, y)), b.where(zero, b.full(updates.type, 1), updates))
            return [write(g, updates, "mul"), None, b.where(zero, read(b.mul(g, op.operand)), others)]
    # The elements that equal the extremum share the cotangent.
    dtype = g.type.dtype
    own = b.cast(b.compare("eq", op.operand, y), dtype)
    theirs = b.cast(b.compare("eq", updates, read(y)), dtype)
    share = b.div(g, write(own, theirs, "add"))
    return [b.mul(own, share), None, b.mul(theirs, read(share))]


@derivative(ScatterND)
def scatter_nd(b: Terms, op: ScatterND, g: Value) -> Cotangents:
    if op.indices.type.shape[-1] == 0:
        raise op.error("indices of depth 0 have no derivative")
    return _scattered(
        b,
        op,
        g,
        lambda x: b.emit(GatherND(x, op.indices, 0)),
        lambda x, u, mode: b.emit(ScatterND(x, op.indices, u, mode)),
    )


@derivative(ScatterElements)
def scatter_elements(b: Terms, op: ScatterElements, g: Value) -> Cotangents:
    return _scattered(
        b,
        op,
        g,
        lambda x: b.emit(GatherElements(x, op.indices, op.axis)),
        lambda x, u, mode: b.emit(ScatterElements(x, op.indices, u, op.axis, mode)),
    )


@derivative(TopK)
def top_k(b: Terms, op: TopK, g: Value) -> Cotangents:
    source = op.operand.type
    return [b.emit(ScatterElements(b.zeros(source), op.results[1], g, source.rank - 1, "add"))]
