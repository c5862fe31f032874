"""Small compositions on IR values; each returns its operand where it would do nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.places import here
from ds_compiler.ir import Dim, DType, Expr, Value
from ds_compiler.ir.dims import broadcast_dim, symbols_of
from ds_compiler.ops import (
    Assume,
    Binary,
    Broadcast,
    Cast,
    Check,
    Compare,
    Concat,
    Reduce,
    Reshape,
    Select,
    Size,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.ops.bounds import bounds, in_range
from ds_compiler.ops.shape import slice_size


def scalar(value: object, dtype: DType) -> Value:
    """A scalar constant."""
    return current().constant(np.asarray(value).astype(dtype.numpy))


def size(dim: Dim, dtype: DType) -> Value:
    """A size as a scalar of type `dtype`."""
    if isinstance(dim, Expr):
        return cast(current().emit(Size(dim)), dtype)
    return scalar(dim, dtype)


def full(value: object, shape: Sequence[Dim], dtype: DType) -> Value:
    """A tensor that holds `value` everywhere."""
    return broadcast_to(scalar(value, dtype), shape)


def full_like(value: object, like: Value) -> Value:
    return full(value, like.type.shape, like.type.dtype)


def cast(value: Value, dtype: DType) -> Value:
    return value if value.type.dtype == dtype else current().emit(Cast(value, dtype))


def reshape(value: Value, shape: Sequence[Dim]) -> Value:
    shape = tuple(shape)
    return value if value.type.shape == shape else current().emit(Reshape(value, shape))


def transpose(value: Value, permutation: Sequence[int]) -> Value:
    permutation = tuple(permutation)
    if permutation == tuple(range(value.type.rank)):
        return value
    return current().emit(Transpose(value, permutation))


def moved(value: Value, source: int, target: int) -> Value:
    """Axis `source` at place `target`."""
    order = [a for a in range(value.type.rank) if a != source]
    order.insert(target, source)
    return transpose(value, order)


def broadcast_to(value: Value, shape: Sequence[Dim]) -> Value:
    """NumPy broadcasting to exactly `shape`.

    Raises:
        TraceError: the sizes do not fit.
    """
    shape, source = tuple(shape), value.type.shape
    if source == shape:
        return value
    if len(source) > len(shape) or any(
        isinstance(a, int) and isinstance(b, int) and a not in (1, b) for a, b in zip(source[::-1], shape[::-1])
    ):
        raise located(f"an array of shape {shown(source)} does not broadcast to {shown(shape)}")
    if len(source) == len(shape) and all(a == b or same_size(a, b) for a, b in zip(source, shape)):
        for a, b in zip(source, shape):
            assume(a, b)
        return reshape(value, shape)
    keep = [i for i, d in enumerate(source) if d != 1]
    value = reshape(value, [source[i] for i in keep])
    axes = tuple(i + len(shape) - len(source) for i in keep)
    return value if value.type.shape == shape else current().emit(Broadcast(value, shape, axes))


def common_shape(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The shape that NumPy broadcasting gives.

    Raises:
        TraceError: two sizes do not fit.
    """
    rank = max(len(s) for s in shapes)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, b in enumerate(shape, rank - len(shape)):
            a = result[axis]
            if isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b):
                raise located(f"shapes {' and '.join(shown(s) for s in shapes)} do not broadcast")
            if a != b and same_size(a, b):
                assume(a, b)
                result[axis] = min(a, b, key=lambda d: (len(str(d)), str(d)))
            else:
                result[axis] = broadcast_dim(a, b)
    return tuple(result)


def same_size(a: Dim, b: Dim) -> bool:
    """Whether two different expressions that meet are taken for one size: they are computed from the same symbols."""
    return isinstance(a, Expr) and isinstance(b, Expr) and a != b and symbols_of(a) == symbols_of(b)


def assume(a: Dim, b: Dim) -> None:
    """State that two sizes are equal; the program checks it."""
    if a != b:
        current().insert(Assume(a, b))


def aligned(*values: Value) -> list[Value]:
    """Operands broadcast to their common shape."""
    shape = common_shape([v.type.shape for v in values])
    return [broadcast_to(v, shape) for v in values]


def unary(kind: str, value: Value) -> Value:
    return current().emit(Unary(value, kind))


def binary(kind: str, lhs: Value, rhs: Value | float) -> Value:
    """With broadcasting; a Python number takes the other operand's element type."""
    left, right = aligned(lhs, rhs if isinstance(rhs, Value) else scalar(rhs, lhs.type.dtype))
    return current().emit(Binary(left, right, kind))


def compare(kind: str, lhs: Value, rhs: Value | float) -> Value:
    """With broadcasting."""
    left, right = aligned(lhs, rhs if isinstance(rhs, Value) else scalar(rhs, lhs.type.dtype))
    return current().emit(Compare(left, right, kind))


def select(condition: Value, on_true: Value | float, on_false: Value | float) -> Value:
    """``numpy.where`` with broadcasting; at least one of the two is a value."""
    like = on_true if isinstance(on_true, Value) else on_false
    assert isinstance(like, Value)
    values = [v if isinstance(v, Value) else scalar(v, like.type.dtype) for v in (on_true, on_false)]
    return current().emit(Select(*aligned(condition, *values)))


def reduce(value: Value, axes: Sequence[int], how: str, keepdims: bool = False) -> Value:
    axes = tuple(sorted(axes))
    if not axes:
        return value
    result = current().emit(Reduce(value, axes, how))
    if keepdims:
        result = reshape(result, [1 if a in axes else d for a, d in enumerate(value.type.shape)])
    return result


def sliced(value: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
    """``value[start:stop:step]`` along one axis; bounds already lie in range."""
    shape = value.type.shape
    count = slice_size(start, stop, step)
    if start == 0 and step == 1 and count == shape[axis]:
        return value
    starts: list[Dim] = [0] * len(shape)
    sizes, steps = list(shape), [1] * len(shape)
    starts[axis], sizes[axis], steps[axis] = start, count, step
    return current().emit(Slice(value, tuple(starts), tuple(sizes), tuple(steps)))


def concat(values: Sequence[Value], axis: int) -> Value:
    return values[0] if len(values) == 1 else current().emit(Concat(tuple(values), axis))


def shown(shape: Sequence[Dim]) -> str:
    """A shape in messages."""
    return "(" + ", ".join(str(d) for d in shape) + ("," if len(shape) == 1 else "") + ")"


def check_indices(indices: Value, size: Dim, axis: int, kind: str) -> None:
    """Every element of `indices` lies in ``[-size, size - 1]``; checked at run time unless it is known.

    Args:
        axis, kind: the axis of that size and the user's operation, for the message.

    Raises:
        TraceError: all are known not to.
    """
    if not indices.type.dtype.is_integer:
        return  # the operation itself tells
    wrong = f"an index of axis {axis} is out of range [{-size}, {size - 1}]"
    low, high = bounds(indices)
    if (
        isinstance(size, int)
        and indices.type.elements != 0
        and ((isinstance(low, int) and low >= size) or (isinstance(high, int) and high < -size))
    ):
        raise located(wrong, kind=kind)
    condition = in_range(current().emit, indices, size)
    if condition is not None:
        current().insert(Check(condition, wrong).at(here(kind)))
