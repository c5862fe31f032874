"""Triton text of the elementwise operations on one block.

Element types compute as in the CPU back end: f32 and f64 as themselves, narrower floats as f32 (rounded at each cast
and store), integers as themselves, bool as i1 (a byte in memory).
"""

from __future__ import annotations

import math
from typing import Any

from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.errors import CompileError

_TYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f8e4m3fn": "float8e4nv",
    "f8e5m2": "float8e5", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u64": "uint64",
    "u32": "uint32", "u16": "uint16", "u8": "uint8", "bool": "int1",
}  # fmt: skip
_SIGNATURE = {
    "f64": "fp64", "f32": "fp32", "f16": "fp16", "bf16": "bf16", "f8e4m3fn": "fp8e4nv", "f8e5m2": "fp8e5",
    "bool": "u8",
}  # fmt: skip

_FUNCTIONS = {
    "floor": "tl.floor",
    "ceil": "tl.ceil",
    "round": "library.round_half_even",
    "trunc": "library.trunc",
    "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt",
    "exp": "tl.exp",
    "exp_nonpositive": "tl.exp",
    "log": "tl.log",
    "sin": "tl.sin",
    "cos": "tl.cos",
    "erf": "tl.erf",
    **{
        name: f"library.{name}"
        for name in (
            "expm1", "log1p", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
            "sigmoid",
        )
    },
}  # fmt: skip
_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def memory_type(dtype: DType) -> str:
    """Triton's name for elements of `dtype` in memory, as signatures write it (``fp32``).

    Raises:
        CompileError: the GPU back end has no code for the type.
    """
    triton_type(dtype)
    return _SIGNATURE.get(dtype.name, dtype.name)


def triton_type(dtype: DType) -> str:
    """``tl.float32`` and the like: the type that memory has (bool: i1).

    Raises:
        CompileError: as `memory_type`.
    """
    name = _TYPES.get(dtype.name)
    if name is None:
        raise CompileError(f"element type {dtype} is not supported by the GPU back end")
    return f"tl.{name}"


def compute_type(dtype: DType) -> str:
    """The type that values of `dtype` have in registers."""
    return "tl.float32" if widens(dtype) else triton_type(dtype)


def widens(dtype: DType) -> bool:
    """Whether values are computed in f32 but stored narrower."""
    return dtype.is_float and dtype.bits < 32


def literal(value: Any, dtype: DType) -> str:
    """A constant of `dtype`, as a Python literal."""
    if dtype.kind == "b":
        return "True" if value else "False"
    if not dtype.is_float:
        return str(int(value))
    number = float(value)
    return repr(number) if math.isfinite(number) else f'float("{number}")'


def from_memory(text: str, dtype: DType) -> str:
    """What was loaded, as `compute_type`."""
    if dtype.kind == "b":
        return f"({text} != 0)"
    return f"{text}.to(tl.float32)" if widens(dtype) else text


def to_memory(text: str, dtype: DType) -> str:
    """What to store: stores convert to the buffer's type by themselves, except from i1."""
    if dtype.kind == "b":
        return f"{text}.to(tl.uint8)"
    return f"{text}.to({triton_type(dtype)})" if widens(dtype) else text


def unary(kind: str, x: str, dtype: DType) -> str:
    """A kind of `ds_compiler.ops.elementwise.UNARY`."""
    match kind:
        case "neg":
            return f"-{x}"
        case "abs":
            return x if dtype.kind == "u" else f"tl.abs({x})"
        case "not":
            return f"{x} == 0" if dtype.kind == "b" else f"~{x}"
        case "reciprocal":
            return f"1.0 / {x}"
        case "sign":
            below = x if dtype.kind == "u" else f"tl.where({x} < 0, -1, {x})"
            return f"tl.where({x} > 0, 1, {below})"
    if kind in _FUNCTIONS and dtype.is_float:
        return f"{_FUNCTIONS[kind]}({x})"
    raise CompileError(f"'{kind}' has no code for element type {dtype}")


def predicate(kind: str, x: str) -> str:
    """``isnan``, ``isinf``, ``isfinite``."""
    if kind == "isnan":
        return f"{x} != {x}"
    return f'tl.abs({x}) {"==" if kind == "isinf" else "<"} float("inf")'


def binary(kind: str, a: str, b: str, dtype: DType) -> str:
    """A kind of `ds_compiler.ops.elementwise.BINARY`."""
    if kind in ("max", "min"):
        if dtype.kind == "b":
            return f"{a} {'|' if kind == 'max' else '&'} {b}"
        return f"library.{kind}imum({a}, {b})" if dtype.is_float else f"tl.{kind}imum({a}, {b})"
    if kind in _OPERATORS:
        return f"{a} {_OPERATORS[kind]} {b}"
    if dtype.is_float:
        match kind:
            case "div":
                return f"{a} / {b}"
            case "pow":
                return f"library.power({a}, {b})"
            case "atan2":
                return f"library.atan2({a}, {b})"
    match kind:
        case "div":
            return f"library.integer_divide({a}, {b})"
        case "mod":
            return f"library.floor_mod({a}, {b})"
        case "fmod":
            return f"library.remainder({a}, {b})"
        case "pow":
            return f"library.integer_power({a}, {b})"
        case "shl":
            return f"tl.where(({b} >= 0) & ({b} < {dtype.bits}), {a} << ({b} & {dtype.bits - 1}), 0)"
        case "shr":
            beyond = f"tl.where({a} < 0, -1, 0)" if dtype.kind == "i" else "0"
            return f"tl.where(({b} >= 0) & ({b} < {dtype.bits}), {a} >> ({b} & {dtype.bits - 1}), {beyond})"
    raise CompileError(f"'{kind}' has no code for element type {dtype}")


def compare(kind: str, a: str, b: str) -> str:
    """A kind of `ds_compiler.ops.elementwise.COMPARE`, as i1."""
    return f"{a} {_COMPARE[kind]} {b}"


def cast(x: str, source: DType, to: DType) -> str:
    """Conversion as `ds_compiler.ops.Cast` defines it."""
    if to.kind == "b":
        return x if source.kind == "b" else f"{x} != 0"
    if source.is_float and to.is_integer:
        low, high = (int(limit) for limit in to.limits)
        # A float converts only where it is in range; `high` itself may be no float, the power of two above it is.
        inside = f"({x} > {float(low - 1 if to.bits < 32 else low)!r}) & ({x} < {float(high + 1)!r})"
        number = f"tl.where({inside}, {x}, 0.0).to({triton_type(to)})"
        return f"tl.where({x} >= {float(high + 1)!r}, {high}, tl.where({x} <= {float(low)!r}, {low}, {number}))"
    if widens(to):
        return f"{x}.to({triton_type(to)}).to(tl.float32)"
    return f"{x}.to({triton_type(to)})"


def bitcast(x: str, source: DType, to: DType) -> str:
    """The same bits as another type of the same width."""
    return from_memory(f"{to_memory(x, source)}.to({triton_type(to)}, bitcast=True)", to)
