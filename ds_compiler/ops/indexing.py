"""Reading and writing elements at computed positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ds_compiler.ir import Operation, Value, op
from ds_compiler.ir.cost import Cost, traffic
from ds_compiler.ir.dims import Dim, evaluate
from ds_compiler.ir.dtypes import i64
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.widening import native

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]

_UPDATE = {"set": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


class _Indexing(Operation):
    def _check_indices(self, indices: Value) -> None:
        if not indices.type.dtype.is_integer:
            raise self.error(f"indices are {indices.type}, expected integers")

    def _check_mode(self, source: TensorType) -> None:
        mode = self.attributes["mode"]
        if mode != "set" and source.dtype.kind == "s":
            raise self.error(f"'{mode}' does not take element type {source.dtype}")

    def cost(self) -> Cost:
        return traffic(self, 0)


@op("gather")
class Gather(_Indexing):
    """``numpy.take(operand, indices, axis)``: result shape = before axis + indices' shape + after axis.

    Negative indices count from the end; the rest must be in range (checked at run time).
    """

    operand: Value
    indices: Value
    axis: int

    def infer(self) -> TensorType:
        self._check_indices(self.indices)
        source = self.operand.type
        if not 0 <= self.axis < source.rank:
            raise self.error(f"axis {self.axis} is out of range for {source}")
        return source.with_shape((*source.shape[: self.axis], *self.indices.type.shape, *source.shape[self.axis + 1 :]))

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        place: tuple[Any, ...] = (*[slice(None)] * self.axis, operands[1].astype(np.int64), Ellipsis)
        return np.asarray(operands[0][place])

    def cost(self) -> Cost:  # the rows read, not the whole table
        moved = self.result.type.bytes
        return Cost(0, moved + self.indices.type.bytes, moved)


@op("gather_elements")
class GatherElements(_Indexing):
    """``numpy.take_along_axis``: result has the shape of `indices`, which has the operand's rank."""

    operand: Value
    indices: Value
    axis: int

    def infer(self) -> TensorType:
        self._check_indices(self.indices)
        if self.indices.type.rank != self.operand.type.rank or not 0 <= self.axis < self.operand.type.rank:
            raise self.error(f"indices {self.indices.type} along axis {self.axis} of {self.operand.type}")
        return self.operand.type.with_shape(self.indices.type.shape)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, indices = operands
        place: list[Any] = list(np.indices(indices.shape, sparse=True))
        place[self.axis] = indices.astype(np.int64)
        return np.asarray(x[tuple(place)])


@op("gather_nd")
class GatherND(_Indexing):
    """The last axis of `indices` addresses leading axes of the operand, after `batch_axes` shared ones."""

    operand: Value
    indices: Value
    batch_axes: int

    def infer(self) -> TensorType:
        self._check_indices(self.indices)
        source, index = self.operand.type, self.indices.type
        depth = index.shape[-1] if index.rank else 0
        if (
            not isinstance(depth, int)
            or not 1 <= depth <= source.rank - self.batch_axes
            or not 0 <= self.batch_axes < index.rank
        ):
            raise self.error(f"indices {index} with {self.batch_axes} batch axes do not address {source}")
        return source.with_shape((*index.shape[:-1], *source.shape[self.batch_axes + depth :]))

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, indices = operands
        b = self.batch_axes
        batch = x.shape[:b]
        count, points = int(np.prod(batch, dtype=int)), int(np.prod(indices.shape[b:-1], dtype=int))
        flat = x.reshape(count, *x.shape[b:])
        rows = indices.reshape(count, points, indices.shape[-1]).astype(np.int64)
        picked = [flat[i][tuple(np.moveaxis(rows[i], -1, 0))] for i in range(len(flat))]
        tail = x.shape[b + indices.shape[-1] :]
        return np.asarray(picked, x.dtype).reshape(*indices.shape[:-1], *tail)


@op("scatter_nd")
class ScatterND(_Indexing):
    """A copy of `operand` with slices at `indices` (last axis addresses leading axes) combined with `updates` by
    `kind`: set, add, mul, max, min. Equal indices under ``set`` leave one of the updates."""

    operand: Value
    indices: Value
    updates: Value
    mode: str

    def infer(self) -> TensorType:
        self._check_indices(self.indices)
        source, index = self.operand.type, self.indices.type
        depth = index.shape[-1] if index.rank else 0
        if self.mode not in _UPDATE:
            raise self.error(f"unknown mode '{self.mode}'")
        if not isinstance(depth, int) or not 0 <= depth <= source.rank:
            raise self.error(f"indices {index} do not address {source}")
        if self.updates.type.dtype != source.dtype or self.updates.type.rank != index.rank - 1 + source.rank - depth:
            raise self.error(f"updates {self.updates.type} do not fit {source} at {index}")
        expected = (*index.shape[:-1], *source.shape[depth:])
        for a, b in zip(self.updates.type.shape, expected, strict=True):
            if isinstance(a, int) and isinstance(b, int) and a != b:
                raise self.error(f"updates {self.updates.type} do not fit {source} at {index}")
        self._check_mode(source)
        return source

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, indices, updates = operands
        result = x.copy()
        place = tuple(np.moveaxis(indices.astype(np.int64), -1, 0))
        combine = _UPDATE[self.mode]
        if combine is None:
            result[place] = updates
        else:
            combine.at(result, place, updates)
        return result


@op("scatter_elements")
class ScatterElements(_Indexing):
    """The inverse of gather_elements: ``result[.., indices[i], ..]`` combined with ``updates[i]`` by `mode`."""

    operand: Value
    indices: Value
    updates: Value
    axis: int
    mode: str

    def infer(self) -> TensorType:
        self._check_indices(self.indices)
        source = self.operand.type
        if self.mode not in _UPDATE:
            raise self.error(f"unknown mode '{self.mode}'")
        if self.indices.type.rank != source.rank or not 0 <= self.axis < source.rank:
            raise self.error(f"indices {self.indices.type} along axis {self.axis} of {source}")
        if self.updates.type != source.with_shape(self.indices.type.shape):
            raise self.error(f"updates are {self.updates.type}, indices {self.indices.type}")
        self._check_mode(source)
        return source

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, indices, updates = operands
        result = x.copy()
        place: list[Any] = list(np.indices(indices.shape, sparse=True))
        place[self.axis] = indices.astype(np.int64)
        combine = _UPDATE[self.mode]
        if combine is None:
            result[tuple(place)] = updates
        else:
            combine.at(result, tuple(np.broadcast_arrays(*place)), updates)
        return result


@op("top_k")
class TopK(_Indexing):
    """The `k` largest (or smallest) elements along the last axis, in order, and their i64 positions; of equal
    elements the earlier comes first."""

    operand: Value
    k: Dim
    largest: bool

    def infer(self) -> tuple[TensorType, TensorType]:
        source = self.operand.type
        if not source.rank:
            raise self.error("a scalar has no axis to sort")
        if source.dtype.kind == "s":
            raise self.error(f"does not take element type {source.dtype}")
        extent = source.shape[-1]
        if isinstance(self.k, int) and isinstance(extent, int) and not 0 <= self.k <= extent:
            raise self.error(f"{self.k} elements of {extent}")
        result = source.with_shape((*source.shape[:-1], self.k))
        return result, result.with_dtype(i64)

    def evaluate(self, sizes: Sizes, *operands: Array) -> tuple[Array, Array]:
        (x,) = operands
        k = evaluate(self.k, sizes)
        if self.largest:
            order = x.shape[-1] - 1 - np.flip(np.argsort(np.flip(native(x), -1), -1, kind="stable"), -1)
        else:
            order = np.argsort(native(x), -1, kind="stable")
        order = order[..., :k]
        return np.take_along_axis(x, order, -1), order.astype(np.int64)
