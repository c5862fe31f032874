"""Tensors that depend on sizes and numbers only."""

from __future__ import annotations

from typing import Any

from ds_compiler.frontends.torch.emitter import Emitter, Operand
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dtypes import f32, i64


@aten("aten.full.default")
def full(e: Emitter, shape: Any, value: Operand) -> Value:
    return e.full(value, e.result)


@aten("aten.full_like.default")
def full_like(e: Emitter, x: Value, value: Operand) -> Value:
    return e.full(value, e.result)


@aten("aten.scalar_tensor.default")
def scalar_tensor(e: Emitter, value: Operand) -> Value:
    return e.scalar(value, e.result.dtype)


@aten("aten.empty.memory_format", "aten.empty_strided.default", "aten.empty_permuted.default")
def empty(e: Emitter, *_: Any) -> Value:
    """Any contents will do."""
    return e.full(0, e.result)


@aten("aten.arange.default", "aten.arange.start")
def arange(e: Emitter, *bounds: Operand) -> Value:
    start: Operand = bounds[0] if len(bounds) > 1 else 0
    return _counted(e, start, 1)


@aten("aten.arange.start_step")
def arange_step(e: Emitter, start: Operand, end: Operand, step: Operand = 1) -> Value:
    return _counted(e, start, step)


@aten("prims.iota.default")
def iota(e: Emitter, length: Dim, start: Operand = 0, step: Operand = 1, requires_grad: bool = False) -> Value:
    return _counted(e, start, step)


def _counted(e: Emitter, start: Operand, step: Operand) -> Value:
    """``start + i * step`` in the result's type; narrow floats are computed in f32."""
    dtype = e.result.dtype
    wide = f32 if dtype.is_float and dtype.bits < 32 else dtype if dtype.is_float else i64
    result = e.iota(e.result.shape, 0, wide)
    if step != 1:
        result = e.binary("mul", result, step)
    if not (isinstance(start, int | float) and start == 0):
        result = e.binary("add", result, start)
    return e.cast(result, dtype)
