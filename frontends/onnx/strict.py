"""Strict import: what ONNX's reference implementation computes, step by step.

By default numbers of narrow types stay in float32 from one operator of a kernel to the next, and what ONNX defines by
simpler operators (attention, softmax) is computed as a whole: closer to the exact result, and fast. Strictly, such
operators are expanded, and each step is rounded to the element type that it has in ONNX's definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_compiler.ir import Block, Operation, Region, TensorType, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import bf16, f32
from ds_compiler.ops import Binary, Cast, Reduce, Scan, Unary, Yield

if TYPE_CHECKING:
    from ds_compiler.frontends.onnx.emitter import Emitter


def is_narrow(type_: TensorType) -> bool:
    """Floats of fewer than 32 bits."""
    return type_.dtype.is_float and type_.dtype.bits < 32


def widened(e: Emitter, operation: Operation) -> Operation:
    """An arithmetic operation on narrow floats as one in f32 and a cast, which a kernel does not leave out."""
    if not isinstance(operation, Unary | Binary) or not is_narrow(operation.result.type):
        return operation
    dtype = operation.result.type.dtype
    operands = [e.emit(Cast(v, f32)) for v in operation.operands]
    kind = operation.kind
    operation.drop()
    wide = Unary(operands[0], kind) if len(operands) == 1 else Binary(operands[0], operands[1], kind)
    return Cast(e.emit(wide), dtype)


def reduced(e: Emitter, value: Value, axes: tuple[int, ...], how: str) -> Value:
    """A reduction of narrow floats. NumPy adds those of bf16 one after the other, and rounds each sum."""
    if how == "sum" and value.type.dtype == bf16:
        return _ordered_sum(e, value, axes)
    return e.cast(e.emit(Reduce(e.cast(value, f32), axes, how)), value.type.dtype)


def _ordered_sum(e: Emitter, value: Value, axes: tuple[int, ...]) -> Value:
    """The sum along `axes`, element after element; the axes disappear."""
    kept = [a for a in range(value.type.rank) if a not in axes]
    shape = tuple(value.type.shape[a] for a in kept)
    count = product(tuple(value.type.shape[a] for a in axes))
    rows = e.reshape(e.transpose(value, (*axes, *kept)), (count, *shape))
    type_ = value.type.with_shape(shape)
    block = Block([type_, type_])
    with e.into(block):
        e.insert(Yield((e.binary("add", *block.arguments),)))
    return e.insert(Scan((e.full(0, type_),), (rows,), count, Region(block)))[0]
