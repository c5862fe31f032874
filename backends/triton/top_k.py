"""The largest or smallest elements of rows, by counting: an element's place is the number of those that come before it.

Every pair of a row is compared, all of them at once, with no sorting network and for any length of the row.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.loops.ir import Axis, Graph, Index, Node, Store, of_axis
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.points import linear
from ds_compiler.backends.triton.body import Block, Body, Buffer
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.tile import Grid, TileDim, cover, enter, warps_for
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Fusion, TopK

_OWN, _OTHERS = 128, 64  # elements that a program places, and those that it compares them with at a time


def emit_top_k(writer: Writer, buffers: Sequence[Buffer], fusion: Fusion, *, wide: bool) -> Grid:
    """Write the body of the kernel of a ``top_k`` fusion.

    Raises:
        CompileError: the fusion has no such operation.
    """
    block = fusion.body.block
    op = next((o for o in block if isinstance(o, TopK)), None)
    if op is None:
        raise CompileError("a top_k fusion without its root", location=fusion.location)
    graph = Graph()
    lowering = Lowering(graph, {a: n for n, a in enumerate(block.arguments)})
    shape = op.operand.type.shape
    rows = [lowering.axis(d) for d in shape[:-1]]
    own, other, place = Axis("own", shape[-1]), Axis("other", shape[-1]), Axis("place", op.k)
    lowering.begin([*rows, own, other], [])
    lead = [Index() if a.extent == 1 else of_axis(a) for a in rows]
    mine = lowering.element(op.operand, (*lead, of_axis(own)))
    theirs = lowering.element(op.operand, (*lead, of_axis(other)))
    dims = [TileDim("row", tuple(rows), 1)] if rows else []
    body, programs = enter(writer, buffers, [*dims, TileDim("own", (own,), _OWN)], [_OTHERS], wide=wide)
    value, position = body.emit(mine), body.axes[own]
    before = _count(body, writer, op, value, position, other, theirs)
    if len(block.terminator.operands) != 2:
        raise CompileError("a top_k fusion has two results", location=fusion.location)
    body.axes[place] = Block(before, frozenset([0]))
    kept = f"({before} < {size_text(op.k)})"
    body.masks[0] = writer.assign("kept", f"{body.masks[0]} & {kept}" if 0 in body.masks else kept)
    number = len(block.arguments)
    for offset, (result, node) in enumerate(zip(op.results, (mine, graph.index(of_axis(own))), strict=True)):
        at = linear((*lead, of_axis(place)), result.type)
        body.store(Store(number + offset, at, node, inner=False))
    return Grid(programs, warps_for(_OWN * _OTHERS))


def _count(body: Body, writer: Writer, op: TopK, value: Block, position: Block, other: Axis, theirs: Node) -> str:
    """How many elements of the row come before each own one."""
    before = writer.assign("before", f"tl.zeros([{_OWN}, 1], tl.int32)")
    start = writer.fresh("start")
    with writer.block(f"for {start} in range(0, {size_text(other.extent)}, {_OTHERS})"), body.scope():
        flat = body.positions(1, start, "other")
        cover(body, 1, flat, other.extent, _OTHERS)
        body.axes[other] = flat
        candidate = body.emit(theirs)
        order = f"library.comes_before({candidate.text}, {flat.text}, {value.text}, {position.text}, {op.largest})"
        if 1 in body.masks:
            order = f"{order} & {body.masks[1]}"
        comes = writer.assign("comes", order)
        writer.line(f"{before} += tl.sum({comes}.to(tl.int32), axis=1, keep_dims=True)")
        body.masks.pop(1, None)
    return before
