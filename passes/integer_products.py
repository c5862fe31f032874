"""Products of quantised tensors, on 16 bits an element.

    %2 = sub %1, %zero : i32       an 8-bit tensor less its zero point        %2 = sub %1, %zero : i32
    %3 = dot_general %2, %w : i32                                          →  %3 = cast %2 : i16
                                                                              %4 = dot_integer %3, %w : i32

An 8-bit number less another has 9 bits: it fits into 16, and sums of products of 16-bit numbers are exact in 32.
Convolutions, which front ends write in f64, become the product of the windows, side by side, and the filters; those
of one channel a group are exact in f32.
"""

from __future__ import annotations

import itertools

import numpy as np

from ds_compiler.ir import Builder, Dim, DType, Module, Value
from ds_compiler.ir.dtypes import f32, f64, i16, i32
from ds_compiler.ops import (
    Binary,
    Broadcast,
    Cast,
    Concat,
    Constant,
    Conv,
    DotGeneral,
    DotInteger,
    Pad,
    Reshape,
    Slice,
    Transpose,
)
from ds_compiler.passes import remarks
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant, defined_by

_DEEPEST = 8
_EXACT_IN_F32 = 1 << 24


@register("integer-products")
def multiply_integers(module: Module) -> None:
    """Products of 8-bit tensors with constant weights become products of 16-bit ones; convolutions too."""
    for function in module.functions.values():
        for op in list(function.walk()):
            if isinstance(op, DotGeneral) and op.result.type.dtype == i32:
                _product(op)
            elif isinstance(op, Conv) and op.result.type.dtype == f64:
                _convolution(op)
    eliminate_dead_code(module)


def _range(value: Value, depth: int = _DEEPEST) -> tuple[int, int] | None:
    """Bounds of an integer tensor's elements (or of whole numbers held as floats), from how it is computed."""
    array = constant(value)
    if array is not None:
        whole = array.size and (array.dtype.kind in "iu" or bool((array == np.rint(array)).all()))
        return (int(array.min()), int(array.max())) if whole else None
    op = value.defining_op
    match op:
        case Cast():
            source = op.operand.type.dtype
            inner = _range(op.operand, depth - 1) if depth else None
            if inner is None and source.is_integer and source.bits <= 8:
                inner = _limits(source)
            if inner is None or not op.dtype.is_integer:
                return inner if op.dtype in (f32, f64) else None
            low, high = _limits(op.dtype)
            return inner if low <= inner[0] and inner[1] <= high else None
        case Broadcast() | Reshape() | Transpose() | Slice() if depth:
            return _range(op.operands[0], depth - 1)
        case Binary() if depth and op.kind in ("add", "sub"):
            a, b = _range(op.lhs, depth - 1), _range(op.rhs, depth - 1)
            if a is not None and b is not None:
                return (a[0] + b[0], a[1] + b[1]) if op.kind == "add" else (a[0] - b[1], a[1] - b[0])
    return None


def _limits(dtype: DType) -> tuple[int, int]:
    bits = dtype.bits
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.kind == "i" else (0, (1 << bits) - 1)


def _fits(bounds: tuple[int, int] | None) -> bool:
    return bounds is not None and bounds[0] > -(1 << 15) and bounds[1] < 1 << 15


def _product(op: DotGeneral) -> None:
    rank = op.lhs.type.rank
    weights = constant(op.rhs)
    if weights is None or weights.ndim != 2 or op.lhs_batch or op.lhs_contract != (rank - 1,) or not rank:
        return
    if not _fits(_range(op.rhs)) or not _fits(_range(op.lhs)):
        remarks.missed("integer-products", "an operand may not fit into 16 bits", op.location)
        return
    matrix = weights if op.rhs_contract == (0,) else weights.T
    builder = Builder(before=op, location=op.location)
    op.replace_with(_multiplied(builder, op.lhs, matrix))
    remarks.count("integer-products.matmul")


def _multiplied(builder: Builder, rows: Value, matrix: np.ndarray) -> Value:
    """The product of whole numbers [..., k], of any type, and constant ones [k, n], with an even depth."""
    narrow = rows if rows.type.dtype == i16 else builder.emit(Cast(rows, i16))
    if matrix.shape[0] % 2:
        zero = builder.emit(Constant(np.zeros((), np.int16)))
        nothing = (0,) * narrow.type.rank
        narrow = builder.emit(Pad(narrow, zero, nothing, (*nothing[1:], 1)))
        matrix = np.concatenate([matrix, np.zeros_like(matrix[:1])])
    right = builder.emit(Constant(np.ascontiguousarray(matrix, np.int16)))
    return builder.emit(DotInteger(narrow, right))


def _convolution(op: Conv) -> None:
    source, weights = defined_by(op.input, Cast), constant(op.weight)
    bounds = _range(op.input)
    if source is None or weights is None or bounds is None or op.layout != "nchw" or not _fits(_range(op.weight)):
        return
    builder = Builder(before=op, location=op.location)
    largest = max(abs(b) for b in bounds)
    per_filter = np.abs(weights).reshape(weights.shape[0], -1).sum(1).max()
    if op.groups == 1 and op.spatial_rank <= 2 and _fits(bounds):
        product = _windows_times_filters(builder, op, source.operand, weights)
        for user in list(op.result.users):
            if isinstance(user, Cast) and user.dtype == i32:
                user.replace_with(product)
        if op.result.uses:
            op.replace_with(builder.emit(Cast(product, f64)))
        remarks.count("integer-products.convolution")
    elif weights.shape[1] == 1 and largest * per_filter < _EXACT_IN_F32:
        single = Conv(
            builder.emit(Cast(source.operand, f32)),
            builder.emit(Constant(weights.astype(np.float32))),
            op.strides,
            op.low,
            op.high,
            op.dilations,
            op.groups,
        )
        op.replace_with(builder.emit(Cast(builder.emit(single), f64)))
        remarks.count("integer-products.convolution")


def _windows_times_filters(builder: Builder, op: Conv, x: Value, weights: np.ndarray) -> Value:
    """The convolution of whole numbers [n, c, …] as the product of [n, …, taps * c] and the filters, in i32."""
    rank, taps = op.spatial_rank, weights.shape[2:]
    last = (0, *range(2, rank + 2), 1)
    pixels = builder.emit(Transpose(builder.emit(Cast(x, i16)), last))
    if any(p != 0 for p in (*op.low, *op.high)):
        zero = builder.emit(Constant(np.zeros((), np.int16)))
        pixels = builder.emit(Pad(pixels, zero, (0, *op.low, 0), (0, *op.high, 0)))
    n, channels = pixels.type.shape[0], pixels.type.shape[-1]
    spatial: tuple[Dim, ...] = op.result.type.shape[2:]
    parts: list[Value] = []
    for tap in itertools.product(*(range(t) for t in taps)):
        starts = (0, *(t * d for t, d in zip(tap, op.dilations, strict=True)), 0)
        sizes, steps = (n, *spatial, channels), (1, *op.strides, 1)
        whole = sizes == pixels.type.shape and set(steps) == {1}
        parts.append(pixels if whole else builder.emit(Slice(pixels, starts, sizes, steps)))
    windows = parts[0] if len(parts) == 1 else builder.emit(Concat(tuple(parts), rank + 1))
    matrix = weights.transpose(*range(2, rank + 2), 1, 0).reshape(-1, weights.shape[0])
    product = _multiplied(builder, windows, matrix)
    return builder.emit(Transpose(product, (0, rank + 1, *range(1, rank + 1))))
