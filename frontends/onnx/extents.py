"""Shapes, bounds and counts that a model gives as integer tensors: numbers, sizes in symbols, or run-time scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Cast, Concat, Reshape

Extent: TypeAlias = "Dim | Value"
"""A size (which may be negative where it is a bound), or an i64 scalar that holds it at run time."""


def entries(e: Emitter, n: Node, vector: Value, what: str) -> list[Extent]:
    """The numbers in an integer vector (or in a scalar: one).

    Raises:
        CompileError: it is no integer vector; how many numbers it holds is not known.
    """
    if not vector.type.dtype.is_integer or vector.type.rank > 1:
        n.fail(f"{what} is {vector.type}, expected a vector of integers")
    count = vector.type.elements
    if not isinstance(count, int):
        n.fail(
            f"{what} is {vector.type}: how many numbers it holds, and so the result's rank, is not known",
            help=f"fix dimension '{count}'",
        )
    return _entries(e, vector, count)


def _entries(e: Emitter, vector: Value, count: int) -> list[Extent]:
    """Looks through what joins known numbers with others, so that only the others are run-time scalars."""
    known = e.dims(vector)
    if known is not None:
        return list(known)
    match vector.defining_op:
        case Reshape() as op if op.operand.type.rank <= 1:
            return _entries(e, op.operand, count)
        case Cast() as op if op.dtype.bits >= 32 and op.operand.type.dtype.is_integer:
            return _entries(e, op.operand, count)
        case Concat() as op:
            return [x for v in op.inputs for x in _entries(e, v, int(v.type.elements))]
    return [e.element(vector, i) for i in range(count)] if vector.type.rank else [e.cast(vector, i64)]


def known_numbers(e: Emitter, n: Node, vector: Value, what: str) -> tuple[int, ...]:
    """The numbers in an integer tensor that decides more than sizes (axes, steps).

    Raises:
        CompileError: they depend on data or on symbolic sizes.
    """
    array = e.array(vector)
    if array is None or array.dtype.kind not in "iu":
        n.needed(e, vector, what)
    return tuple(int(x) for x in array.reshape(-1))


def as_value(e: Emitter, extent: Extent) -> Value:
    """An i64 scalar that holds `extent`."""
    return extent if isinstance(extent, Value) else e.size(extent)


def as_size(e: Emitter, extent: Extent, hint: str = "n") -> Dim:
    """`extent` as a size: a run-time scalar is bound to a symbol (below 0 it counts as 0)."""
    return e.bind(extent, hint) if isinstance(extent, Value) else extent


def quotient(whole: Sequence[Dim], parts: Sequence[Dim]) -> Dim:
    """The product of `whole` divided by that of `parts`, common factors cancelled."""
    rest = list(parts)
    left = []
    for dim in whole:
        if dim in rest:
            rest.remove(dim)
        else:
            left.append(dim)
    divisor = product(tuple(rest))
    return 0 if divisor == 0 else floordiv(product(tuple(left)), divisor)
