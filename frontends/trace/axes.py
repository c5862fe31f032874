"""Axes and shapes as users give them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from ds_compiler.frontends.trace.errors import NoSuchAxis
from ds_compiler.frontends.trace.frame import located
from ds_compiler.frontends.trace.places import here
from ds_compiler.ir import CompileError, Dim, Expr


def whole(number: Any, what: str) -> int:
    """An integer that is known while the function is traced.

    Raises:
        TraceError: it is none.
    """
    try:
        return operator.index(number)
    except CompileError:
        raise
    except TypeError:
        raise located(f"{what} is a {type(number).__name__}, expected an integer") from None


def axis_of(axis: Any, rank: int) -> int:
    """`axis`, counted from the start.

    Raises:
        NoSuchAxis: it is none of the array's.
    """
    index = whole(axis, "an axis")
    if not -rank <= index < rank:
        raise NoSuchAxis(f"axis {index} is out of range for an array of {rank} axes", location=here())
    return index % rank


def axes_of(axis: Any, rank: int) -> tuple[int, ...]:
    """One, several or all (None) axes, in increasing order.

    Raises:
        TraceError: one is none of the array's, or given twice.
    """
    if axis is None:
        return tuple(range(rank))
    axes = [axis_of(a, rank) for a in (axis if isinstance(axis, Sequence) else (axis,))]
    if len(set(axes)) != len(axes):
        raise located(f"an axis is given twice: {axis}")
    return tuple(sorted(axes))


def shape_of(shape: Any) -> tuple[Dim, ...]:
    """A shape: one size, or a sequence of them.

    Raises:
        TraceError: a size is negative.
    """
    dims = shape if isinstance(shape, Sequence) else (shape,)
    result = tuple(d if isinstance(d, Expr) else whole(d, "a size") for d in dims)
    if any(isinstance(d, int) and d < 0 for d in result):
        raise located(f"the shape {tuple(shape)} has a negative size")
    return result
