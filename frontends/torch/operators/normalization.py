"""Softmax. Layer, batch and group normalization are decomposed into moments by PyTorch's own table."""

from __future__ import annotations

from ds_compiler.frontends.torch.emitter import Emitter, axis_of
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Value


@aten("aten._softmax.default")
def softmax(e: Emitter, x: Value, dim: int, half_to_float: bool = False) -> Value:
    wide = e.wide(x)
    if not x.type.rank:
        return e.full(1, e.result)
    axes = (axis_of(dim, x.type.rank),)
    weights = e.unary("exp", e.binary("sub", wide, e.reduce(wide, axes, "max", True)))
    return e.cast(e.binary("div", weights, e.reduce(weights, axes, "sum", True)), e.result.dtype)


@aten("aten._log_softmax.default")
def log_softmax(e: Emitter, x: Value, dim: int, half_to_float: bool = False) -> Value:
    wide = e.wide(x)
    if not x.type.rank:
        return e.full(0, e.result)
    axes = (axis_of(dim, x.type.rank),)
    shifted = e.binary("sub", wide, e.reduce(wide, axes, "max", True))
    total = e.reduce(e.unary("exp", shifted), axes, "sum", True)
    return e.cast(e.binary("sub", shifted, e.unary("log", total)), e.result.dtype)
