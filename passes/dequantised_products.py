"""Products of dequantised tensors are computed on the integers they came from.

    %2 = mul (cast %x - zero), scale              %2 = dot_general (cast %x - zero), %v : i32
    %3 = dot_general %2, %w : f32            →    %3 = mul (cast %2 : f32), scale * scales of %w

where ``%w`` is a constant, dequantised by one scale or one for each column. The sums are then exact, where
those of f32 round at every step; `integer-products` finds the instruction. Bias, activation and the quantisation that
follow stay as they are, and become the product's epilogue. Runs before constants are folded, which would dequantise
the weights. Convolutions stay in f32: their integer form, the product of the windows, is slower as long as the windows
are written to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ir.dtypes import f32, i32
from ds_compiler.ops import Binary, Broadcast, Cast, Constant, DotGeneral, Reshape, Transpose
from ds_compiler.passes import remarks
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant, defined_by, full

Array = np.ndarray[Any, Any]
_LARGEST_SUM = 1 << 31


@dataclass(frozen=True)
class _Dequantised:
    """``(cast whole - zero) * scale``; zero and scale broadcast to the tensor."""

    whole: Value
    zero: Array
    scale: Array


@register("dequantised-products")
def multiply_what_was_quantised(module: Module) -> None:
    """Products of a dequantised tensor and dequantised constant weights become products of integers."""
    for function in module.functions.values():
        for op in list(function.walk()):
            if isinstance(op, DotGeneral) and op.result.type.dtype == f32:
                _product(op)
    dequantise_constants(module)


@register("dequantised-constants")
def dequantise_constants(module: Module) -> None:
    """What else is dequantised constants becomes constants."""
    for function in module.functions.values():
        for op in list(function.walk()):
            if isinstance(op, Binary) and op.kind == "mul" and op.result.type.is_static:
                found = _dequantised(op.result)
                numbers = None if found is None else _known(found.whole)
                if found is not None and numbers is not None:
                    values = (numbers.astype(np.float32) - found.zero) * found.scale
                    values = np.broadcast_to(values, [d for d in op.result.type.shape if isinstance(d, int)]).astype(
                        np.float32
                    )
                    op.replace_with(
                        Builder(before=op, location=op.location).emit(Constant(np.ascontiguousarray(values)))
                    )
    eliminate_dead_code(module)


def _known(value: Value) -> Array | None:
    """A constant behind casts and changes of shape, with ones for the axes along which it repeats."""
    op = value.defining_op
    known = constant(value)
    if known is not None:
        return known
    if not isinstance(op, Cast | Reshape | Broadcast | Transpose):
        return None
    array = _known(op.operand)
    if array is None:
        return None
    match op:
        case Cast():
            return array.astype(op.dtype.numpy)
        case Transpose():
            return array.transpose(op.permutation)
        case Broadcast():
            shape = [1] * len(op.shape)
            for axis, size in zip(op.axes, array.shape, strict=True):
                shape[axis] = size
            return array.reshape(shape)
    if array.size == 1:
        return array.reshape([1] * len(op.shape))
    if op.operand.type.elements != array.size or not op.result.type.is_static:
        return None
    return array.reshape(op.result.type.shape)


def _dequantised(value: Value) -> _Dequantised | None:
    product = defined_by(value, Binary)
    if product is None or product.kind != "mul" or product.result.type.dtype != f32:
        return None
    scale = _known(product.rhs)
    if scale is None or not np.isfinite(scale).all():
        return None
    inner, zero = product.lhs, np.zeros((), np.float32)
    less = defined_by(inner, Binary)
    if less is not None and less.kind == "sub":
        known = _known(less.rhs)
        if known is None or bool((known != np.rint(known)).any()):
            return None
        inner, zero = less.lhs, known
    cast = defined_by(inner, Cast)
    source = None if cast is None else cast.operand.type.dtype
    if cast is None or source is None or not source.is_integer or source.bits > 8 or not scale.size:
        return None
    return _Dequantised(cast.operand, zero, scale)


def _weights(value: Value, kept: int) -> tuple[Array, Array] | None:
    """(integers, scales as a vector along axis `kept`) of dequantised constant weights of static shape."""
    found = _dequantised(value)
    numbers = None if found is None else _known(found.whole)
    if found is None or numbers is None or numbers.shape != value.type.shape:
        return None
    spread = np.broadcast_to(found.scale, numbers.shape)
    first = spread[tuple(slice(None) if a == kept else slice(1) for a in range(numbers.ndim))]
    if not numbers.size or not (spread == first).all():  # the scale changes within a sum
        return None
    scales = first.reshape(-1)
    whole = numbers.astype(np.int64) - found.zero.astype(np.int64)
    return whole, scales.astype(np.float32)


def _activations(value: Value, weights: Array, kept: int) -> _Dequantised | None:
    """A tensor with one scale and zero point whose sums of products with `weights` fit 32 bits."""
    found = _dequantised(value)
    if found is None or found.scale.size != 1 or found.zero.size != 1:
        return None
    sums = np.abs(weights).sum(tuple(a for a in range(weights.ndim) if a != kept))
    return found if int(sums.max(initial=0)) * 255 < _LARGEST_SUM else None


def _centred(builder: Builder, x: _Dequantised) -> Value:
    wide = builder.emit(Cast(x.whole, i32))
    zero = int(x.zero.reshape(-1)[0])
    return wide if zero == 0 else builder.emit(Binary(wide, full(builder, wide.type, zero), "sub"))


def _scaled(builder: Builder, total: Value, x: _Dequantised, scales: Array, axis: int) -> Value:
    """Integer sums as f32, times the product of the operands' scales."""
    factors = x.scale.astype(np.float32).reshape(()) * scales
    spread = builder.emit(Broadcast(builder.emit(Constant(factors)), total.type.shape, (axis,)))
    return builder.emit(Binary(builder.emit(Cast(total, f32)), spread, "mul"))


def _product(op: DotGeneral) -> None:
    rank = op.lhs.type.rank
    if op.rhs.type.rank != 2 or op.lhs_batch or not rank or op.lhs_contract != (rank - 1,):
        return
    (kept,) = op.rhs_free
    weights = _weights(op.rhs, kept)
    x = None if weights is None else _activations(op.lhs, weights[0], kept)
    if weights is None or x is None:
        return
    builder = Builder(before=op, location=op.location)
    matrix = weights[0] if kept == 1 else weights[0].T
    right = builder.emit(Constant(np.ascontiguousarray(matrix, np.int32)))
    total = builder.emit(DotGeneral(_centred(builder, x), right, (), (), op.lhs_contract, (0,)))
    op.replace_with(_scaled(builder, total, x, weights[1], total.type.rank - 1))
    remarks.count("dequantised-products.matmul")
