"""Rotary position embedding with tables of cosines and sines."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.attention import rotated
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Gather, Iota


def angles_at(e: Emitter, n: Node, table: Value, positions: Value) -> Value:
    """Rows of a table of angles [positions, half], as f32 at least."""
    check_indices(e, n, positions, table.type.shape[0], 0, what="position", negative=False)
    return e.wide(e.emit(Gather(table, positions, 0)))


@onnx_op("RotaryEmbedding", domain=DOMAIN)
def rotary_embedding(e: Emitter, n: Node) -> Value:
    """Positions are one for each token, or the first token's alone."""
    x, positions, cosine, sine = n.input(0), n.input(1), n.input(2), n.input(3)
    if n.int("is_packed_batching", 0):
        n.fail("attribute is_packed_batching=1 is not supported")
    if x.type.rank not in (3, 4):
        n.fail(f"input is {x.type}, expected rank 3 or 4")
    flat = x.type.rank == 3
    wide = e.wide(x)
    if flat:
        batch, length, width = x.type.shape
        half = cosine.type.shape[1]
        heads = n.int("num_heads", 0) or floordiv(width, half * 2)
        wide = e.reshape(wide, (batch, length, heads, floordiv(width, heads)))
    batch, length = wide.type.shape[0], wide.type.shape[1 if flat else 2]
    if positions.type.rank < 2:
        steps = e.binary("add", e.emit(Iota((length,), 0, i64)), e.cast(e.reshape(positions, ()), i64))
        positions = e.broadcast(steps, (batch, length), (1,))
    turned = rotated(
        e,
        n,
        wide,
        angles_at(e, n, cosine, positions),
        angles_at(e, n, sine, positions),
        1 if flat else 2,
        interleaved=bool(n.int("interleaved", 0)),
        size=n.int("rotary_embedding_dim", 0),
    )
    scale = n.float("scale", 1.0)
    if scale != 1:
        turned = e.binary("mul", turned, scale)
    return e.cast(e.reshape(turned, x.type.shape), x.type.dtype)
