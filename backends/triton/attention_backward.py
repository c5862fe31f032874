"""Attention's derivative in two kernels, neither of which keeps the weights or needs another order of additions.

One has a block of keys and walks over the queries (dK, dV), the other a block of queries and walks over the keys (dQ).
For each pair of blocks both compute the weights P and the scores' cotangents dS again from two products, S = Q·Kᵀ and
dP = dO·Vᵀ: seven products instead of five, no atomic instruction, the same bits at every run.
Source: Dao, "FlashAttention-2" (arXiv:2307.08691), algorithm 2, with the outer loop of either kind.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.loops.attention_backward import AttentionBackwardParts
from ds_compiler.backends.loops.ir import Axis, Index, Node, Store
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.body import Block, Body, Buffer
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.tile import Grid, along, power_of_two, program_index, whole
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import ceildiv, product
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Fusion

_OWN, _OTHER = {2: 128, 4: 64}, 32  # by the element's size: sums of a program's own block fit its registers
_WIDE = 256  # depth and width together from which own blocks are halved
_LEAST = 16  # what tl.dot takes
_BOTH = frozenset([0, 1])


def emit_key_gradients(writer: Writer, buffers: Sequence[Buffer], fusion: Fusion, *, wide: bool) -> Grid:
    """Write the body of the kernel for dK and dV of an ``attention_backward`` fusion.

    Raises:
        CompileError: the region is something else, or of an element type that tensor cores don't take.
    """
    return _Backward(writer, buffers, fusion, by_key=True, wide=wide).run()


def emit_query_gradient(writer: Writer, buffers: Sequence[Buffer], fusion: Fusion, *, wide: bool) -> Grid:
    """As `emit_key_gradients`, for dQ."""
    return _Backward(writer, buffers, fusion, by_key=False, wide=wide).run()


class _Backward:
    """A kernel for which the axis of keys (`by_key`) or of queries is a program's own, and the other one is walked."""

    def __init__(self, writer: Writer, buffers: Sequence[Buffer], fusion: Fusion, *, by_key: bool, wide: bool) -> None:
        self.writer, self.fusion, self.by_key, self.wide = writer, fusion, by_key, wide
        self.parts = parts = AttentionBackwardParts.of(fusion)
        self.dtype = parts.s.dtype
        depth, width = parts.depth.extent, parts.width.extent
        if not isinstance(depth, int) or not isinstance(width, int) or self.dtype.itemsize not in _OWN:
            raise CompileError(f"attention of {self.dtype} heads of size {depth}, {width} has no GPU kernel")
        self.own, self.other = (parts.key, parts.query) if by_key else (parts.query, parts.key)
        self.depth, self.width = (max(_LEAST, power_of_two(n)) for n in (depth, width))
        most = _OWN[self.dtype.itemsize] // (2 if self.depth + self.width > _WIDE else 1)
        self.block = _bounded(self.own, most)
        self.step = min(_bounded(self.other, _OTHER), self.block)
        q, k, v = parts.operands
        # Rows of the depth's and of the width's operand, of the own axis and of the other one.
        own, other = (k, v), (q, parts.grad)
        self.own_nodes, self.other_nodes = (own, other) if by_key else (other, own)
        shapes = [(n, size) for n in (self.block, self.step) for size in (self.depth, self.width)]
        self.rows = [Body(writer, buffers, s, wide=wide) for s in shapes]
        self.elements = Body(writer, buffers, (self.block, self.step), wide=wide)
        self.results = [Body(writer, buffers, s, wide=wide) for s in shapes[:2]]

    def run(self) -> Grid:
        writer, parts = self.writer, self.parts
        batch = [a for a in parts.batch if a.extent != 1]
        counts = [product(tuple(a.extent for a in batch)), ceildiv(self.own.extent, self.block)]
        entry, block = program_index(writer, counts, wide=self.wide)
        self.elements.place(batch, Block(entry))
        for body in (*self.rows, *self.results):
            body.axes.update(self.elements.axes)
        start = "" if block == "0" else f"{block} * {self.block}"
        for body in (*self.rows[:2], self.elements, *self.results):
            along(body, 0, self.own, start, "own")
        for body in self.rows:
            body.narrow = True
        for bodies in (self.rows[::2], self.results[:1]):
            for body in bodies:
                along(body, 1, parts.depth, "", "d")
        for bodies in (self.rows[1::2], self.results[1:]):
            for body in bodies:
                along(body, 1, parts.width, "", "d")
        own = [whole(body, node) for body, node in zip(self.rows, self.own_nodes)]
        self.elements.hoist([parts.weights, parts.cotangents], frozenset([self.other]))
        sizes = [self.depth, self.width][: 2 if self.by_key else 1]
        sums = [writer.assign("acc", f"tl.zeros([{self.block}, {size}], tl.float32)") for size in sizes]
        begin, end = "0", size_text(self.other.extent)
        if parts.causal and self.by_key:  # queries in front of a key do not see it
            begin = start or "0"
        elif parts.causal:
            end = f"tl.minimum({end}, {block} * {self.block} + {self.block})"
        position = writer.fresh("start")
        with writer.block(f"for {position} in range({begin}, {end}, {self.step})"):
            self._step(own, sums, position)
        self._store(sums)
        return Grid(product(tuple(counts)), 8 if self.block * max(self.depth, self.width) >= 128 * 64 else 4, 2)

    def _step(self, own: list[str], sums: list[str], position: str) -> None:
        """What one block of the other axis adds."""
        writer, elements = self.writer, self.elements
        precision = writer.target.precision(self.dtype)
        zeros = f"tl.zeros([{self.block}, {self.step}], tl.float32)"
        deep, wide = self.rows[2:]
        with deep.scope(), wide.scope(), elements.scope():
            others = []
            for body, node in zip((deep, wide), self.other_nodes, strict=True):
                along(body, 0, self.other, position, "other")
                others.append(whole(body, node))
            along(elements, 1, self.other, position, "other")
            for node, a, b in zip((self.parts.s, self.parts.dp), own, others, strict=True):
                text = f'tl.dot({a}, tl.trans({b}), {zeros}, input_precision="{precision}")'
                elements.given[node] = Block(writer.assign(node.payload, text), _BOTH)
            wanted = [(self.parts.cotangents, others[0]), (self.parts.weights, others[1])]
            for total, (node, other) in zip(sums, wanted):
                value = self._existing(node)
                writer.line(f'{total} = tl.dot({value}, {other}, {total}, input_precision="{precision}")')

    def _existing(self, node: Node) -> str:
        """A block of factors, with zeros where there is no query or key, in the type that is multiplied."""
        body = self.elements
        text = whole(body, node)
        mask = body.mask(_BOTH)
        if mask is not None:
            text = f"tl.where({mask.text}, {text}, 0.0)"
        return self.writer.assign("factor", f"{text}.to({scalars.triton_type(self.dtype)})")

    def _store(self, sums: list[str]) -> None:
        numbers = (1, 2) if self.by_key else (0,)
        first = len(self.fusion.body.block.arguments)
        for body, total, number in zip(self.results, sums, numbers):
            body.given[self.parts.s] = Block(total, _BOTH)
            index: Index = self.parts.results[number]
            body.store(Store(first + number, index, self.parts.s, inner=False))


def _bounded(axis: Axis, most: int) -> int:
    """A block of at most `most`, less for an axis that is known to be shorter."""
    return max(_LEAST, min(most, power_of_two(axis.extent))) if isinstance(axis.extent, int) else most
