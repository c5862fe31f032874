"""Changes of element type."""

from __future__ import annotations

import ml_dtypes

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import DType, Value
from ds_compiler.ir.dtypes import i32


def convert(e: Emitter, value: Value, dtype: DType, saturate: bool = True) -> Value:
    """ONNX's Cast: `saturate` sends what exceeds a float8 type to its largest number, else to inf or NaN.

    Out of range of a 4-bit integer, the low bits are kept.
    """
    source = value.type.dtype
    if "s" in (source.kind, dtype.kind) and source != dtype:
        raise e.fail(f"strings are not converted: {source} to {dtype}")
    if dtype.is_float and dtype.bits == 8 and saturate and source != dtype:
        largest = float(ml_dtypes.finfo(dtype.numpy).max)  # type: ignore[no-untyped-call]
        if source.is_float and source.bits > 8:
            value = e.clamp(value, -largest, largest)
    if dtype.is_integer and dtype.bits < 8 and source.is_float:
        value = e.cast(value, i32)
    return e.cast(value, dtype)


@onnx_op("Cast", since=6)
def cast(e: Emitter, n: Node) -> Value:
    return convert(e, n.input(0), element_type(int(n.required("to")), "the result"), bool(n.int("saturate", 1)))


@onnx_op("CastLike", since=15)
def cast_like(e: Emitter, n: Node) -> Value:
    return convert(e, n.input(0), n.input(1).type.dtype, bool(n.int("saturate", 1)))
