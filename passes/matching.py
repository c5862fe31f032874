"""Small questions that patterns ask about values, and the values they build."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ds_compiler.ir import Builder, Dim, Operation, OpResult, TensorType, Value
from ds_compiler.ir.dims import mod
from ds_compiler.ops import Binary, Broadcast, Cast, Compare, Constant, Predicate, Reshape, Select, Transpose, Unary

Array: TypeAlias = "np.ndarray[Any, Any]"
ELEMENTWISE = (Unary, Binary, Compare, Predicate, Select, Cast)
_T = TypeVar("_T", bound=Operation)


def defined_by(value: Value, kind: type[_T]) -> _T | None:
    """The operation that computes `value` if it is a `kind`."""
    if isinstance(value, OpResult) and isinstance(value.op, kind):
        return value.op
    return None


def constant(value: Value) -> Array | None:
    """The array of a constant."""
    op = defined_by(value, Constant)
    return None if op is None else op.value


def splat(value: Value) -> Any:
    """The NumPy scalar that every element equals, or None: a one-element constant, possibly broadcast."""
    if not isinstance(value, OpResult):
        return None
    op = value.op
    while isinstance(op, Broadcast | Reshape):
        inner = op.operand
        if not isinstance(inner, OpResult):
            return None
        op = inner.op
    if isinstance(op, Constant) and op.value.size == 1:
        return op.value.reshape(-1)[0]
    return None


def is_splat(value: Value, number: float) -> bool:
    """Every element equals `number` (zeros of both signs count as 0)."""
    element = splat(value)
    return element is not None and bool(element == number)


def full(builder: Builder, type_: TensorType, number: Any) -> Value:
    """`number` in every element, in canonical form: a broadcast of a scalar constant."""
    scalar = builder.emit(Constant(np.asarray(number, type_.dtype.numpy).reshape(())))
    return scalar if type_.rank == 0 else builder.emit(Broadcast(scalar, type_.shape, ()))


def reshaped(builder: Builder, value: Value, shape: Sequence[Dim]) -> Value:
    """`value` under another shape (itself when it has that shape)."""
    shape = tuple(shape)
    return value if value.type.shape == shape else builder.emit(Reshape(value, shape))


def transposed(builder: Builder, value: Value, permutation: Sequence[int]) -> Value:
    """`value` with axes permuted (itself for the identity)."""
    permutation = tuple(permutation)
    if permutation == tuple(range(len(permutation))):
        return value
    return builder.emit(Transpose(value, permutation))


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `permutation`."""
    result = [0] * len(permutation)
    for index, axis in enumerate(permutation):
        result[axis] = index
    return tuple(result)


def walks_as_one(axes: Sequence[int]) -> bool:
    """Whether axes are adjacent and in order, so that a row-major tensor is read along them with one stride."""
    return all(b == a + 1 for a, b in itertools.pairwise(axes))


def with_operands(op: _T, operands: Sequence[Value], **changes: Any) -> _T:
    """A detached copy of an operation without regions that reads `operands` (as many as it has now)."""
    fields: dict[str, Any] = dict(op.attributes)
    position = 0
    for field in op.fields:
        if field.role == "operand":
            fields[field.name] = operands[position]
            position += 1
        elif field.role == "variadic":
            count = len(getattr(op, field.name))
            fields[field.name] = tuple(operands[position : position + count])
            position += count
    return type(op)(**(fields | changes), location=op.location)


def groups(before: Sequence[Dim], after: Sequence[Dim]) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """How a row-major reshape regroups axes: pairs (axes of `before`, axes of `after`) with equal products.

    The finest such list, in order; None when symbolic sizes leave it open. Axes of size 1 that fit nowhere join a
    neighbour: (2, 1, 3) to (6,) is one group.
    """
    result: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        a: Dim = 1
        b: Dim = 1
        if i < len(before) and j < len(after):
            left, right, a, b = [i], [j], before[i], after[j]
            i, j = i + 1, j + 1
        elif i < len(before):
            left, a, i = [i], before[i], i + 1
        else:
            right, b, j = [j], after[j], j + 1
        while a != b:
            if _extend_left(a, b, i < len(before), j < len(after)):
                left.append(i)
                a, i = a * before[i], i + 1
            elif j < len(after):
                right.append(j)
                b, j = b * after[j], j + 1
            else:
                return None
        result.append((tuple(left), tuple(right)))
    return result


def _extend_left(a: Dim, b: Dim, more_left: bool, more_right: bool) -> bool:
    """Whether to multiply the left product on, to make two unequal products meet."""
    if not more_left or not more_right:
        return more_left
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(a, int):
        return True
    if isinstance(b, int):
        return False
    if mod(b, a) == 0:  # a is a factor of b: the left product is not complete
        return True
    if mod(a, b) == 0:
        return False
    return len(str(a)) < len(str(b)) if len(a.terms) == len(b.terms) else len(a.terms) < len(b.terms)
