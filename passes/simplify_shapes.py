"""Sizes as values: arithmetic on ``size`` operations becomes arithmetic on size expressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ds_compiler.ir import Builder, Dim, Module, TensorType, Value
from ds_compiler.ir.dims import floordiv, is_non_negative, maximum, minimum, mod
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Assume, Binary, Bind, Broadcast, Check, Compare, Concat, Constant, Reshape, Size, Slice
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant, full, reshaped
from ds_compiler.passes.rewriter import PatternSet, Rewrite, rewrite

pattern = PatternSet("simplify-shapes")

_SCALAR = TensorType((), i64)
_ARITHMETIC: dict[str, Callable[[Dim, Dim], Dim]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": maximum,
    "min": minimum,
}
_ROUNDING: dict[str, Callable[[Dim, Dim], Dim]] = {"div": floordiv, "mod": mod, "fmod": mod}


@register("simplify-shapes")
def simplify_shapes(module: Module) -> None:
    """Compute with sizes at compile time as far as their symbols allow.

    %1 = size batch
    %2 = size 2*batch        →    %3 = constant 2
    %3 = div %2, %1
    """
    rewrite(module, pattern)
    eliminate_dead_code(module)


def size_of(value: Value) -> Dim | None:
    """The size expression that a one-element i64 `value` holds."""
    if value.type.dtype != i64 or value.type.elements != 1:
        return None
    op = value.defining_op
    match op:
        case Size():
            return op.dim
        case Constant():
            return int(op.value.reshape(-1)[0])
        case Reshape() | Broadcast():
            return size_of(op.operand)
        case Slice():
            sizes = sizes_of(op.operand)
            start = op.starts[0] if len(op.starts) == 1 else None
            if sizes is not None and isinstance(start, int) and 0 <= start < len(sizes):
                return sizes[start]
    return None


def sizes_of(value: Value) -> list[Dim] | None:
    """The size expressions that a 1-D i64 `value` holds."""
    if value.type.dtype != i64 or value.type.rank != 1:
        return None
    op = value.defining_op
    if isinstance(op, Constant):
        return [int(n) for n in op.value]
    if not isinstance(op, Concat):
        dim = size_of(value)
        return None if dim is None else [dim]
    result: list[Dim] = []
    for part in op.inputs:
        dims = sizes_of(part)
        if dims is None:
            return None
        result.extend(dims)
    return result


def _emit(builder: Builder, dim: Dim) -> Value:
    return builder.emit(Size(dim) if not isinstance(dim, int) else Constant(np.asarray(dim, np.int64)))


@pattern(Size)
def known_size(op: Size, builder: Builder) -> Rewrite:
    """The size of a static dimension is a constant."""
    return _emit(builder, op.dim) if isinstance(op.dim, int) else None


@pattern(Binary)
def size_arithmetic(op: Binary, builder: Builder) -> Rewrite:
    """Sums, products, quotients, extrema of sizes are sizes (quotients only of operands known to be >= 0)."""
    a, b = size_of(op.lhs), size_of(op.rhs)
    if a is None or b is None or (isinstance(a, int) and isinstance(b, int)):
        return None
    if op.kind in _ARITHMETIC:
        dim = _ARITHMETIC[op.kind](a, b)
    elif op.kind in _ROUNDING and is_non_negative(a) and is_non_negative(b - 1):
        dim = _ROUNDING[op.kind](a, b)
    else:
        return None
    return reshaped(builder, _emit(builder, dim), op.result.type.shape)


@pattern(Compare)
def size_comparison(op: Compare, builder: Builder) -> Rewrite:
    """A comparison of sizes that holds, or fails, for all values of their symbols."""
    a, b = size_of(op.lhs), size_of(op.rhs)
    if a is None or b is None or (isinstance(a, int) and isinstance(b, int)):
        return None
    less, greater = is_non_negative(b - a - 1), is_non_negative(a - b - 1)
    at_most, at_least = is_non_negative(b - a), is_non_negative(a - b)
    decided = {
        "eq": (a == b, less or greater),
        "ne": (less or greater, a == b),
        "lt": (less, at_least),
        "le": (at_most, greater),
        "gt": (greater, at_most),
        "ge": (at_least, less),
    }
    true, false = decided[op.kind]
    return full(builder, op.result.type, true) if true or false else None


@pattern(Slice, Reshape)
def element_of_sizes(op: Slice | Reshape, builder: Builder) -> Rewrite:
    """Picking one of joined sizes gives that size."""
    if op.result.type.dtype != i64 or op.result.type.elements != 1:
        return None
    source = op.operand.defining_op
    if not isinstance(source, Concat | Slice):
        return None
    dim = size_of(op.result)
    return None if dim is None else reshaped(builder, _emit(builder, dim), op.result.type.shape)


@pattern(Bind)
def binding_of_itself(op: Bind, builder: Builder) -> Rewrite:
    """``bind`` of a symbol to its own value says nothing new."""
    dim = size_of(op.value)
    return [] if dim is not None and str(dim) == op.symbol else None


@pattern(Assume)
def assumption_that_holds(op: Assume, builder: Builder) -> Rewrite:
    """Equal expressions need no check."""
    return [] if op.lhs == op.rhs else None


@pattern(Check)
def check_that_holds(op: Check, builder: Builder) -> Rewrite:
    """A condition that is always true."""
    known = constant(op.condition)
    return [] if known is not None and known else None
