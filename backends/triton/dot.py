"""Sums of products on tensor cores: matrix products, convolutions (implicit GEMM), transposed ones.

A nest whose one reduction sums ``a * b`` is a matrix product whatever its indices look like: outer axes that only `a`
reads are rows, those that only `b` reads are columns, those of both are a batch, and inner axes are the depth. Operands
are ordinary loop-level code on [rows, depth] and [depth, columns] blocks, so that views, padding, casts and gathers in
front of a product need nothing of their own; what follows it is ordinary code on the finished [rows, columns] block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds_compiler.backends.loops.ir import Axis, Nest, Node, Reduction, Store, walk
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.body import Block, Body, Buffer
from ds_compiler.backends.triton.dot_schedule import DotTile, choose
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.tile import Grid, cover, program_index
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import Dim, ceildiv, product
from ds_compiler.ir.dtypes import DType

_LEAST = 16  # of depth: what tl.dot takes
_LEAST_SIDE = 8  # rows and columns below which most of a tensor core's tile would be padding
_GROUP = 8  # rows of tiles that run side by side, so that they share columns in the second-level cache
_TYPES = ("f32", "f16", "bf16", "f8e4m3fn", "f8e5m2")


@dataclass(frozen=True)
class Product:
    """A nest's parts: operands, the element type they are multiplied in, axes by role."""

    reduction: Reduction
    a: Node
    b: Node
    dtype: DType
    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    stores: tuple[Store, ...]

    @property
    def sizes(self) -> tuple[Dim, Dim, Dim, Dim]:
        """Extents of batch, rows, columns and depth."""
        batch, rows, columns, depth = (
            product(tuple(a.extent for a in axes)) for axes in (self.batch, self.rows, self.columns, self.depth)
        )
        return batch, rows, columns, depth


def find_product(nest: Nest) -> Product | None:
    """The product that a nest is; None for other nests, and where a side is too small for tensor cores."""
    reductions = [s for s in nest.steps if isinstance(s, Reduction)]
    stores = tuple(s for s in nest.steps if isinstance(s, Store) and not s.inner and s.mode == "set")
    if len(reductions) != 1 or len(stores) + 1 != len(nest.steps) or nest.serial:
        return None
    (reduction,) = reductions
    value = reduction.value
    if reduction.how != "sum" or reduction.argument or reduction.keep is not None or value.op != "mul":
        return None
    a, b = value.operands
    dtype = a.dtype
    narrow = [o.operands[0].dtype for o in (a, b) if o.op == "cast"]
    if dtype.name == "f32" and len(narrow) == 2 and narrow[0] == narrow[1] and scalars.widens(narrow[0]):
        dtype, a, b = narrow[0], a.operands[0], b.operands[0]  # products of narrow floats are exact in f32
    if dtype.name not in _TYPES:
        return None
    if any(n.op == "load" and n.payload == s.buffer for s in stores for n in walk([a, b])):
        return None
    rows = tuple(x for x in nest.outer if x in a.axes and x not in b.axes)
    columns = tuple(x for x in nest.outer if x in b.axes and x not in a.axes)
    batch = tuple(x for x in nest.outer if x not in rows and x not in columns)
    for axes, least in ((rows, _LEAST_SIDE), (columns, _LEAST_SIDE), (nest.inner, _LEAST)):
        extent = product(tuple(x.extent for x in axes))
        if not axes or (isinstance(extent, int) and extent < least):
            return None
    return Product(reduction, a, b, dtype, batch, rows, columns, _depth_order(nest.inner, a), stores)


def _depth_order(axes: Sequence[Axis], a: Node) -> tuple[Axis, ...]:
    """The depth's axes with that one last along which `a` lies in memory: the order of a sum is free."""
    loads = [n.index for n in walk([a]) if n.op == "load" and n.index is not None]
    return tuple(sorted(axes, key=lambda axis: any(i.coefficient(axis) == 1 for i in loads)))


def emit_dot(writer: Writer, buffers: Sequence[Buffer], found: Product, *, wide: bool) -> Grid:
    """Write the body of the kernel that computes a product."""
    return _Dot(writer, buffers, found, wide=wide).run()


class _Dot:
    def __init__(self, writer: Writer, buffers: Sequence[Buffer], found: Product, *, wide: bool) -> None:
        self.writer, self.buffers, self.found, self.wide = writer, buffers, found, wide
        self.batch, self.rows, self.columns, self.depth = found.sizes
        self.tile: DotTile = choose(*found.sizes, found.dtype)

    def run(self) -> Grid:
        writer, tile, found = self.writer, self.tile, self.found
        counts = [self.batch, ceildiv(self.rows, tile.rows), ceildiv(self.columns, tile.columns)]
        batch, row_block, column_block = self._blocks(counts)
        left = Body(writer, self.buffers, (tile.rows, tile.depth), wide=self.wide)
        right = Body(writer, self.buffers, (tile.depth, tile.columns), wide=self.wide)
        result = Body(writer, self.buffers, (tile.rows, tile.columns), wide=self.wide)
        result.place(found.batch, Block(batch))
        self._side(result, 0, row_block, found.rows, self.rows, tile.rows, "row")
        self._side(result, 1, column_block, found.columns, self.columns, tile.columns, "column")
        # An operand has the result's rows or columns at the same dimension of its own block.
        for body, side in ((left, 0), (right, 1)):
            body.axes.update(result.axes)
            body.masks.update({d: m for d, m in result.masks.items() if d == side})
            body.narrow = _is_plain(found.a if body is left else found.b)
        total = writer.assign("total", f"tl.zeros([{tile.rows}, {tile.columns}], tl.float32)")
        self._loop(left, right, total)
        result.reduced[found.reduction.number] = Block(total, frozenset([0, 1]))
        for store in found.stores:
            result.store(store)
        return Grid(product(tuple(counts)), tile.num_warps, tile.num_stages)

    def _blocks(self, counts: Sequence[Dim]) -> list[str]:
        """Numbers of the program's batch, row block and column block."""
        rows, columns = counts[1:]
        if rows == 1 or columns == 1:
            return program_index(self.writer, counts, wide=self.wide)
        batch, tile = program_index(self.writer, [counts[0], rows * columns], wide=self.wide)
        row, column = self.writer.fresh("row_block"), self.writer.fresh("column_block")
        down, across = size_text(rows), size_text(columns)
        order = f"tl.swizzle2d({tile} // {across}, {tile} % {across}, {down}, {across}, {_GROUP})"
        self.writer.line(f"{row}, {column} = {order}")
        return [batch, row, column]

    def _side(self, body: Body, dim: int, block: str, axes: Sequence[Axis], extent: Dim, size: int, name: str) -> None:
        flat = body.positions(dim, "" if block == "0" else f"{block} * {size}", name)
        cover(body, dim, flat, extent, size)
        body.place(axes, flat)

    # -- depth ---------------------------------------------------------------------------------
    def _loop(self, left: Body, right: Body, total: str) -> None:
        """Steps over the depth: blocks of its last axis for each point of the others, or blocks of all of it."""
        writer, tile, depth = self.writer, self.tile, self.found.depth
        last = depth[-1].extent
        apart = len(depth) > 1 and (not isinstance(last, int) or last >= tile.depth)
        inner, extent = (depth[-1:], last) if apart else (depth, self.depth)
        blocks = ceildiv(extent, tile.depth)
        outer = product(tuple(a.extent for a in depth[:-1])) if apart else 1
        if blocks * outer == 1:
            self._step(left, right, total, inner, extent, "")
            return
        for body, node in ((left, self.found.a), (right, self.found.b)):
            body.hoist([node], frozenset(depth))
        if not apart:
            start = writer.fresh("start")
            with writer.block(f"for {start} in range(0, {size_text(extent)}, {tile.depth})"):
                self._step(left, right, total, inner, extent, start)
            return
        step = writer.fresh("step")
        with writer.block(f"for {step} in range(0, {size_text(blocks * outer)})"):
            point = Block(writer.assign("point", f"{step} // {size_text(blocks)}"))
            start = writer.assign("start", f"{step} % {size_text(blocks)} * {tile.depth}")
            left.place(depth[:-1], point)
            right.axes.update({a: left.axes[a] for a in depth[:-1]})
            self._step(left, right, total, inner, extent, start)

    def _step(self, left: Body, right: Body, total: str, axes: Sequence[Axis], extent: Dim, start: str) -> None:
        operands: list[str] = []
        for body, side, node in ((left, 1, self.found.a), (right, 0, self.found.b)):
            with body.scope():
                flat = body.positions(side, start, "k")
                cover(body, side, flat, extent, body.shape[side])
                body.place(axes, flat)
                operands.append(self._operand(body, side, node))
        precision = self.writer.target.precision(self.found.dtype)
        self.writer.line(f'{total} = tl.dot({operands[0]}, {operands[1]}, {total}, input_precision="{precision}")')

    def _operand(self, body: Body, side: int, node: Node) -> str:
        """An operand's block, with zeros where there is no depth."""
        value = body.materialised(body.emit(node), node.dtype)
        everything = frozenset([0, 1])
        text = value.text
        if side in body.masks and not (body.narrow and value.dims == everything):
            text = f"tl.where({body.masks[side]}, {text}, 0.0)"
            value = Block(text, value.dims | {side})
        if value.dims != everything:
            text = f"tl.broadcast_to({text}, [{body.shape[0]}, {body.shape[1]}])"
        if not body.narrow:
            text = f"({text}).to({scalars.triton_type(self.found.dtype)})"
        return text if text == value.text and text.isidentifier() else self.writer.assign("operand", text)


def _is_plain(node: Node) -> bool:
    """Whether a node only moves elements: what is masked out of its loads is zero, and it has its type in memory."""
    if node.op == "guard":
        inside, outside = node.operands
        return _is_plain(inside) and outside.op == "const" and outside.payload == 0
    return node.op == "load"
