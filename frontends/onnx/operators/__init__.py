"""What ONNX operators mean in primitives, a family a file; importing the package registers every handler.

In:   a `Node` and the `Emitter`.
Out:  the node's results.
Read: `elementwise` for the form of a handler.
"""

from ds_compiler.frontends.onnx.operators import (
    activation,
    attention,
    contraction,
    control,
    conversion,
    convolution,
    creation,
    einsum,
    elementwise,
    indexing,
    joining,
    microsoft,
    ngrams,
    normalization,
    ordering,
    padding,
    pooling,
    quantization,
    recurrent,
    reduction,
    reshaping,
    resize,
    sampling,
    sequence,
    slicing,
    softmax,
)

__all__ = [
    "activation",
    "attention",
    "contraction",
    "control",
    "conversion",
    "convolution",
    "creation",
    "einsum",
    "elementwise",
    "indexing",
    "joining",
    "microsoft",
    "ngrams",
    "normalization",
    "ordering",
    "padding",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "reshaping",
    "resize",
    "sampling",
    "sequence",
    "slicing",
    "softmax",
]
