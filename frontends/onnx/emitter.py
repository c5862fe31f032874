"""Builds the module: inserts primitives, computes at import what is known, and supplies the usual small compositions.

Handlers work on `Value`s. One whose contents are known (an initializer, a shape, arithmetic on shapes) is a `Known`:
it stands in no block until an operation that stays in the program reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ds_compiler.frontends.onnx import shapes, strict
from ds_compiler.ir import Block, CompileError, Dim, DType, Expr, Location, Operation, TensorType, Value, symbol
from ds_compiler.ir.dims import broadcast_dim, symbols_of
from ds_compiler.ir.dtypes import bool_, f32, from_numpy, i64
from ds_compiler.ir.location import UNKNOWN
from ds_compiler.ops import (
    Assume,
    Binary,
    Bind,
    Broadcast,
    Cast,
    Compare,
    Concat,
    Constant,
    Predicate,
    Reduce,
    Reshape,
    Select,
    Size,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.ops.shape import slice_size

Array = np.ndarray[Any, Any]

_MOST_ELEMENTS = 1 << 40

_ELEMENTWISE = (Unary, Binary, Compare, Select, Cast, Predicate, Reshape, Transpose)


class Known(Value):
    """A value whose contents are known at import.

    Attributes:
        contents: numbers, or an object array of sizes (see `shapes`).
        uniform: made by repeating one number; written as a scalar constant and a broadcast.
    """

    __slots__ = ("contents", "location", "uniform")

    def __init__(self, type_: TensorType, contents: Array, location: Location, hint: str = "") -> None:
        super().__init__(type_, hint)
        self.contents, self.location, self.uniform = contents, location, False


def sanitised(name: str) -> str:
    """`name` as an identifier."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"v{text}" if not text or text[0].isdigit() else text


@dataclass
class _Scope:
    """A block being filled, and what may be read again from it and the blocks it holds.

    Attributes:
        materialised: what stands for a known value.
        elements: elements of integer vectors, as scalars.
        bound: sizes bound to scalars.
        assumed: pairs of sizes stated to be equal.
    """

    block: Block
    materialised: dict[Value, Value] = field(default_factory=dict)
    elements: dict[tuple[Value, int], Value] = field(default_factory=dict)
    bound: dict[Value, Dim] = field(default_factory=dict)
    assumed: set[tuple[Dim, Dim]] = field(default_factory=set)


class Emitter:
    """Inserts at the end of the innermost open block; `root` is the function's block. `strict`: see that file."""

    def __init__(self, root: Block, strict: bool = False) -> None:
        self.root, self.strict = root, strict
        self.location: Location = UNKNOWN
        self._scopes = [_Scope(root)]
        self._sources: dict[Value, Known] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._symbols = 0

    # -- places ------------------------------------------------------------------------------------
    @contextmanager
    def at(self, location: Location) -> Iterator[None]:
        """Stamp operations inserted inside with `location`."""
        previous, self.location = self.location, location
        try:
            yield
        finally:
            self.location = previous

    @contextmanager
    def into(self, block: Block) -> Iterator[None]:
        """Insert into `block`, which will be nested in the block open now."""
        self._scopes.append(_Scope(block))
        try:
            yield
        finally:
            self._scopes.pop()

    def fail(self, what: str, help: str = "") -> CompileError:
        return CompileError(what, location=self.location, help=help)

    # -- inserting ---------------------------------------------------------------------------------
    def emit(self, operation: Operation) -> Value:
        """The only result of `operation`, which is inserted unless its contents follow from what is known."""
        known = shapes.contents(operation, [self.contents(v) for v in operation.operands])
        if known is not None:
            result = Known(operation.result.type, known, self.location)
            operands = operation.operands
            if isinstance(operation, Broadcast):
                result.uniform = all(_is_uniform(v) for v in operands) and known.dtype != object and known.size > 1
            elif isinstance(operation, _ELEMENTWISE):
                result.uniform = all(_is_uniform(v) for v in operands) and known.size > 1
            operation.drop()
            return result
        return self.insert(strict.widened(self, operation) if self.strict else operation)[0]

    def insert(self, operation: Operation) -> list[Value]:
        """The results of `operation`, inserted."""
        for index, operand in enumerate(operation.operands):
            if isinstance(operand, Known):
                operation.set_operand(index, self._materialise(operand))
        self._append(operation)
        return list(operation.results)

    def splice(self, block: Block) -> None:
        """Move the operations of a block that belongs to no region here."""
        for operation in block:
            self._scopes[-1].block.append(operation.detach())

    def assume(self, a: Dim, b: Dim, reason: str = "") -> None:
        """State that two sizes are equal; the program checks it unless their forms show it.

        Args:
            reason: what is wrong if they are not, for the message.

        Raises:
            CompileError: they are two different numbers.
        """
        if a == b or any((a, b) in s.assumed or (b, a) in s.assumed for s in self._scopes):
            return
        self._scopes[-1].assumed.add((a, b))
        self.insert(Assume(a, b, reason))

    def _append(self, operation: Operation) -> None:
        for nested in operation.walk():
            if not nested.location:
                nested.location = self.location
            for result in nested.results:
                elements = result.type.elements
                if isinstance(elements, int) and elements > _MOST_ELEMENTS:
                    raise self.fail(f"the result would be {result.type}, {elements} elements: too large for any memory")
        self._scopes[-1].block.append(operation)

    def _materialise(self, known: Known) -> Value:
        for scope in self._scopes:
            if known in scope.materialised:
                return scope.materialised[known]
        if known.contents.dtype == object:
            value = self._materialise_sizes(known)
        elif known.uniform:
            scalar = self._constant(Known(known.type.with_shape(()), known.contents.reshape(-1)[0], known.location))
            broadcast = Broadcast(scalar, known.type.shape, ())
            self._append(broadcast)
            value = broadcast.result
        else:
            return self._constant(known)
        value.hint = value.hint or known.hint
        self._scopes[-1].materialised[known] = value
        self._sources[value] = known
        return value

    def _constant(self, known: Known) -> Value:
        """A constant in the function's own block, shared between small equal ones."""
        array = np.asarray(known.contents)
        key = (known.type.dtype.name, array.shape, array.tobytes()) if array.size <= 64 and array.dtype != "O" else None
        if key is not None and key in self._constants:
            return self._constants[key]
        constant = Constant(array).at(known.location)
        constant.result.hint = known.hint
        self._sources[constant.result] = known
        self.root.append(constant)
        if key is not None:
            self._constants[key] = constant.result
        self._scopes[0].materialised[known] = constant.result
        return constant.result

    def _materialise_sizes(self, known: Known) -> Value:
        pieces: list[Value] = []
        flat = list(known.contents.reshape(-1))
        if any(isinstance(x, shapes.Ratio) for x in flat):
            return self._materialise_ratios(known)
        if len(flat) == 1 and isinstance(flat[0], Expr):
            value = self.cast(self.reshape(self.insert(Size(flat[0]))[0], known.type.shape), known.type.dtype)
            return self._materialise(value) if isinstance(value, Known) else value
        while flat:
            count = next((i for i, x in enumerate(flat) if isinstance(x, Expr)), len(flat))
            if count:
                pieces.append(self.constant(np.array(flat[:count], np.int64)))
                del flat[:count]
            else:
                pieces.append(self.reshape(self.insert(Size(flat.pop(0)))[0], (1,)))
        joined = pieces[0] if len(pieces) == 1 else self.insert(Concat(tuple(pieces), 0))[0]
        value = self.cast(self.reshape(joined, known.type.shape), known.type.dtype)
        return self._materialise(value) if isinstance(value, Known) else value

    def _materialise_ratios(self, known: Known) -> Value:
        """Fractions of sizes, when something reads them unrounded."""
        flat = list(known.contents.reshape(-1))
        numerators = np.empty(len(flat), object)
        numerators[:] = [x.dim if isinstance(x, shapes.Ratio) else x for x in flat]
        denominators = np.array([x.denominator if isinstance(x, shapes.Ratio) else 1 for x in flat])
        wide = self.cast(Known(TensorType((len(flat),), i64), numerators, self.location), known.type.dtype)
        assert isinstance(wide, Known)
        whole = self._materialise_sizes(wide)
        divisor = self.constant(denominators.astype(known.type.dtype.numpy))
        value = self.insert(Binary(whole, divisor, "div"))[0]
        value = self.reshape(value, known.type.shape)
        return value

    # -- what is known -------------------------------------------------------------------------------
    def constant(self, array: Any, dtype: DType | None = None, hint: str = "") -> Value:
        """A value with known contents."""
        array = np.asarray(array, None if dtype is None else dtype.numpy)
        return Known(TensorType(array.shape, from_numpy(array.dtype)), array, self.location, hint)

    def scalar(self, value: Any, dtype: DType) -> Value:
        """A scalar constant."""
        return self.constant(np.asarray(value).astype(dtype.numpy))

    def full(self, value: Any, like: TensorType) -> Value:
        """A tensor of type `like` that holds `value` everywhere."""
        return self.broadcast_to(self.scalar(value, like.dtype), like.shape)

    def size(self, dim: Dim) -> Value:
        """A size as an i64 scalar."""
        return self.sizes_as(dim, ())

    def sizes(self, dims: Sequence[Dim]) -> Value:
        """Sizes as an i64 vector."""
        return self.sizes_as(list(dims), (len(dims),))

    def sizes_as(self, dims: Any, shape: tuple[int, ...]) -> Value:
        contents = np.empty(shape, object)
        if shape:
            contents[:] = dims
        else:
            contents[()] = dims
        return Known(TensorType(shape, i64), shapes.normalised(contents, i64), self.location)

    def contents(self, value: Value) -> Array | None:
        """Numbers or sizes that `value` holds, if known."""
        return value.contents if isinstance(value, Known) else None

    def source(self, value: Value) -> Array | None:
        """Numbers or sizes that `value` holds, if known before it was written as operations."""
        return self.contents(self._sources.get(value, value))

    def array(self, value: Value | None) -> Array | None:
        """Numbers that `value` holds, if known."""
        known = None if value is None else self.contents(value)
        return None if known is None or known.dtype == object else known

    def dims(self, value: Value) -> tuple[Dim, ...] | None:
        """Sizes that an integer tensor holds, in order, if known."""
        known = self.source(value)
        if known is None or known.dtype.kind not in "iuO" or any(isinstance(x, shapes.Ratio) for x in known.flat):
            return None
        return tuple(x if isinstance(x, Expr) else int(x) for x in known.reshape(-1))

    def fresh_symbol(self, hint: str = "n") -> str:
        """A name for a size that only running the program tells."""
        self._symbols += 1
        return f"_{hint}{self._symbols}"

    def bind(self, scalar: Value, hint: str = "n") -> Dim:
        """The size that a one-element integer tensor holds: known, or a symbol bound to it (below 0 it counts as 0)."""
        known = self.dims(scalar)
        if known is not None and len(known) == 1:
            return known[0]
        for scope in self._scopes:
            if scalar in scope.bound:
                return scope.bound[scalar]
        name = self.fresh_symbol(hint)
        self.insert(Bind(self.cast(self.reshape(scalar, ()), i64), name))
        self._scopes[-1].bound[scalar] = symbol(name)
        return symbol(name)

    def binding(self, dim: Dim) -> Value | None:
        """The scalar that a size which is one symbol was bound to, if data decides it."""
        held = (value for scope in self._scopes for value, size in scope.bound.items() if size == dim)
        return next(held, None)

    def element(self, vector: Value, index: int) -> Value:
        """Element `index` of an integer vector as an i64 scalar, computed once."""
        for scope in self._scopes:
            if (vector, index) in scope.elements:
                return scope.elements[vector, index]
        result = self.cast(self.reshape(self.slice(vector, 0, index, index + 1), ()), i64)
        self._scopes[-1].elements[vector, index] = result
        return result

    # -- compositions; each returns its operand where it would do nothing ----------------------------
    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        shape = tuple(shape)
        return value if value.type.shape == shape else self.emit(Reshape(value, shape))

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        permutation = tuple(permutation)
        if permutation == tuple(range(len(permutation))) and len(permutation) == value.type.rank:
            return value
        return self.emit(Transpose(value, permutation))

    def cast(self, value: Value, dtype: DType) -> Value:
        return value if value.type.dtype == dtype else self.emit(Cast(value, dtype))

    def broadcast_to(self, value: Value, shape: Sequence[Dim]) -> Value:
        """NumPy broadcasting to exactly `shape` (as long as the operand's, or longer)."""
        shape = tuple(shape)
        source = value.type.shape
        if source == shape:
            return value
        axes = tuple(range(len(shape) - len(source), len(shape)))
        if axes and axes[0] < 0:
            raise self.fail(f"{value.type} does not broadcast to {list(shape)}")
        if len(source) == len(shape) and all(a == b or _same_size(a, b) for a, b in zip(source, shape, strict=True)):
            for a, b in zip(source, shape, strict=True):
                self.assume(a, b)
            return self.reshape(value, shape)
        if isinstance(value, Known):  # unit axes of constants go: a scalar is a scalar
            keep = [i for i, d in enumerate(source) if d != 1]
            value = self.reshape(value, [source[i] for i in keep])
            axes = tuple(axes[i] for i in keep)
            if value.type.shape == shape:
                return value
        return self.emit(Broadcast(value, shape, axes))

    def broadcast(self, value: Value, shape: Sequence[Dim], axes: Sequence[int]) -> Value:
        """Operand axis i becomes axis ``axes[i]`` of `shape`."""
        if value.type.shape == tuple(shape):
            return value
        return self.emit(Broadcast(value, tuple(shape), tuple(axes)))

    def common_shape(self, shapes_: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
        """The shape that NumPy broadcasting gives.

        Raises:
            CompileError: two sizes do not fit.
        """
        rank = max(len(s) for s in shapes_)
        result: list[Dim] = [1] * rank
        for shape in shapes_:
            for axis, dim in enumerate(shape, rank - len(shape)):
                result[axis] = self._common(result[axis], dim, shapes_)
        return tuple(result)

    def _common(self, a: Dim, b: Dim, shapes_: Sequence[Sequence[Dim]]) -> Dim:
        if isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b):
            shown = " and ".join("[" + ", ".join(str(d) for d in s) + "]" for s in shapes_)
            raise self.fail(f"shapes {shown} do not broadcast")
        if a == b or not _same_size(a, b):
            return broadcast_dim(a, b)
        self.assume(a, b)
        return min(a, b, key=lambda d: (len(str(d)), str(d)))

    def aligned(self, *values: Value) -> list[Value]:
        """Operands broadcast to their common shape."""
        shape = self.common_shape([v.type.shape for v in values])
        return [self.broadcast_to(v, shape) for v in values]

    def unary(self, kind: str, value: Value) -> Value:
        return self.emit(Unary(value, kind))

    def binary(self, kind: str, lhs: Value, rhs: Value | float) -> Value:
        """An elementwise operation with broadcasting; a Python number takes the other operand's element type."""
        if not isinstance(rhs, Value):
            rhs = self.scalar(rhs, lhs.type.dtype)
        left, right = self.aligned(lhs, rhs)
        return self.emit(Binary(left, right, kind))

    def compare(self, kind: str, lhs: Value, rhs: Value | float) -> Value:
        """A comparison with broadcasting."""
        if not isinstance(rhs, Value):
            rhs = self.scalar(rhs, lhs.type.dtype)
        left, right = self.aligned(lhs, rhs)
        return self.emit(Compare(left, right, kind))

    def select(self, condition: Value, on_true: Value, on_false: Value) -> Value:
        """``numpy.where`` with broadcasting."""
        return self.emit(Select(*self.aligned(condition, on_true, on_false)))

    def reduce(self, value: Value, axes: Sequence[int], how: str, keepdims: bool = False) -> Value:
        """A reduction; narrow or odd element types of ``any`` and ``all`` are the caller's business."""
        axes = tuple(sorted(axes))
        if not axes:
            return value
        stepwise = self.strict and strict.is_narrow(value.type)
        result = strict.reduced(self, value, axes, how) if stepwise else self.emit(Reduce(value, axes, how))
        if keepdims:
            result = self.reshape(result, [1 if a in axes else d for a, d in enumerate(value.type.shape)])
        return result

    def slice(self, value: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
        """``value[start:stop:step]`` along one axis; bounds already lie in range."""
        shape = value.type.shape
        size = slice_size(start, stop, step)
        if start == 0 and step == 1 and size == shape[axis]:
            return value
        starts: list[Dim] = [0] * len(shape)
        sizes = list(shape)
        steps = [1] * len(shape)
        starts[axis], sizes[axis], steps[axis] = start, size, step
        return self.emit(Slice(value, tuple(starts), tuple(sizes), tuple(steps)))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        return values[0] if len(values) == 1 else self.emit(Concat(tuple(values), axis))

    def clamp(self, value: Value, low: float, high: float) -> Value:
        return self.binary("min", self.binary("max", value, low), high)

    def wide(self, value: Value) -> Value:
        """Floats narrower than 32 bits as f32."""
        return self.cast(value, f32) if value.type.dtype.is_float and value.type.dtype.bits < 32 else value

    def truth(self, value: Value) -> Value:
        """As bool."""
        return self.cast(value, bool_)


def _same_size(a: Dim, b: Dim) -> bool:
    """Whether two different expressions that meet are taken for one size: they are computed from the same symbols
    (``2*floordiv(h, 2)`` and ``h`` where a decoder joins its encoder)."""
    return isinstance(a, Expr) and isinstance(b, Expr) and a != b and symbols_of(a) == symbols_of(b)


def _is_uniform(value: Value) -> bool:
    return isinstance(value, Known) and (value.uniform or value.contents.size == 1) and value.contents.dtype != object
