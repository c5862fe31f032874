"""From a fused region of tensor operations to the loop level: each value becomes a function of an index.

`element(value, index)` gives the scalar node of a value at an index by asking the operation that defines it: a
transpose permutes the index, a broadcast drops part of it, an elementwise operation asks its operands at the same
index, a reduction becomes a step of the nest. Nothing is materialised between operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds_compiler.backends.loops.ir import Axis, Condition, Graph, Index, Node, Reduction, Step, Store, of_axis
from ds_compiler.backends.loops.points import Point, broadcast_point, linear, reshape_point
from ds_compiler.backends.loops.reductions import Reducing, reduced_element
from ds_compiler.ir import OpResult, Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import DType, i64
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    ConvWeightGradient,
    DotGeneral,
    DotInteger,
    DynamicSlice,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Predicate,
    Reduce,
    ReduceWindow,
    Reshape,
    Select,
    Size,
    Slice,
    Transpose,
    Unary,
)


class Lowering:
    """Lowers values of one region, for one nest at a time.

    Args:
        graph: where nodes are made.
        buffers: buffer number of each value that is loaded rather than computed.
        given: nodes that stand for values whatever the index (a matmul's accumulator in its epilogue).
    """

    def __init__(self, graph: Graph, buffers: dict[Value, int], given: dict[Value, Node] | None = None) -> None:
        self.graph, self.buffers, self.given = graph, buffers, dict(given or {})
        self.begin([], [])

    def begin(self, outer: list[Axis], inner: list[Axis]) -> None:
        """Start a nest over these axes; an empty `inner` is filled by the first reduction."""
        self.outer, self.inner = list(outer), list(inner)
        self.steps: list[Step] = []
        self._memo: dict[tuple[Value, Point], Node] = {}
        self.visited: dict[Value, Point] = {}
        self._reductions = 0
        self._counter = getattr(self, "_counter", 0)

    def axis(self, extent: Dim) -> Axis:
        self._counter += 1
        return Axis(f"i{self._counter}", extent)

    def point(self, shape: Sequence[Dim]) -> Point:
        """Fresh axes for a shape; unit dimensions need none."""
        return tuple(Index() if d == 1 else of_axis(self.axis(d)) for d in shape)

    # -- elements ------------------------------------------------------------------------------
    def element(self, value: Value, point: Point) -> Node:
        """The node of `value` at `point` (one index a dimension)."""
        key = (value, point)
        node = self._memo.get(key)
        if node is None:
            self.visited.setdefault(value, point)
            node = self._memo[key] = self._element(value, point)
        return node

    def _element(self, value: Value, point: Point) -> Node:
        if value in self.given:
            return self.given[value]
        if value in self.buffers:
            return self.graph.load(self.buffers[value], linear(point, value.type), value.type.dtype)
        if not isinstance(value, OpResult):
            raise CompileError("a fused region reads a value that is not its own")
        op, dtype, g = value.op, value.type.dtype, self.graph
        match op:
            case Constant():
                if op.value.size != 1:
                    raise CompileError("a fused region holds a constant tensor", location=op.location)
                return g.constant(op.value.reshape(-1)[0].item(), dtype)
            case Size():
                return g.size(op.dim)
            case Unary() | Binary() | Predicate() | Compare():
                return g.node(op.mnemonic, tuple(self.element(o, point) for o in op.operands), dtype)
            case Select():
                return g.node("select", tuple(self.element(o, point) for o in op.operands), dtype)
            case Cast():
                return self.cast(self.element(op.operand, point), dtype)
            case Bitcast():
                return g.node("bitcast", (self.element(op.operand, point),), dtype)
            case Iota():
                return self.cast(g.index(point[op.axis]), dtype)
            case Transpose():
                source: list[Index] = [Index()] * len(point)
                for result_axis, operand_axis in enumerate(op.permutation):
                    source[operand_axis] = point[result_axis]
                return self.element(op.operand, tuple(source))
            case Broadcast():
                return self.element(op.operand, broadcast_point(self.graph, op, point))
            case Reshape():
                return self.element(op.operand, reshape_point(self.graph, op.operand.type, op.result.type, point))
            case Slice():
                moved = (i.scaled(step) + start for i, step, start in zip(point, op.steps, op.starts, strict=True))
                return self.element(op.operand, tuple(moved))
            case DynamicSlice():
                return self._dynamic_slice(op, point)
            case Pad():
                return self._pad(op, point)
            case Concat():
                return self._concat(op, point)
            case Gather():
                n = op.indices.type.rank
                row = self.position(op.indices, point[op.axis : op.axis + n], op.operand.type.shape[op.axis])
                return self.element(op.operand, (*point[: op.axis], row, *point[op.axis + n :]))
            case GatherElements():
                row = self.position(op.indices, point, op.operand.type.shape[op.axis])
                return self.element(op.operand, (*point[: op.axis], row, *point[op.axis + 1 :]))
            case GatherND():
                return self._gather_nd(op, point)
            case Reduce() | ArgReduce() | ReduceWindow() | DotGeneral() | DotInteger():
                return self._reduced(op, point)
            case Conv() | ConvTranspose() | ConvWeightGradient():
                return self._reduced(op, point)
        raise CompileError(f"{op.mnemonic} can't be part of a loop kernel", location=op.location)

    def cast(self, node: Node, dtype: DType) -> Node:
        """`node` as `dtype`."""
        return node if node.dtype == dtype else self.graph.node("cast", (node,), dtype)

    def _pad(self, op: Pad, point: Point) -> Node:
        source: list[Index] = []
        conditions: list[Condition] = []
        for index, low, high, dim in zip(point, op.low, op.high, op.operand.type.shape, strict=True):
            moved = index + (-low if isinstance(low, int) else low * -1)
            source.append(moved)
            if low != 0 or high != 0:
                conditions.append((moved, dim))
        outside = self.element(op.value, ())
        return self.graph.guard(tuple(conditions), self.element(op.operand, tuple(source)), outside)

    def _concat(self, op: Concat, point: Point) -> Node:
        start: Dim = 0
        parts: list[tuple[Index, Dim, Value]] = []
        for value in op.inputs:
            extent = value.type.shape[op.axis]
            parts.append((point[op.axis] + start * -1, extent, value))
            start = start + extent
        moved, _, last = parts[-1]
        node = self.element(last, (*point[: op.axis], moved, *point[op.axis + 1 :]))
        # Outermost condition first: the part is the first one whose index is below its extent.
        for moved, extent, value in reversed(parts[:-1]):
            inside = self.element(value, (*point[: op.axis], moved, *point[op.axis + 1 :]))
            node = self.graph.guard(((moved, extent),), inside, node)
        return node

    def position(self, indices: Value, point: Point, extent: Dim) -> Index:
        """An index read from memory: negative counts from the end, clamped into range."""
        g = self.graph
        node = self.cast(self.element(indices, tuple(point)), i64)
        size = g.size(extent)
        if node.op == "const" and isinstance(extent, int):
            wrapped = node.payload + extent if node.payload < 0 else node.payload
            return Index((), min(max(wrapped, 0), max(extent - 1, 0)))
        if node.op != "index":
            negative = g.compare("lt", node, g.size(0))
            node = g.node("select", (negative, g.node("add", (node, size), i64), node), i64)
            top = g.node("sub", (size, g.size(1)), i64)
            node = g.node("max", (g.node("min", (node, top), i64), g.size(0)), i64)
        return Index(((node, 1),))

    def _dynamic_slice(self, op: DynamicSlice, point: Point) -> Node:
        g = self.graph
        source: list[Index] = []
        for start, size, dim, index in zip(op.starts, op.sizes, op.operand.type.shape, point, strict=True):
            if size == dim:
                source.append(index)
                continue
            first = g.node("max", (self.element(start, ()), g.size(0)), i64)
            first = g.node("min", (first, g.size(dim - size)), i64)
            source.append(index + Index(((first, 1),)))
        return self.element(op.operand, tuple(source))

    def _gather_nd(self, op: GatherND, point: Point) -> Node:
        index_type, source = op.indices.type, op.operand.type
        lead = point[: index_type.rank - 1]
        depth = index_type.shape[-1]
        assert isinstance(depth, int)
        rows = [self.position(op.indices, (*lead, Index((), d)), source.shape[op.batch_axes + d]) for d in range(depth)]
        return self.element(op.operand, (*point[: op.batch_axes], *rows, *point[index_type.rank - 1 :]))

    # -- reductions ----------------------------------------------------------------------------
    def _reduced(self, op: Reducing, point: Point) -> Node:
        free = frozenset[Axis]().union(*(i.axes for i in point))
        outside = free - set(self.outer) - set(self.inner)
        if outside or free & set(self.inner):
            raise CompileError(
                "a reduction inside a kernel must run along the kernel's inner axes", location=op.location
            )
        return reduced_element(self, op, point)

    def inner_axes(self, extents: Sequence[Dim]) -> list[Index]:
        """The inner axes for a reduction over `extents`: all reductions of a nest share them."""
        wanted = [d for d in extents if d != 1]
        if not self.inner and wanted:
            self.inner = [self.axis(d) for d in wanted]
        if [a.extent for a in self.inner] != wanted and wanted:
            raise CompileError(f"reductions over {wanted} and {[a.extent for a in self.inner]} in one kernel")
        axes = iter(self.inner)
        return [Index() if d == 1 else of_axis(next(axes)) for d in extents]

    def step(self, how: str, value: Node, dtype: DType, **argument: Any) -> Node:
        """Add a reduction of `value` over the inner axes (an equal one is shared); its result."""
        for step in self.steps:
            if isinstance(step, Reduction) and (step.how, step.value) == (how, value) and not argument:
                return self.graph.node("reduced", (), dtype, payload=step.number, extra_axes=self.outer)
        number = self._reductions
        self._reductions += 1
        self.steps.append(Reduction(number, how, value, **argument))
        return self.graph.node("reduced", (), dtype, payload=number, extra_axes=self.outer)

    # -- nests ---------------------------------------------------------------------------------
    def store(self, value: Value, point: Point, buffer: int, offset: Index, *, inner: bool) -> None:
        """Add the step that writes `value`; `offset` shifts the linear position (a part of a concatenation)."""
        node = self.element(value, point)
        self.steps.append(Store(buffer, linear(point, value.type) + offset, node, inner))
