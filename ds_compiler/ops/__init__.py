"""The operation set: about sixty tensor-level primitives, each declared once.

In:   `ds_compiler.ir`.
Out:  operation classes; importing this package registers them for the text format.
Read: `elementwise` (tables of scalar functions), `shape`, `indexing`, `contraction`, `reduction`, `control`,
      `derivative`.
"""

from ds_compiler.ops.contraction import Conv, ConvTranspose, ConvWeightGradient, DotGeneral, DotInteger
from ds_compiler.ops.control import Call, Composite, Fusion, If, Return, Scan, While, Yield
from ds_compiler.ops.derivative import CustomCall, Jvp, StopGradient, Vjp, callees
from ds_compiler.ops.elementwise import Binary, Bitcast, Cast, Compare, Predicate, Select, Unary
from ds_compiler.ops.indexing import Gather, GatherElements, GatherND, ScatterElements, ScatterND, TopK
from ds_compiler.ops.reduction import ArgReduce, Cumulative, Reduce, ReduceWindow
from ds_compiler.ops.shape import (
    Assume,
    Bind,
    Broadcast,
    Check,
    Concat,
    Constant,
    DynamicSlice,
    Iota,
    Pad,
    Reshape,
    Size,
    Slice,
    Transpose,
)

__all__ = [
    "ArgReduce",
    "Assume",
    "Binary",
    "Bind",
    "Bitcast",
    "Broadcast",
    "Call",
    "Cast",
    "Check",
    "Compare",
    "Composite",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "ConvWeightGradient",
    "Cumulative",
    "CustomCall",
    "DotGeneral",
    "DotInteger",
    "DynamicSlice",
    "Fusion",
    "Gather",
    "GatherElements",
    "GatherND",
    "If",
    "Iota",
    "Jvp",
    "Pad",
    "Predicate",
    "Reduce",
    "ReduceWindow",
    "Reshape",
    "Return",
    "Scan",
    "ScatterElements",
    "ScatterND",
    "Select",
    "Size",
    "Slice",
    "StopGradient",
    "TopK",
    "Transpose",
    "Unary",
    "Vjp",
    "While",
    "Yield",
    "callees",
]
