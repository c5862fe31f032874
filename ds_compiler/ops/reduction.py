"""Operations that combine elements along axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ds_compiler.ir import Operation, Value, op
from ds_compiler.ir.cost import Cost, traffic
from ds_compiler.ir.dims import Dim, evaluate, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.contraction import window_sizes

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]

REDUCE_KINDS = ("sum", "mean", "max", "min", "prod", "any", "all")


def identity(kind: str, dtype: np.dtype[Any]) -> Any:
    """The neutral element of a reduction (−inf for a float ``max``, the smallest value for an integer one)."""
    if kind in ("sum", "mean", "any"):
        return dtype.type(0)
    if kind in ("prod", "all"):
        return dtype.type(1)
    if dtype.kind == "b":
        return np.bool_(kind == "min")
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if kind == "max" else np.iinfo(dtype).max
    return dtype.type(-np.inf if kind == "max" else np.inf)


@op("reduce")
class Reduce(Operation):
    """Combine elements along `axes` with `how`; the axes disappear from the shape.

    ``max`` and ``min`` return NaN when an element is NaN. Over no elements the result is the neutral element
    (``mean``: NaN). Floats narrower than f32 are combined in f32.
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
        return source.with_shape([d for a, d in enumerate(source.shape) if a not in self.axes])

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        (x,) = operands
        wide = x.astype(np.float64) if self.operand.type.dtype.is_float else x
        with np.errstate(all="ignore"):
            match self.how:
                case "sum":
                    result = np.sum(wide, self.axes, dtype=wide.dtype)
                case "mean":
                    count = int(np.prod([x.shape[a] for a in self.axes], dtype=int))
                    total = np.sum(wide, self.axes, dtype=wide.dtype)
                    result = total / count if wide.dtype.kind == "f" else np.trunc(total / max(count, 1))
                case "prod":
                    result = np.prod(wide, self.axes, dtype=wide.dtype)
                case "max" | "min":
                    function = np.max if self.how == "max" else np.min
                    result = function(wide, self.axes, initial=identity(self.how, wide.dtype))
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
        wide = x.astype(np.float64) if self.operand.type.dtype.is_float else x
        neutral = identity("max" if self.how == "max" else "sum", wide.dtype)
        result = np.full(out, neutral, wide.dtype)
        count = np.zeros(out, np.int64)
        padding = [(0, 0)] * x.ndim
        for index, axis in enumerate(self.axes):
            span = (self.window[index] - 1) * self.dilations[index] + (out[axis] - 1) * self.strides[index] + 1
            low = evaluate(self.low[index], sizes)
            padding[axis] = (low, max(0, span - low - x.shape[axis]))
        padded = np.pad(wide, padding, constant_values=neutral)
        inside = np.pad(np.ones(x.shape, np.int64), padding)
        for tap in np.ndindex(*self.window):
            place = [slice(None)] * x.ndim
            for index, axis in enumerate(self.axes):
                first = tap[index] * self.dilations[index]
                place[axis] = slice(first, first + (out[axis] - 1) * self.strides[index] + 1, self.strides[index])
            window = padded[tuple(place)]
            result = np.maximum(result, window) if self.how == "max" else result + window
            count += inside[tuple(place)]
        with np.errstate(all="ignore"):
            if self.how == "mean":
                result = result / int(np.prod(self.window, dtype=int))
            elif self.how == "mean_valid":
                result = result / count
        return result.astype(self.result.type.dtype.numpy)

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
        return self.operand.type

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        (x,) = operands
        wide = x.astype(np.float64) if self.operand.type.dtype.is_float else x
        if self.reverse:
            wide = np.flip(wide, self.axis)
        function = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[self.how]
        result = function.accumulate(wide, self.axis, dtype=wide.dtype)
        if self.exclusive and x.shape[self.axis]:
            first = np.full_like(result.take([0], self.axis), identity(self.how, wide.dtype))
            result = np.concatenate([first, result.take(range(x.shape[self.axis] - 1), self.axis)], self.axis)
        if self.reverse:
            result = np.flip(result, self.axis)
        return result.astype(self.result.type.dtype.numpy)
