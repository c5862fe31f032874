"""BitCast: elements' bits as another type."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ops import Bitcast


@onnx_op("BitCast", since=26)
def bit_cast(e: Emitter, n: Node) -> Value:
    x, dtype = n.input(0), element_type(int(n.required("to")), "the result")
    return x if x.type.dtype == dtype else e.emit(Bitcast(x, dtype))
