"""TensorScatter: a cache with new entries written at positions of each batch entry."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import TensorType, Value
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Iota, ScatterElements


@onnx_op("TensorScatter", since=24)
def tensor_scatter(e: Emitter, n: Node) -> Value:
    """`update` written along `axis` from ``write_indices[batch]`` on; ``circular`` goes on at the front."""
    cache, update, first = n.input(0), n.input(1), n.optional(2)
    rank = cache.type.rank
    axis = n.axis(n.int("axis", -2), rank)
    circular = n.choice("mode", "linear", ("linear", "circular")) == "circular"
    if update.type.rank != rank or axis == 0:
        n.fail(f"the cache is {cache.type}, the update {update.type}, the axis {axis}")
    if first is None:
        first = e.full(0, TensorType((cache.type.shape[0],), i64))
    shape, room = update.type.shape, cache.type.shape[axis]
    place = e.binary("add", e.emit(Iota(shape, axis, i64)), e.broadcast(e.cast(first, i64), shape, (0,)))
    if circular:
        place = e.binary("mod", place, e.size(room))
    else:
        check_indices(e, n, first, room - shape[axis] + 1, axis, what="write index", negative=False)
    return e.emit(ScatterElements(cache, place, update, axis, "set"))
