"""Changes of element type."""

from __future__ import annotations

import ml_dtypes

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import DType, Value
from ds_compiler.ir.dtypes import bool_, f64, i32, i64, u8
from ds_compiler.ir.dtypes import dtype as dtype_called
from ds_compiler.ops import Bitcast, Predicate

_POWER = dtype_called("f8e8m0fnu")


def convert(e: Emitter, value: Value, dtype: DType, saturate: bool = True, rounding: str = "up") -> Value:
    """ONNX's Cast: `saturate` sends what exceeds a float8 type to its largest number, else to inf or NaN.

    Out of range of a 4-bit integer, the low bits are kept. `rounding` is to powers of two (float8e8m0).
    """
    source = value.type.dtype
    if "s" in (source.kind, dtype.kind) and source != dtype:
        raise e.fail(f"strings are not converted: {source} to {dtype}")
    if dtype == _POWER and source != dtype:
        return _power_of_two(e, value, saturate, rounding)
    if dtype.is_float and dtype.bits == 8 and saturate and source != dtype:
        largest = float(ml_dtypes.finfo(dtype.numpy).max)  # type: ignore[no-untyped-call]
        if source.is_float and source.bits > 8:
            value = e.clamp(value, -largest, largest)
    if dtype.is_integer and dtype.bits < 8 and source.is_float:
        value = e.cast(value, i32)
    return e.cast(value, dtype)


def _power_of_two(e: Emitter, value: Value, saturate: bool, rounding: str) -> Value:
    """The exponent of each number as float8e8m0; in f64, where all numbers of f32 are normal.

    Out of range is the nearest power or, without `saturate`, NaN; negative numbers, which ONNX leaves open, are NaN.
    """
    wide = e.cast(e.cast(value, i32) if value.type.dtype == bool_ else value, f64)
    bits = e.emit(Bitcast(wide, i64))
    biased = e.binary("shr", bits, 52)
    fraction = e.binary("and", bits, (1 << 52) - 1)
    code = e.binary("sub", biased, 1023 - 127)
    if rounding != "down":
        least = 1 if rounding == "up" else 1 << 51
        code = e.binary("add", code, e.cast(e.compare("ge", fraction, least), i64))
    if saturate:
        code = e.binary("min", e.binary("max", code, 0), 254)
    else:
        inside = e.binary("and", e.compare("ge", code, 0), e.compare("le", code, 254))
        code = e.select(inside, code, e.scalar(255, i64))
    open_ = e.binary("or", e.emit(Predicate(wide, "isnan")), e.compare("lt", wide, 0))
    code = e.select(open_, e.scalar(255, i64), code)
    return e.emit(Bitcast(e.cast(code, u8), _POWER))


def _rounding(n: Node) -> str:
    return n.choice("round_mode", "up", ("up", "down", "nearest"))


@onnx_op("Cast", since=6)
def cast(e: Emitter, n: Node) -> Value:
    dtype = element_type(int(n.required("to")), "the result")
    return convert(e, n.input(0), dtype, bool(n.int("saturate", 1)), _rounding(n))


@onnx_op("CastLike", since=15)
def cast_like(e: Emitter, n: Node) -> Value:
    return convert(e, n.input(0), n.input(1).type.dtype, bool(n.int("saturate", 1)), _rounding(n))
