"""Inserts primitives, and supplies the small compositions that handlers share. PyTorch knows all result types."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ds_compiler.ir import Block, CompileError, Dim, DType, Expr, Location, Operation, TensorType, Value
from ds_compiler.ir.dims import broadcast_dim
from ds_compiler.ir.dtypes import bool_, f32, i64, u32
from ds_compiler.ir.location import UNKNOWN
from ds_compiler.ops import (
    Assume,
    Binary,
    Broadcast,
    Cast,
    Check,
    Compare,
    Concat,
    Constant,
    DotGeneral,
    Iota,
    Pad,
    Reduce,
    Reshape,
    Select,
    Size,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.ops.bounds import in_range
from ds_compiler.ops.random import Key
from ds_compiler.ops.shape import slice_size

Array = np.ndarray[Any, Any]
Operand = Value | int | float | bool | Expr


class Emitter:
    """Inserts at the end of `block`.

    Attributes:
        results: types of the current operator's results (None for what is no tensor), as PyTorch tells.
        promoted: the element type to which PyTorch promotes its operands.
        key: the argument of `block` that random numbers are made from, once an operator has asked for it.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.location: Location = UNKNOWN
        self.results: tuple[TensorType | None, ...] = ()
        self.promoted: DType = f32
        self.key: Value | None = None
        self._words: tuple[Value, ...] = ()
        self._streams = itertools.count()
        self._assumed: set[tuple[Dim, Dim]] = set()
        self._made: dict[tuple[Any, ...], Value] = {}

    @property
    def result(self) -> TensorType:
        """The type of the current operator's first result."""
        first = self.results[0]
        assert first is not None
        return first

    @contextmanager
    def at(self, location: Location) -> Iterator[None]:
        """Stamp operations inserted inside with `location`."""
        previous, self.location = self.location, location
        try:
            yield
        finally:
            self.location = previous

    def fail(self, what: str, help: str = "") -> CompileError:
        return CompileError(what, location=self.location, help=help)

    def insert(self, operation: Operation) -> list[Value]:
        """The results of `operation`, inserted."""
        if not operation.location:
            operation.location = self.location
        self.block.append(operation)
        return list(operation.results)

    def emit(self, operation: Operation) -> Value:
        """The only result of `operation`, inserted."""
        return self.insert(operation)[0]

    def conform(self, value: Value, expected: TensorType) -> Value:
        """`value` under the type that PyTorch states: the same, up to how sizes are written.

        Raises:
            CompileError: they differ, which is an error in a handler.
        """
        if value.type == expected:
            return value
        a, b = value.type.shape, expected.shape
        same = value.type.dtype == expected.dtype and len(a) == len(b)
        if not same or any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(a, b, strict=True)):
            raise self.fail(f"the result is {value.type}, PyTorch has {expected}")
        for x, y in zip(a, b, strict=True):
            if x != y and (x, y) not in self._assumed:
                self._assumed.add((x, y))
                self.insert(Assume(x, y))
        return self.reshape(value, b)

    # -- constants -----------------------------------------------------------------------------------
    def constant(self, array: Any) -> Value:
        return self.emit(Constant(np.asarray(array)))

    def scalar(self, value: Operand, dtype: DType) -> Value:
        """A number, a size, or a tensor as it is, in element type `dtype`."""
        if isinstance(value, Value):
            return self.cast(value, dtype)
        if isinstance(value, Expr):
            return self._once(("size", value, dtype), lambda: self.cast(self.emit(Size(value)), dtype))
        with np.errstate(over="ignore"):
            array = np.asarray(value).astype(dtype.numpy)
        return self._once(("number", array.tobytes(), dtype), lambda: self.constant(array))

    def _once(self, key: tuple[Any, ...], make: Callable[[], Value]) -> Value:
        """What `make` emitted for the key at first: graphs repeat their small constants a hundred times."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def full(self, value: Operand, like: TensorType) -> Value:
        """A tensor of type `like` that holds `value` everywhere."""
        scalar = self.scalar(value, like.dtype)
        return self._once(("full", scalar, like), lambda: self.broadcast_to(scalar, like.shape))

    def iota(self, shape: Sequence[Dim], axis: int, dtype: DType = i64) -> Value:
        return self._once(("iota", tuple(shape), axis, dtype), lambda: self.emit(Iota(tuple(shape), axis, dtype)))

    def random_stream(self) -> tuple[Key, int]:
        """A key and the number of a stream, for `ds_compiler.ops.random`; never the same twice."""
        if self.key is None:
            self.key = self.block.add_argument(TensorType((2,), u32), "key")
            self._words = tuple(self.reshape(self.slice(self.key, 0, i, i + 1), ()) for i in (0, 1))
        return (self._words[0], self._words[1]), next(self._streams)

    # -- movement; each returns its operand where it would do nothing ----------------------------------
    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        shape = tuple(shape)
        return value if value.type.shape == shape else self.emit(Reshape(value, shape))

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        permutation = tuple(permutation)
        return value if permutation == tuple(range(len(permutation))) else self.emit(Transpose(value, permutation))

    def cast(self, value: Value, dtype: DType) -> Value:
        return value if value.type.dtype == dtype else self.emit(Cast(value, dtype))

    def broadcast_to(self, value: Value, shape: Sequence[Dim]) -> Value:
        """NumPy broadcasting to exactly `shape`."""
        shape = tuple(shape)
        rank = value.type.rank
        if value.type.shape == shape:
            return value
        return self.emit(Broadcast(value, shape, tuple(range(len(shape) - rank, len(shape)))))

    def broadcast(self, value: Value, shape: Sequence[Dim], axes: Sequence[int]) -> Value:
        """Operand axis i becomes axis ``axes[i]`` of `shape`."""
        return value if value.type.shape == tuple(shape) else self.emit(Broadcast(value, tuple(shape), tuple(axes)))

    def slice(self, value: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
        """``value[start:stop:step]`` along one axis; bounds already lie in range."""
        shape = value.type.shape
        count = slice_size(start, stop, step)
        if start == 0 and step == 1 and count == shape[axis]:
            return value
        starts: list[Dim] = [0] * len(shape)
        sizes, steps = list(shape), [1] * len(shape)
        starts[axis], sizes[axis], steps[axis] = start, count, step
        return self.emit(Slice(value, tuple(starts), tuple(sizes), tuple(steps)))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        return values[0] if len(values) == 1 else self.emit(Concat(tuple(values), axis))

    def pad(self, value: Value, low: Sequence[Dim], high: Sequence[Dim], fill: Operand = 0) -> Value:
        if all(w == 0 for w in (*low, *high)):
            return value
        return self.emit(Pad(value, self.scalar(fill, value.type.dtype), tuple(low), tuple(high)))

    # -- computing -----------------------------------------------------------------------------------
    def common_shape(self, *shapes: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape that NumPy broadcasting gives."""
        rank = max(map(len, shapes))
        result: list[Dim] = [1] * rank
        for shape in shapes:
            for axis, dim in enumerate(shape, rank - len(shape)):
                result[axis] = broadcast_dim(result[axis], dim)
        return tuple(result)

    def aligned(self, *values: Value) -> list[Value]:
        """Operands broadcast to their common shape."""
        shape = self.common_shape(*(v.type.shape for v in values))
        return [self.broadcast_to(v, shape) for v in values]

    def unary(self, kind: str, value: Value) -> Value:
        return self.emit(Unary(value, kind))

    def binary(self, kind: str, lhs: Value, rhs: Operand) -> Value:
        """With broadcasting; a number takes the other operand's element type."""
        left, right = self.aligned(lhs, self.scalar(rhs, lhs.type.dtype))
        return self.emit(Binary(left, right, kind))

    def compare(self, kind: str, lhs: Value, rhs: Operand) -> Value:
        """With broadcasting; a number takes the other operand's element type."""
        left, right = self.aligned(lhs, self.scalar(rhs, lhs.type.dtype))
        return self.emit(Compare(left, right, kind))

    def select(self, condition: Value, on_true: Value, on_false: Value) -> Value:
        """``numpy.where`` with broadcasting."""
        return self.emit(Select(*self.aligned(condition, on_true, on_false)))

    def reduce(self, value: Value, axes: Sequence[int], how: str, keepdims: bool = False) -> Value:
        axes = tuple(sorted(axes))
        result = self.emit(Reduce(value, axes, how)) if axes else value
        if keepdims:
            result = self.reshape(result, [1 if a in axes else d for a, d in enumerate(value.type.shape)])
        return result

    def product(
        self, lhs: Value, rhs: Value, batch: Sequence[int] = (), contract: tuple[int, int] | None = None
    ) -> Value:
        """``lhs @ rhs`` over shared leading batch axes; by default the last axis of `lhs` with the first free one of
        `rhs` is contracted."""
        axes = tuple(batch)
        left, right = contract if contract is not None else (lhs.type.rank - 1, len(axes))
        return self.emit(DotGeneral(lhs, rhs, axes, axes, (left,), (right,)))

    def wide(self, value: Value) -> Value:
        """Floats narrower than 32 bits as f32."""
        return self.cast(value, f32) if value.type.dtype.is_float and value.type.dtype.bits < 32 else value

    def check_indices(self, indices: Value, size: Dim, axis: int, *, negative: bool = False) -> None:
        """Running the program ends with an error, as PyTorch's IndexError, unless every index lies in
        ``[0, size - 1]``; in ``[-size, size - 1]`` where the operator takes `negative` ones.

        Args:
            axis: that of `size`, for the message.
        """
        condition = in_range(self.emit, indices, size, negative=negative)
        if condition is not None:
            least = -size if negative else 0
            self.insert(Check(condition, f"an index of axis {axis} is out of range [{least}, {size - 1}]"))

    def truth(self, value: Value) -> Value:
        """As bool: whether it is not 0."""
        return self.cast(value, bool_)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + max(rank, 1) if axis < 0 else axis


def axes_of(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; None or an empty list: all. A scalar has axis 0 in PyTorch, and nothing along it."""
    if not rank:
        return ()
    if isinstance(axes, int):
        axes = (axes,)
    return tuple(axis_of(a, rank) for a in axes) if axes else tuple(range(rank))
