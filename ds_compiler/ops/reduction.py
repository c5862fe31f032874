"""Operations that combine elements along axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ds_compiler.ir import Operation, Value, op
from ds_compiler.ir.cost import Cost, traffic
from ds_compiler.ir.dims import Dim, evaluate, product
from ds_compiler.ir.dtypes import from_numpy, i64
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.contraction import window_sizes
from ds_compiler.ops.elementwise import truncated_division
from ds_compiler.ops.widening import wide

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]

REDUCE_KINDS = ("sum", "mean", "max", "min", "prod", "any", "all")


def identity(kind: str, dtype: np.dtype[Any]) -> Any:
    """The neutral element of a reduction: for ``max`` the smallest value of the type (−inf where it has one)."""
    if kind in ("sum", "mean", "any"):
        return dtype.type(0)
    if kind in ("prod", "all"):
        return dtype.type(1)
    element = from_numpy(dtype)
    if element.kind == "b":
        return np.bool_(kind == "min")
    if element.is_integer:
        low, high = element.limits
        return dtype.type(low if kind == "max" else high)
    endless = np.array(-np.inf if kind == "max" else np.inf).astype(dtype)[()]
    return endless if np.isinf(endless) else dtype.type(element.limits[0 if kind == "max" else 1])


def _check_numeric(op: Operation, type_: TensorType) -> None:
    if type_.dtype.kind not in "fiu":
        raise op.error(f"does not take element type {type_.dtype}")


@op("reduce")
class Reduce(Operation):
    """Combine elements along `axes` with `how`; the axes disappear from the shape.

    ``max`` and ``min`` return NaN when an element is NaN. Over no elements the result is the neutral element
    (``mean``: NaN for floats, 0 for integers). Floats narrower than f32 are combined in f32. Integer sums wrap, and an
    integer ``mean`` is the wrapped sum divided towards zero.
    """

    operand: Value
    axes: tuple[int, ...]
    how: str

    def infer(self) -> TensorType:
        source = self.operand.type
        if self.how not in REDUCE_KINDS:
            raise self.error(f"unknown kind '{self.how}'; known: {', '.join(REDUCE_KINDS)}")
        if list(self.axes) != sorted(set(self.axes)) or any(not 0 <= a < source.rank for a in self.axes):
            raise self.error(f"axes {self.axes} do not fit {source}")
        if (self.how in ("any", "all")) != (source.dtype.kind == "b"):
            raise self.error(f"'{self.how}' does not take element type {source.dtype}")
        if self.how not in ("any", "all"):
            _check_numeric(self, source)
        return source.with_shape([d for a, d in enumerate(source.shape) if a not in self.axes])

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        (x,) = operands
        with np.errstate(all="ignore"):
            match self.how:
                case "sum":
                    result = np.sum(wide(x), self.axes)
                case "mean":
                    count = int(np.prod([x.shape[a] for a in self.axes], dtype=int))
                    result = _quotient(np.asarray(np.sum(wide(x), self.axes)), count, x.dtype)
                case "prod":
                    result = np.prod(wide(x), self.axes)
                case "max" | "min":
                    function = np.max if self.how == "max" else np.min
                    neutral: Any = wide(np.asarray(identity(self.how, x.dtype)))[()]
                    result = function(wide(x), self.axes, initial=neutral)
                case "any":
                    result = np.any(x, self.axes)
                case _:
                    result = np.all(x, self.axes)
            return np.asarray(result).astype(self.result.type.dtype.numpy)

    def cost(self) -> Cost:
        return traffic(self, self.operand.type.elements)


@op("arg_reduce")
class ArgReduce(Operation):
    """i64 position of the largest (``max``) or smallest element along `axis`, which disappears.

    Of equal elements the first one is taken, the last one with `last`. A NaN counts as the extremum.
    """

    operand: Value
    axis: int
    how: str
    last: bool = False

    def infer(self) -> TensorType:
        source = self.operand.type
        if self.how not in ("max", "min"):
            raise self.error(f"unknown kind '{self.how}'")
        if not 0 <= self.axis < source.rank:
            raise self.error(f"axis {self.axis} is out of range for {source}")
        _check_numeric(self, source)
        shape = [d for a, d in enumerate(source.shape) if a != self.axis]
        return TensorType(tuple(shape), i64)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        (x,) = operands
        find = np.argmax if self.how == "max" else np.argmin
        if self.last:
            return np.asarray(x.shape[self.axis] - 1 - find(np.flip(x, self.axis), self.axis)).astype(np.int64)
        return np.asarray(find(x, self.axis)).astype(np.int64)

    def cost(self) -> Cost:
        return traffic(self, self.operand.type.elements)


@op("reduce_window")
class ReduceWindow(Operation):
    """Pooling: combine the elements of a window sliding over `axes`.

    `how`: ``max``, ``sum``, ``mean`` (divides by the window's size, padding included) or ``mean_valid`` (divides by
    the number of elements inside the tensor). Padding never contributes a value. The other axes stay as they are.
    """

    operand: Value
    axes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    dilations: tuple[int, ...]
    how: str

    def infer(self) -> TensorType:
        source = self.operand.type
        n = len(self.axes)
        if self.how not in ("max", "sum", "mean", "mean_valid"):
            raise self.error(f"unknown kind '{self.how}'")
        if not len(self.window) == len(self.strides) == len(self.low) == len(self.high) == len(self.dilations) == n:
            raise self.error(f"window, strides, padding and dilations need {n} entries each")
        if list(self.axes) != sorted(set(self.axes)) or any(not 0 <= a < source.rank for a in self.axes):
            raise self.error(f"axes {self.axes} do not fit {source}")
        if min((1, *self.window, *self.strides, *self.dilations)) < 1:
            raise self.error("window, strides and dilations must be positive")
        _check_numeric(self, source)
        shape = list(source.shape)
        spatial = tuple(shape[a] for a in self.axes)
        sizes = window_sizes(spatial, self.window, self.strides, self.low, self.high, self.dilations)
        for axis, size in zip(self.axes, sizes, strict=True):
            if isinstance(size, int) and size < 0:
                raise self.error(f"the window {self.window} is larger than the padded {source}")
            shape[axis] = size
        return source.with_shape(shape)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        (x,) = operands
        out = [evaluate(d, sizes) for d in self.result.type.shape]
        values = wide(x)
        neutral = wide(np.asarray(identity("max" if self.how == "max" else "sum", x.dtype)))[()]
        result = np.full(out, neutral, values.dtype)
        count = np.zeros(out, np.int64)
        padding = [(0, 0)] * x.ndim
        for index, axis in enumerate(self.axes):
            span = (self.window[index] - 1) * self.dilations[index] + (out[axis] - 1) * self.strides[index] + 1
            low = evaluate(self.low[index], sizes)
            padding[axis] = (low, max(0, span - low - x.shape[axis]))
        padded = np.full([a + n + b for (a, b), n in zip(padding, x.shape, strict=True)], neutral, values.dtype)
        inside = np.zeros(padded.shape, np.int64)
        own = tuple(slice(a, a + n) for (a, _), n in zip(padding, x.shape, strict=True))
        padded[own], inside[own] = values, 1
        for tap in np.ndindex(*self.window):
            place = [slice(None)] * x.ndim
            for index, axis in enumerate(self.axes):
                first = tap[index] * self.dilations[index]
                stop = first + (out[axis] - 1) * self.strides[index] + 1 if out[axis] else first
                place[axis] = slice(first, stop, self.strides[index])
            window = padded[tuple(place)]
            result = np.maximum(result, window) if self.how == "max" else result + window
            count += inside[tuple(place)]
        with np.errstate(all="ignore"):
            if self.how == "mean":
                result = _quotient(result, int(np.prod(self.window, dtype=int)), x.dtype)
            elif self.how == "mean_valid":
                result = _quotient(result, count, x.dtype)
            return np.asarray(result).astype(self.result.type.dtype.numpy)

    def cost(self) -> Cost:
        return traffic(self, self.result.type.elements * product(self.window))


@op("cumulative")
class Cumulative(Operation):
    """Running ``sum``, ``prod``, ``max`` or ``min`` along `axis`; `exclusive` leaves the own element out, `reverse`
    runs from the end."""

    operand: Value
    axis: int
    how: str
    exclusive: bool = False
    reverse: bool = False

    def infer(self) -> TensorType:
        if self.how not in ("sum", "prod", "max", "min"):
            raise self.error(f"unknown kind '{self.how}'")
        if not 0 <= self.axis < self.operand.type.rank:
            raise self.error(f"axis {self.axis} is out of range for {self.operand.type}")
        _check_numeric(self, self.operand.type)
        return self.operand.type

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        (x,) = operands
        values = np.flip(wide(x), self.axis) if self.reverse else wide(x)
        function = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[self.how]
        with np.errstate(all="ignore"):
            result = function.accumulate(values, self.axis)
        if self.exclusive and x.shape[self.axis]:
            neutral = wide(np.asarray(identity(self.how, x.dtype)))
            first = np.full_like(result.take([0], self.axis), neutral)
            result = np.concatenate([first, result.take(range(x.shape[self.axis] - 1), self.axis)], self.axis)
        if self.reverse:
            result = np.flip(result, self.axis)
        with np.errstate(all="ignore"):
            return np.asarray(result).astype(self.result.type.dtype.numpy)


def _quotient(total: Array, count: Array | int, dtype: np.dtype[Any]) -> Array:
    """A mean: of integers, the sum wrapped to the element type and divided towards zero (by nothing: 0)."""
    if total.dtype.kind == "f":
        return np.asarray(total / count)
    return truncated_division(wide(total.astype(dtype)), np.asarray(count).astype(total.dtype))
