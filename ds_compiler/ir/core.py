"""The names of the SSA graph, under one import: see `value`, `operation`, `declaration`, `block`, `module`."""

from ds_compiler.ir.block import Block as Block
from ds_compiler.ir.block import Region as Region
from ds_compiler.ir.declaration import op as op
from ds_compiler.ir.declaration import operation_class as operation_class
from ds_compiler.ir.declaration import operation_names as operation_names
from ds_compiler.ir.module import Function as Function
from ds_compiler.ir.module import Module as Module
from ds_compiler.ir.operation import Field as Field
from ds_compiler.ir.operation import Operation as Operation
from ds_compiler.ir.value import BlockArgument as BlockArgument
from ds_compiler.ir.value import OpResult as OpResult
from ds_compiler.ir.value import Value as Value
