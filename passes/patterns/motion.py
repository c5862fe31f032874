"""Reshapes and broadcasts through elementwise code.

Reshapes sink towards results, where they meet, cancel or end as free views; broadcasts sink too, so that work is
done on the small tensor. Both directions are the same everywhere, so nothing moves back and forth.
"""

from __future__ import annotations

from ds_compiler.ir import Builder, Dim, Operation, Value
from ds_compiler.ops import Binary, Broadcast, Cast, Compare, Constant, Predicate, Reshape, Select, Unary
from ds_compiler.passes.matching import constant, defined_by, groups, reshaped, with_operands
from ds_compiler.passes.patterns.canonical import pattern
from ds_compiler.passes.rewriter import Rewrite

_MAX_RESHAPED_CONSTANT = 64 << 10


@pattern(Unary, Predicate, Cast, Binary, Compare, Select)
def reshape_below_elementwise(op: Operation, builder: Builder) -> Rewrite:
    """``f(reshape x, reshape y)`` → ``reshape f(x, y)``; broadcasts and constants among the operands are reshaped."""
    before: tuple[Dim, ...] | None = None
    for operand in op.operands:
        reshape = defined_by(operand, Reshape)
        if reshape is not None:
            if before is not None and reshape.operand.type.shape != before:
                return None
            before = reshape.operand.type.shape
    if before is None:
        return None
    after = op.operands[0].type.shape
    operands: list[Value] = []
    for operand in op.operands:
        reshape = defined_by(operand, Reshape)
        moved = reshape.operand if reshape is not None else _unreshaped(operand, before, after, builder)
        if moved is None:
            return None
        operands.append(moved)
    return reshaped(builder, builder.emit(with_operands(op, operands)), after)


def _unreshaped(value: Value, before: tuple[Dim, ...], after: tuple[Dim, ...], builder: Builder) -> Value | None:
    """`value` (of shape `after`) in shape `before`, if that costs nothing at run time."""
    array = constant(value)
    if array is not None:
        if array.nbytes > _MAX_RESHAPED_CONSTANT:
            return None
        if not all(isinstance(d, int) for d in before):
            return None
        return builder.emit(Constant(array.reshape(before)))
    broadcast = defined_by(value, Broadcast)
    if broadcast is None:
        return None
    if broadcast.operand.type.rank == 0:
        return builder.emit(Broadcast(broadcast.operand, before, ()))
    regrouped = groups(after, before)
    if regrouped is None:
        return None
    axes: list[int] = []
    shape: list[Dim] = []
    source = broadcast.operand.type.shape
    for here, there in regrouped:
        carried = [broadcast.axes.index(a) for a in here if a in broadcast.axes]
        if not carried:
            continue
        if any(after[a] != 1 for a in here if a not in broadcast.axes):
            return None
        if any(source[i] != after[broadcast.axes[i]] for i in carried):
            return None
        axes.extend(there)
        shape.extend(before[a] for a in there)
    return builder.emit(Broadcast(reshaped(builder, broadcast.operand, shape), before, tuple(axes)))


@pattern(Unary, Predicate, Cast, Binary, Compare, Select)
def broadcast_below_elementwise(op: Operation, builder: Builder) -> Rewrite:
    """``f(broadcast x, broadcast y)`` → ``broadcast f(x', y')`` over the axes that x or y really have."""
    sources: list[Broadcast] = []
    for operand in op.operands:
        broadcast = defined_by(operand, Broadcast)
        if broadcast is None:
            return None
        sources.append(broadcast)
    shape = op.operands[0].type.shape
    # An axis is real where some operand has it in full; an operand of size 1 there is repeated.
    real = sorted({a for s in sources for i, a in enumerate(s.axes) if s.operand.type.shape[i] != 1})
    for source in sources:
        for i, axis in enumerate(source.axes):
            if source.operand.type.shape[i] not in (1, shape[axis]):
                return None  # repeated or not is decided at run time
    if len(real) == len(shape):
        return None
    small = tuple(shape[a] for a in real)
    operands = []
    for source in sources:
        kept = [i for i, a in enumerate(source.axes) if a in real]
        dims = [source.operand.type.shape[i] for i in kept]
        operand = reshaped(builder, source.operand, dims)
        axes = tuple(real.index(source.axes[i]) for i in kept)
        if operand.type.shape != small:
            operand = builder.emit(Broadcast(operand, small, axes))
        operands.append(operand)
    return builder.emit(Broadcast(builder.emit(with_operands(op, operands)), shape, tuple(real)))
