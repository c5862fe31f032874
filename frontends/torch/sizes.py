"""SymPy's sizes, which PyTorch computes with, as ours; and PyTorch's element types."""

from __future__ import annotations

from typing import Any

import torch

from ds_compiler.ir import CompileError, Dim, DType, TensorType, dims, symbol
from ds_compiler.ir.dtypes import bf16, bool_, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64

_DTYPES: dict[Any, DType] = {
    torch.float64: f64,
    torch.float32: f32,
    torch.float16: f16,
    torch.bfloat16: bf16,
    torch.int64: i64,
    torch.int32: i32,
    torch.int16: i16,
    torch.int8: i8,
    torch.uint8: u8,
    torch.uint16: u16,
    torch.uint32: u32,
    torch.uint64: u64,
    torch.bool: bool_,
}


def element_type(dtype: Any) -> DType:
    """Our element type for a `torch.dtype`.

    Raises:
        CompileError: there is none (complex and quantised numbers).
    """
    try:
        return _DTYPES[dtype]
    except KeyError:
        raise CompileError(f"element type {dtype} is not supported") from None


def tensor_type(fake: Any) -> TensorType:
    """The type of a (fake) tensor.

    Raises:
        CompileError: its element type, layout or a size is not supported.
    """
    if fake.layout != torch.strided:
        raise CompileError(f"tensors of layout {fake.layout} are not supported")
    return TensorType(tuple(size(d) for d in fake.shape), element_type(fake.dtype))


def size(value: Any) -> Dim:
    """An `int` or `SymInt` as a size.

    Raises:
        CompileError: the expression uses a function that sizes do not have.
    """
    return int(value) if isinstance(value, int) else from_sympy(value.node.expr)


def from_sympy(expr: Any) -> Dim:
    """A SymPy expression as a size.

    Raises:
        CompileError: as for `size`.
    """
    name = type(expr).__name__
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return symbol(str(expr))
    arguments = [from_sympy(a) for a in expr.args]
    total: Dim
    match name:
        case "Add":
            total = 0
            for argument in arguments:
                total = total + argument
            return total
        case "Mul":
            return dims.product(tuple(arguments))
        case "Pow" | "PowByNatural" if isinstance(arguments[1], int) and arguments[1] >= 0:
            return dims.product((arguments[0],) * arguments[1])
        case "FloorDiv" | "CleanDiv" | "IntTrueDiv":
            return dims.floordiv(*arguments)
        case "Mod" | "PythonMod":
            return dims.mod(*arguments)
        case "ModularIndexing":
            return dims.mod(dims.floordiv(arguments[0], arguments[1]), arguments[2])
        case "Max" | "Min":
            total = arguments[0]
            for argument in arguments[1:]:
                total = (dims.maximum if name == "Max" else dims.minimum)(total, argument)
            return total
    raise CompileError(f"the size '{expr}' is not supported ({name})")
