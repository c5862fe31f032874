"""A builder with the words that derivatives are written in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from ds_compiler.ir import Block, Builder, Dim, Location, Operation, TensorType, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.location import UNKNOWN
from ds_compiler.ops.elementwise import Binary, Cast, Compare, Select, Unary
from ds_compiler.ops.reduction import Reduce
from ds_compiler.ops.shape import Broadcast, Concat, Constant, Iota, Pad, Reshape, Size, Slice, Transpose

_T = TypeVar("_T", bound=Operation)


class Terms(Builder):
    """Emits small terms; operands of arithmetic have equal types, a number stands for itself in every element."""

    def __init__(
        self, block: Block | None = None, *, before: Operation | None = None, location: Location = UNKNOWN
    ) -> None:
        super().__init__(block, before=before, location=location)
        self._records: list[list[Operation]] = []

    def insert(self, operation: _T) -> _T:
        for record in self._records:
            record.append(operation)
        return super().insert(operation)

    @contextmanager
    def recording(self) -> Iterator[list[Operation]]:
        """The operations that are inserted inside, in order."""
        record: list[Operation] = []
        self._records.append(record)
        try:
            yield record
        finally:
            self._records.pop()

    # -- numbers -------------------------------------------------------------------------------
    def full(self, type_: TensorType, number: Any) -> Value:
        """`number` in every element."""
        scalar = self.emit(Constant(np.asarray(number, type_.dtype.numpy).reshape(())))
        return scalar if not type_.rank else self.emit(Broadcast(scalar, type_.shape, ()))

    def zeros(self, type_: TensorType) -> Value:
        return self.full(type_, 0)

    def size(self, dims: Sequence[Dim], like: TensorType) -> Value:
        """The product of sizes, as a number in every element of a value of type `like`."""
        count = product(tuple(dims))
        if isinstance(count, int):
            return self.full(like, count)
        scalar = self.cast(self.emit(Size(count)), like.dtype)
        return scalar if not like.rank else self.emit(Broadcast(scalar, like.shape, ()))

    # -- arithmetic ----------------------------------------------------------------------------
    def unary(self, kind: str, x: Value) -> Value:
        return self.emit(Unary(x, kind))

    def _binary(self, kind: str, a: Value, b: Value | float) -> Value:
        return self.emit(Binary(a, b if isinstance(b, Value) else self.full(a.type, b), kind))

    def neg(self, x: Value) -> Value:
        return self.unary("neg", x)

    def add(self, a: Value, b: Value | float) -> Value:
        return self._binary("add", a, b)

    def sub(self, a: Value, b: Value | float) -> Value:
        return self._binary("sub", a, b)

    def mul(self, a: Value, b: Value | float) -> Value:
        return self._binary("mul", a, b)

    def div(self, a: Value, b: Value | float) -> Value:
        return self._binary("div", a, b)

    def square(self, x: Value) -> Value:
        return self.mul(x, x)

    def binary(self, kind: str, a: Value, b: Value | float) -> Value:
        return self._binary(kind, a, b)

    def compare(self, kind: str, a: Value, b: Value | float) -> Value:
        return self.emit(Compare(a, b if isinstance(b, Value) else self.full(a.type, b), kind))

    def where(self, condition: Value, g: Value, otherwise: Value | None = None) -> Value:
        """`g` where `condition` holds, `otherwise` (zero) elsewhere."""
        return self.emit(Select(condition, g, self.zeros(g.type) if otherwise is None else otherwise))

    def unless(self, condition: Value, g: Value) -> Value:
        """Zero where `condition` holds, `g` elsewhere."""
        return self.emit(Select(condition, self.zeros(g.type), g))

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.type.dtype == dtype else self.emit(Cast(x, dtype))

    # -- movement ------------------------------------------------------------------------------
    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        return x if x.type.shape == tuple(shape) else self.emit(Reshape(x, tuple(shape)))

    def transpose(self, x: Value, permutation: Sequence[int]) -> Value:
        permutation = tuple(permutation)
        return x if permutation == tuple(range(len(permutation))) else self.emit(Transpose(x, permutation))

    def broadcast(self, x: Value, shape: Sequence[Dim], axes: Sequence[int]) -> Value:
        shape, axes = tuple(shape), tuple(axes)
        return x if x.type.shape == shape else self.emit(Broadcast(x, shape, axes))

    def spread(self, x: Value, shape: Sequence[Dim], reduced: Sequence[int]) -> Value:
        """What a reduction over the axes `reduced` of `shape` gave, back in every element that it came from."""
        return self.broadcast(x, shape, [a for a in range(len(shape)) if a not in reduced])

    def sum(self, x: Value, axes: Sequence[int]) -> Value:
        axes = tuple(sorted(axes))
        return self.emit(Reduce(x, axes, "sum")) if axes else x

    def slice(self, x: Value, starts: Sequence[Dim], sizes: Sequence[Dim], steps: Sequence[int] = ()) -> Value:
        steps = tuple(steps) or (1,) * len(starts)
        if tuple(sizes) == x.type.shape and all(s == 0 for s in starts) and set(steps) <= {1}:
            return x
        return self.emit(Slice(x, tuple(starts), tuple(sizes), steps))

    def flip(self, x: Value, axes: Sequence[int]) -> Value:
        """`x` backwards along `axes`."""
        shape = x.type.shape
        starts = [shape[a] - 1 if a in axes else 0 for a in range(x.type.rank)]
        return self.slice(x, starts, shape, [-1 if a in axes else 1 for a in range(x.type.rank)])

    def pad(self, x: Value, low: Sequence[Dim], high: Sequence[Dim]) -> Value:
        """`x` with zeros around it."""
        if all(w == 0 for w in (*low, *high)):
            return x
        return self.emit(Pad(x, self.full(TensorType((), x.type.dtype), 0), tuple(low), tuple(high)))

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        return parts[0] if len(parts) == 1 else self.emit(Concat(tuple(parts), axis))

    def iota(self, shape: Sequence[Dim], axis: int, dtype: DType) -> Value:
        return self.emit(Iota(tuple(shape), axis, dtype))

    def spaced(self, x: Value, steps: Sequence[int]) -> Value:
        """Elements of `x` at every ``steps[i]``-th place of axis i, zeros between and behind: size n becomes n*step."""
        shape = x.type.shape
        if set(steps) <= {1}:
            return x
        wide: list[Dim] = []
        high: list[int] = []
        for size, step in zip(shape, steps, strict=True):
            wide += [size, 1] if step > 1 else [size]
            high += [0, step - 1] if step > 1 else [0]
        padded = self.pad(self.reshape(x, wide), [0] * len(wide), high)
        return self.reshape(padded, [n * s for n, s in zip(shape, steps, strict=True)])


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `permutation`."""
    result = [0] * len(permutation)
    for index, axis in enumerate(permutation):
        result[axis] = index
    return tuple(result)


def splat(value: Value) -> float | None:
    """The number that every element equals, if a constant says so."""
    op = value.defining_op
    while isinstance(op, Broadcast | Reshape):
        op = op.operand.defining_op
    return float(op.value.reshape(-1)[0]) if isinstance(op, Constant) and op.value.size == 1 else None
