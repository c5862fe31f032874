"""The language that all rooms share: types, values, operations, regions, functions, modules.

In:   nothing (this room and `ds_compiler.ops` import no other).
Out:  `Module` ▸ `Function` ▸ `Region` ▸ `Block` ▸ `Operation` ▸ results, in SSA form.
Read: `value`, `operation`, `block`, `module`, then `dims` (symbolic sizes), `types`, `declaration`; the operations are
      in `ds_compiler.ops`.
"""

from ds_compiler.ir.block import Block, Region
from ds_compiler.ir.builder import Builder
from ds_compiler.ir.cost import Cost
from ds_compiler.ir.declaration import op, operation_class, operation_names
from ds_compiler.ir.dim_text import parse_dim
from ds_compiler.ir.dims import Dim, Expr, symbol
from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.errors import CompileError, TypeError_
from ds_compiler.ir.location import Location
from ds_compiler.ir.module import Function, Module
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import BlockArgument, OpResult, Value

__all__ = [
    "Block",
    "BlockArgument",
    "Builder",
    "CompileError",
    "Cost",
    "DType",
    "Dim",
    "Expr",
    "Function",
    "Location",
    "Module",
    "OpResult",
    "Operation",
    "Region",
    "TensorType",
    "TypeError_",
    "Value",
    "op",
    "operation_class",
    "operation_names",
    "parse_dim",
    "symbol",
]
