"""What ONNX operators mean in primitives, a family a file; importing the package registers every handler.

In:   a `Node` and the `Emitter`.
Out:  the node's results.
Read: `elementwise` for the form of a handler.
"""

from ds_compiler.frontends.onnx.operators import (
    contraction,
    conversion,
    elementwise,
)

__all__ = [
    "contraction",
    "conversion",
    "elementwise",
]
