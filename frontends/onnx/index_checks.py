"""Indices of gather and scatter lie in range: shown at import, stated about sizes, or checked when the program runs.

Generated code clamps indices, so that memory stays safe; without these checks a wrong index would give a wrong result.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import is_non_negative, maximum
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Check
from ds_compiler.ops.bounds import bounds


def check_indices(
    e: Emitter, n: Node, indices: Value, size: Dim, axis: int, *, what: str = "index", negative: bool = True
) -> None:
    """Every element of `indices` lies in ``[-size, size - 1]``, or in ``[0, size - 1]`` where `negative` is False.

    Args:
        axis, what: for the message.

    Raises:
        CompileError: one is known not to.
    """
    if indices.type.elements == 0:
        return
    least: Dim = -size if negative else 0
    place = f"of axis {axis} is out of range [{least}, {size - 1}]"
    known = e.dims(indices)
    if known is not None:
        for index in dict.fromkeys(known):
            _state(e, n, (index - least, size - 1 - index), f"{what} {index} {place}")
        return
    low, high = bounds(indices, lambda value: _elements(e, value))
    inside: list[Value] = []
    wide = e.cast(indices, i64)
    if low is None or not is_non_negative(low - least):
        inside.append(e.compare("ge", wide, e.size(least)))
    if high is None or not is_non_negative(size - 1 - high):
        inside.append(e.compare("lt", wide, e.size(size)))
    if inside:
        both = inside[0] if len(inside) == 1 else e.binary("and", *inside)
        e.insert(Check(e.reduce(both, range(both.type.rank), "all"), f"{n.op_type}: {what} {place}"))


def check_points(e: Emitter, n: Node, indices: Value, sizes: Sequence[Dim], first_axis: int = 0) -> None:
    """The last axis of `indices` holds positions along `sizes`, the axes from `first_axis` on.

    Raises:
        CompileError: one is known to be out of range.
    """
    for place, size in enumerate(sizes):
        column = e.slice(indices, indices.type.rank - 1, place, place + 1)
        check_indices(e, n, column, size, first_axis + place)


def _elements(e: Emitter, value: Value) -> tuple[Dim, ...] | None:
    """What an integer tensor holds; empty where it is made from what no size tells."""
    known = e.dims(value)
    return () if known is None and e.source(value) is not None else known


def _state(e: Emitter, n: Node, spare: Sequence[Dim], wrong: str) -> None:
    """A known index is right, wrong, or right if the sizes are large enough: if all of `spare` are not negative."""
    for room in spare:
        if is_non_negative(room):
            continue
        if is_non_negative(-1 - room):
            n.fail(wrong)
        e.assume(maximum(room, 0), room, f"{n.op_type}: {wrong}")
