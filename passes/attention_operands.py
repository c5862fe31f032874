"""What a kernel of attention can read in place: views of values, and values but for a factor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ds_compiler.ir import Dim, Operation, Value
from ds_compiler.ops import Binary, Broadcast, Reshape, Slice, Transpose
from ds_compiler.passes.matching import groups, splat


@dataclass
class View:
    """`source` seen through operations whose every index is affine in the axes that a kernel walks."""

    source: Value
    factor: float = 1.0


def view_of(
    value: Value, walked: Iterable[int], aliases: dict[Value, Value] | None = None, known: Value | None = None
) -> View:
    """What `value` is a view of: `known` if it is reached. `walked`: the axes along which strides must exist.

    With `aliases`, factors common to all elements are taken out, and what remains is recorded there.
    """
    axes = set(walked)
    view = View(value)
    free_from = value  # the source as far as no operation but reshapes, free views themselves, follows
    while view.source is not known:
        op = view.source.defining_op
        factor = scaled_by(op) if aliases is not None else None
        if factor is not None and isinstance(op, Binary) and aliases is not None:
            aliases[op.result] = op.lhs
            view.factor *= factor
            view.source = op.lhs
            continue_from = op.lhs
        else:
            above = _through(op, axes)
            if above is None or op is None:
                break
            axes = above
            continue_from = view.source = op.operands[0]
        if not isinstance(op, Reshape):
            free_from = continue_from
    if view.source is not known:
        view.source = free_from
    return view


def unscaled(value: Value, aliases: dict[Value, Value]) -> View:
    """`value` without a factor common to all elements."""
    op = value.defining_op
    factor = scaled_by(op)
    if factor is None or not isinstance(op, Binary):
        return View(value)
    aliases[value] = op.lhs
    return View(op.lhs, factor)


def scaled_by(op: Operation | None) -> float | None:
    if not isinstance(op, Binary) or op.kind not in ("mul", "div"):
        return None
    number = splat(op.rhs)
    if number is None or not number:
        return None
    return float(number) if op.kind == "mul" else 1.0 / float(number)


def _through(op: Operation | None, walked: set[int]) -> set[int] | None:
    """The operand's walked axes; None when `op` is no view, or would break a walked axis."""
    match op:
        case Transpose():
            return {op.permutation[a] for a in walked}
        case Slice():
            return walked
        case Broadcast():
            shape = op.operand.type.shape
            if any(d not in (1, op.shape[a]) for d, a in zip(shape, op.axes, strict=True)):
                return None
            kept = {a: i for i, a in enumerate(op.axes) if shape[i] == op.shape[a]}
            return {kept[a] for a in walked} if walked <= kept.keys() else None
        case Reshape():
            regrouped = groups(op.operand.type.shape, op.shape)
            return None if regrouped is None else _regrouped(op.operand.type.shape, regrouped, walked)
    return None


def _regrouped(
    shape: tuple[Dim, ...], regrouped: list[tuple[tuple[int, ...], tuple[int, ...]]], walked: set[int]
) -> set[int] | None:
    axes: set[int] = set()
    for before, after in regrouped:
        if walked.isdisjoint(after):
            continue
        real = [a for a in before if shape[a] != 1]
        if len(real) > 1:
            return None  # a walked axis would jump where the outer source axis moves on
        axes.update(real or before[:1])
    return axes
