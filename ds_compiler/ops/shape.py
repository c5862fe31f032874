"""Operations that move or make elements without computing on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ds_compiler.ir import Operation, Value, dims, op
from ds_compiler.ir.cost import Cost, traffic
from ds_compiler.ir.dims import Dim, Expr, ceildiv, evaluate, maximum, product
from ds_compiler.ir.dtypes import DType, bool_, from_numpy, i64
from ds_compiler.ir.types import TensorType

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]


class _Movement(Operation):
    def cost(self) -> Cost:
        return traffic(self, 0)


@op("constant")
class Constant(_Movement):
    """A tensor known at compile time. `value` is never written to."""

    value: Any

    def infer(self) -> TensorType:
        return TensorType(self.value.shape, from_numpy(self.value.dtype))

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        return np.asarray(self.value)

    def cost(self) -> Cost:
        return Cost()


@op("size")
class Size(_Movement):
    """The scalar i64 value of a size expression."""

    dim: Dim

    def infer(self) -> TensorType:
        return TensorType((), i64)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        return np.asarray(evaluate(self.dim, sizes), np.int64)


@op("bind")
class Bind(_Movement):
    """From here on, `symbol` has the value of an i64 scalar (negative values count as 0).

    This is how sizes that depend on data enter types: an unknown dimension is a symbol bound by this operation.
    """

    value: Value
    symbol: str
    has_side_effects = True

    def infer(self) -> tuple[TensorType, ...]:
        dims.symbol(self.symbol)
        if self.value.type != TensorType((), i64):
            raise self.error(f"value is {self.value.type}, expected tensor<i64>")
        return ()

    def evaluate(self, sizes: Sizes, *operands: Array) -> tuple[Array, ...]:
        return ()


@op("assume")
class Assume(_Movement):
    """From here on, two sizes are equal; running the program checks that they are.

    Front ends state with it what a model implies and its shapes do not prove (``2*floordiv(h, 2)`` meets ``h`` where
    a decoder joins its encoder). `reason` says what else would be wrong; by default, that the sizes differ.
    """

    lhs: Dim
    rhs: Dim
    reason: str = ""
    has_side_effects = True

    def infer(self) -> tuple[TensorType, ...]:
        if isinstance(self.lhs, int) and isinstance(self.rhs, int) and self.lhs != self.rhs:
            raise self.error(self.reason or f"the sizes {self.lhs} and {self.rhs} differ")
        return ()

    def evaluate(self, sizes: Sizes, *operands: Array) -> tuple[Array, ...]:
        lhs, rhs = evaluate(self.lhs, sizes), evaluate(self.rhs, sizes)
        if lhs != rhs:
            differ = f"the sizes {self.lhs} and {self.rhs} must be equal, they are {lhs} and {rhs}"
            raise ValueError(self.reason or differ)
        return ()

    def cost(self) -> Cost:
        return Cost()


@op("check")
class Check(_Movement):
    """Running the program ends here with the error `message` unless the bool scalar `condition` is true."""

    condition: Value
    message: str
    has_side_effects = True

    def infer(self) -> tuple[TensorType, ...]:
        if self.condition.type != TensorType((), bool_):
            raise self.error(f"condition is {self.condition.type}, expected tensor<bool>")
        return ()

    def evaluate(self, sizes: Sizes, *operands: Array) -> tuple[Array, ...]:
        if not operands[0]:
            raise ValueError(self.message)
        return ()

    def cost(self) -> Cost:
        return Cost()


@op("iota")
class Iota(_Movement):
    """Element = its index along `axis`."""

    shape: tuple[Dim, ...]
    axis: int
    dtype: DType

    def infer(self) -> TensorType:
        if not 0 <= self.axis < len(self.shape):
            raise self.error(f"axis {self.axis} is out of range for rank {len(self.shape)}")
        if self.dtype.kind not in "fiu":
            raise self.error(f"does not take element type {self.dtype}")
        return TensorType(self.shape, self.dtype)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        shape = [evaluate(d, sizes) for d in self.shape]
        view = [1] * len(shape)
        view[self.axis] = shape[self.axis]
        return np.broadcast_to(np.arange(shape[self.axis]).reshape(view), shape).astype(self.dtype.numpy)


@op("reshape")
class Reshape(_Movement):
    """The same elements in row-major order under another shape (equal element count: checked here when both are
    known, at run time otherwise)."""

    operand: Value
    shape: tuple[Dim, ...]

    def infer(self) -> TensorType:
        before, after = self.operand.type.elements, product(self.shape)
        if isinstance(before, int) and isinstance(after, int) and before != after:
            raise self.error(f"{self.operand.type} has {before} elements, the new shape {after}")
        return self.operand.type.with_shape(self.shape)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        return operands[0].reshape([evaluate(d, sizes) for d in self.shape])

    def cost(self) -> Cost:
        return Cost()


@op("transpose")
class Transpose(_Movement):
    """Result axis i is operand axis ``permutation[i]``."""

    operand: Value
    permutation: tuple[int, ...]

    def infer(self) -> TensorType:
        if sorted(self.permutation) != list(range(self.operand.type.rank)):
            raise self.error(f"{self.permutation} does not permute the axes of {self.operand.type}")
        return self.operand.type.with_shape([self.operand.type.shape[a] for a in self.permutation])

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        return operands[0].transpose(self.permutation)


@op("broadcast")
class Broadcast(_Movement):
    """Repeat elements: operand axis i becomes result axis ``axes[i]`` (increasing), other axes are new.

    An operand axis of size 1 is repeated along its result axis. When the sizes differ symbolically, the choice
    between repeating (size 1) and reading along is made at run time.
    """

    operand: Value
    shape: tuple[Dim, ...]
    axes: tuple[int, ...]

    def infer(self) -> TensorType:
        source = self.operand.type
        if len(self.axes) != source.rank or list(self.axes) != sorted(set(self.axes)):
            raise self.error(f"axes {self.axes} do not fit {source}")
        for index, axis in enumerate(self.axes):
            if not 0 <= axis < len(self.shape):
                raise self.error(f"axis {axis} is out of range for rank {len(self.shape)}")
            a, b = source.shape[index], self.shape[axis]
            if isinstance(a, int) and isinstance(b, int) and a not in (1, b):
                raise self.error(f"axis {index} of size {a} does not broadcast to size {b}")
        return source.with_shape(self.shape)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        shape = [evaluate(d, sizes) for d in self.shape]
        view = [1] * len(shape)
        for index, axis in enumerate(self.axes):
            view[axis] = operands[0].shape[index]
        return np.broadcast_to(operands[0].reshape(view), shape)


@op("slice")
class Slice(_Movement):
    """``sizes[i]`` elements of each axis, from ``starts[i]`` in steps of ``steps[i]`` (negative: backwards)."""

    operand: Value
    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    steps: tuple[int, ...]

    def infer(self) -> TensorType:
        source = self.operand.type
        if not len(self.starts) == len(self.sizes) == len(self.steps) == source.rank:
            raise self.error(f"{len(self.starts)} starts for {source}")
        for axis, (start, size, step, extent) in enumerate(
            zip(self.starts, self.sizes, self.steps, source.shape, strict=True)
        ):
            if step == 0:
                raise self.error(f"step of axis {axis} is zero")
            if all(isinstance(x, int) for x in (start, size, extent)) and size != 0:
                last = start + (size - 1) * step
                if not all(isinstance(x, int) and isinstance(extent, int) and 0 <= x < extent for x in (start, last)):
                    raise self.error(f"axis {axis}: elements {start} to {last} of {extent}")
        return source.with_shape(self.sizes)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        result = operands[0]
        for axis, (start, size, step) in enumerate(zip(self.starts, self.sizes, self.steps, strict=True)):
            indices = evaluate(start, sizes) + np.arange(evaluate(size, sizes)) * step
            result = result.take(indices, axis)
        return result


@op("dynamic_slice")
class DynamicSlice(_Movement):
    """A window of `sizes` whose corner is given by i64 scalars, one an axis; the corner is clamped into range."""

    operand: Value
    starts: tuple[Value, ...]
    sizes: tuple[Dim, ...]

    def infer(self) -> TensorType:
        if not len(self.starts) == len(self.sizes) == self.operand.type.rank:
            raise self.error(f"{len(self.starts)} starts for {self.operand.type}")
        for index, start in enumerate(self.starts):
            if start.type != TensorType((), i64):
                raise self.error(f"start {index} is {start.type}, expected tensor<i64>")
        for axis, (size, extent) in enumerate(zip(self.sizes, self.operand.type.shape, strict=True)):
            if isinstance(size, int) and isinstance(extent, int) and not 0 <= size <= extent:
                raise self.error(f"axis {axis}: {size} elements of {extent}")
        return self.operand.type.with_shape(self.sizes)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, *starts = operands
        window: list[Any] = []
        for start, size, extent in zip(starts, self.sizes, x.shape, strict=True):
            length = evaluate(size, sizes)
            first = min(max(int(start), 0), extent - length)
            window.append(slice(first, first + length))
        return np.asarray(x[(*window, Ellipsis)])


@op("pad")
class Pad(_Movement):
    """Surround with `low[i]` and `high[i]` copies of a scalar `value` along axis i (all >= 0)."""

    operand: Value
    value: Value
    low: tuple[Dim, ...]
    high: tuple[Dim, ...]

    def infer(self) -> TensorType:
        source = self.operand.type
        if not len(self.low) == len(self.high) == source.rank:
            raise self.error(f"{len(self.low)} widths for {source}")
        if self.value.type != TensorType((), source.dtype):
            raise self.error(f"value is {self.value.type}, expected a scalar {source.dtype}")
        if any(isinstance(w, int) and w < 0 for w in (*self.low, *self.high)):
            raise self.error("negative width")
        return source.with_shape([a + n + b for a, n, b in zip(self.low, source.shape, self.high, strict=True)])

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        widths = [(evaluate(a, sizes), evaluate(b, sizes)) for a, b in zip(self.low, self.high, strict=True)]
        x, value = operands
        result = np.full([n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)], value, x.dtype)
        result[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, widths, strict=True))] = x
        return result


@op("concat")
class Concat(_Movement):
    """Join one or more tensors along `axis`."""

    inputs: tuple[Value, ...]
    axis: int

    def infer(self) -> TensorType:
        if not self.inputs:
            raise self.error("nothing to join")
        first = self.inputs[0].type
        if not 0 <= self.axis < first.rank:
            raise self.error(f"axis {self.axis} is out of range for {first}")
        total: Dim = 0
        for index, value in enumerate(self.inputs):
            t = value.type
            fits = t.rank == first.rank and t.dtype == first.dtype
            if not fits or any(
                isinstance(a, int) and isinstance(b, int) and a != b
                for axis, (a, b) in enumerate(zip(t.shape, first.shape, strict=True))
                if axis != self.axis
            ):
                raise self.error(f"input {index} is {t}, input 0 is {first}")
            total = total + t.shape[self.axis]
        shape = list(first.shape)
        for axis, dim in enumerate(shape):  # prefer a known size
            if isinstance(dim, Expr):
                shape[axis] = next(
                    (v.type.shape[axis] for v in self.inputs if isinstance(v.type.shape[axis], int)), dim
                )
        shape[self.axis] = total
        return first.with_shape(shape)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        return np.concatenate(operands, self.axis)


def slice_size(start: Dim, stop: Dim, step: int) -> Dim:
    """Number of indices in ``range(start, stop, step)``."""
    span = stop - start if step > 0 else start - stop
    return maximum(ceildiv(span, abs(step)), 0)
