"""Bounds of integer tensors, from the operations that compute them: which indices cannot be out of range.

Generated code clamps indices, so that memory stays safe; front ends insert a `Check` where these bounds do not show
that an index lies in range, for otherwise a wrong one would give a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ds_compiler.ir import Dim, DType, Expr, Operation, Value
from ds_compiler.ir.dims import is_non_negative, maximum, minimum
from ds_compiler.ir.dtypes import i64, u64
from ds_compiler.ops.elementwise import Binary, Cast, Compare, Select
from ds_compiler.ops.indexing import Gather, GatherElements, GatherND, TopK
from ds_compiler.ops.reduction import ArgReduce, Reduce
from ds_compiler.ops.shape import Broadcast, Concat, Constant, Iota, Reshape, Size, Slice, Transpose

_DEEPEST = 24

_Combine = Callable[[Dim, Dim], Dim]
_Known = Callable[[Value], "tuple[Dim, ...] | None"]


class Bounds(NamedTuple):
    """Every element lies in ``[low, high]``; None where nothing is known."""

    low: Dim | None
    high: Dim | None


UNBOUNDED = Bounds(None, None)


def _constant(value: Value) -> tuple[Dim, ...] | None:
    """What a small constant holds."""
    op = value.defining_op
    if not isinstance(op, Constant) or op.value.size > 4096:
        return None
    return tuple(int(x) for x in op.value.reshape(-1))


def bounds(value: Value, known: _Known = _constant, depth: int = _DEEPEST) -> Bounds:
    """What the operations that compute an integer `value` say about its elements.

    Args:
        known: the elements of an integer tensor, if they are known; an empty tuple: neither they nor what makes them.
    """
    if not value.type.dtype.is_integer:
        return UNBOUNDED
    elements = known(value)
    if elements is not None:
        return _enclosing(elements)
    if depth == 0:
        return UNBOUNDED
    op = value.defining_op
    match op:
        case Iota():
            return Bounds(0, op.shape[op.axis] - 1)
        case Size():
            return Bounds(op.dim, op.dim)
        case ArgReduce() if is_non_negative(op.operand.type.shape[op.axis] - 1):
            return Bounds(0, op.operand.type.shape[op.axis] - 1)
        case TopK() if value is op.results[1]:
            return Bounds(0, op.operand.type.shape[-1] - 1)
        case Slice():
            return _union([bounds(v, known, depth - 1) for v in _read_parts(op)])
        case Reshape() | Transpose() | Broadcast() | Gather() | GatherElements() | GatherND():
            return bounds(op.operands[0], known, depth - 1)
        case Cast():
            inner = bounds(op.operand, known, depth - 1)
            return inner if _holds(op.dtype, inner) else UNBOUNDED
        case Concat():
            return _union([bounds(v, known, depth - 1) for v in op.inputs])
        case Select():
            return _union([bounds(v, known, depth - 1) for v in (op.on_true, op.on_false)])
        case Binary():
            found = _binary(op.kind, bounds(op.lhs, known, depth - 1), bounds(op.rhs, known, depth - 1))
            return found if op.kind not in ("add", "sub") or _holds(value.type.dtype, found) else UNBOUNDED
    return UNBOUNDED


def _read_parts(op: Slice) -> Sequence[Value]:
    """What a slice reads: its operand, or of a concatenation the parts that it touches."""
    source = op.operand.defining_op
    if not isinstance(source, Concat):
        return (op.operand,)
    start, size, step = op.starts[source.axis], op.sizes[source.axis], op.steps[source.axis]
    extents = [v.type.shape[source.axis] for v in source.inputs]
    if step != 1 or not isinstance(start, int) or not isinstance(size, int):
        return (op.operand,)
    touched: list[Value] = []
    place = 0
    for value, extent in zip(source.inputs, extents, strict=True):
        if not isinstance(extent, int):
            return (op.operand,)
        if place < start + size and start < place + extent:
            touched.append(value)
        place += extent
    return touched or (op.operand,)


def _enclosing(values: tuple[Dim, ...]) -> Bounds:
    if not values or len(values) > 4096:
        return UNBOUNDED
    if all(isinstance(v, int) for v in values):
        numbers = [v for v in values if isinstance(v, int)]
        return Bounds(min(numbers), max(numbers))
    return _union([Bounds(v, v) for v in dict.fromkeys(values)]) if len(values) <= 64 else UNBOUNDED


def _either(a: Dim | None, b: Dim | None, better: _Combine) -> Dim | None:
    """The better of two bounds that both hold."""
    if a is None or b is None:
        return b if a is None else a
    return better(a, b)


def _both(a: Dim | None, b: Dim | None, combine: _Combine) -> Dim | None:
    return None if a is None or b is None else combine(a, b)


def _union(parts: list[Bounds]) -> Bounds:
    low, high = parts[0]
    for part in parts[1:]:
        low, high = _both(low, part.low, minimum), _both(high, part.high, maximum)
    return Bounds(low, high)


def _holds(dtype: DType, inner: Bounds) -> bool:
    """Whether elements of type `dtype` can have these bounds: no number of that type wraps around."""
    if dtype.kind not in "iu" or inner.low is None or inner.high is None:
        return False
    if dtype.bits == 64:  # sizes fit into 63 bits
        return dtype.kind == "i" or is_non_negative(inner.low)
    if not isinstance(inner.low, int) or not isinstance(inner.high, int):
        return False
    bits = dtype.bits - (dtype.kind == "i")
    return (-(1 << bits) if dtype.kind == "i" else 0) <= inner.low and inner.high < 1 << bits


def _binary(kind: str, a: Bounds, b: Bounds) -> Bounds:
    match kind:
        case "mod" if b.low is not None and b.low == b.high and is_non_negative(b.low - 1):
            return Bounds(0, b.low - 1)  # the sign of the divisor
        case "max":
            return Bounds(_either(a.low, b.low, maximum), _both(a.high, b.high, maximum))
        case "min":
            return Bounds(_both(a.low, b.low, minimum), _either(a.high, b.high, minimum))
        case "add":
            return Bounds(_both(a.low, b.low, lambda x, y: x + y), _both(a.high, b.high, lambda x, y: x + y))
        case "sub":
            return Bounds(_both(a.low, b.high, lambda x, y: x - y), _both(a.high, b.low, lambda x, y: x - y))
    return UNBOUNDED


def in_range(emit: Callable[[Operation], Value], indices: Value, size: Dim, *, negative: bool = True) -> Value | None:
    """Whether every element of `indices` lies in ``[-size, size - 1]``, or in ``[0, size - 1]`` without `negative`.

    Returns:
        a bool scalar to check, or None where `bounds` shows it already.
    """
    if indices.type.elements == 0:
        return None
    low, high = bounds(indices)
    unsigned = indices.type.dtype.kind == "u"
    wide = u64 if unsigned and indices.type.dtype.bits == 64 else i64
    limits: list[tuple[str, Dim]] = []
    least: Dim = -size if negative else 0
    if not unsigned and (low is None or not is_non_negative(low - least)):
        limits.append(("ge", least))
    if high is None or not is_non_negative(size - 1 - high):
        limits.append(("lt", size))
    if not limits:
        return None
    if indices.type.dtype != wide:
        indices = emit(Cast(indices, wide))
    inside: list[Value] = []
    for kind, limit in limits:
        bound = emit(Size(limit)) if isinstance(limit, Expr) else emit(Constant(np.asarray(limit, wide.numpy)))
        if bound.type.dtype != wide:
            bound = emit(Cast(bound, wide))
        if indices.type.rank:
            bound = emit(Broadcast(bound, indices.type.shape, ()))
        inside.append(emit(Compare(indices, bound, kind)))
    both = inside[0] if len(inside) == 1 else emit(Binary(inside[0], inside[1], "and"))
    return emit(Reduce(both, tuple(range(both.type.rank)), "all")) if both.type.rank else both
