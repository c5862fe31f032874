"""Where the results of a kernel stand on the axes that its reductions laid out.

A reduction's operand fixes which axis of the nest each of its dimensions runs along. What else the kernel stores is
computed from such values, so its dimensions run along the same axes, perhaps in another order: `place` follows the
operations between.
"""

from __future__ import annotations

from collections.abc import Mapping

from ds_compiler.backends.loops.ir import Index
from ds_compiler.backends.loops.points import Point
from ds_compiler.ir import OpResult, Value
from ds_compiler.ops import (
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Predicate,
    Reduce,
    Reshape,
    Select,
    Transpose,
    Unary,
)

_Partial = tuple[Index | None, ...]


def place(value: Value, known: Mapping[Value, Point], nest: Point) -> Point | None:
    """The index along each dimension of `value`, given those of the values it is computed from.

    A dimension along which all of them repeat runs along an axis of `nest` that no other dimension has, in order.
    None if there is no such axis.
    """
    found = _partial(value, known, {})
    free = iter([index for index in nest if index.axis and index not in found])
    point: list[Index] = []
    for size, index in zip(value.type.shape, found, strict=True):
        if index is None:
            index = next(free, None)
            if index is None or index.axis is None or index.axis.extent != size:
                return None
        point.append(index)
    return tuple(point)


def _partial(value: Value, known: Mapping[Value, Point], memo: dict[Value, _Partial]) -> _Partial:
    """The index along each dimension that those of `known` tell."""
    if value in known:
        return known[value]
    if value not in memo:
        found = _through(value, known, memo) if isinstance(value, OpResult) else (None,) * value.type.rank
        memo[value] = tuple(Index() if d == 1 else i for d, i in zip(value.type.shape, found, strict=True))
    return memo[value]


def _through(value: OpResult, known: Mapping[Value, Point], memo: dict[Value, _Partial]) -> _Partial:
    op = value.op
    match op:
        case Unary() | Binary() | Predicate() | Compare() | Select() | Cast() | Bitcast():
            candidates = [_partial(v, known, memo) for v in op.operands]
            return tuple(next((i for i in column if i is not None), None) for column in zip(*candidates))
        case Transpose():
            source = _partial(op.operand, known, memo)
            return tuple(source[a] for a in op.permutation)
        case Broadcast():
            result: list[Index | None] = [None] * len(op.shape)
            for axis, size, index in zip(
                op.axes, op.operand.type.shape, _partial(op.operand, known, memo), strict=True
            ):
                result[axis] = None if size == 1 else index
            return tuple(result)
        case Reduce():
            source = _partial(op.operand, known, memo)
            return tuple(index for axis, index in enumerate(source) if axis not in op.axes)
        case Reshape() if [d for d in op.shape if d != 1] == [d for d in op.operand.type.shape if d != 1]:
            sizes = op.operand.type.shape
            left = iter([i for i, d in zip(_partial(op.operand, known, memo), sizes, strict=True) if d != 1])
            return tuple(Index() if d == 1 else next(left) for d in op.shape)
    return (None,) * value.type.rank
