"""Operators of the domain ``com.microsoft``, which optimised and quantised models contain, in primitives.

In:   a `Node` and the `Emitter`.
Out:  the node's results.
Read: `products` for the form of a handler; onnxruntime's ``ContribOperators.md`` says what the operators mean.
"""

from ds_compiler.frontends.onnx.operators.microsoft import (
    activation,
    attention,
    cached_attention,
    normalization,
    products,
    quantized,
    quantized_network,
    recurrent,
    rotary,
    weights,
)

__all__ = [
    "activation",
    "attention",
    "cached_attention",
    "normalization",
    "products",
    "quantized",
    "quantized_network",
    "recurrent",
    "rotary",
    "weights",
]
