"""From a fused region of tensor operations to the loop level: each value becomes a function of an index.

`element(value, index)` gives the scalar node of a value at an index by asking the operation that defines it: a
transpose permutes the index, a broadcast drops part of it, an elementwise operation asks its operands at the same
index, a reduction becomes a step of the nest. Nothing is materialised between operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ds_compiler.backends.loops.ir import (
    Axis,
    Condition,
    Graph,
    Index,
    Kernel,
    Nest,
    Node,
    Reduction,
    Running,
    Step,
    Store,
    of_axis,
)
from ds_compiler.ir import Block, OpResult, Value
from ds_compiler.ir.dims import Dim, Expr, product
from ds_compiler.ir.dtypes import DType, i64
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.types import TensorType
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Broadcast,
    Cast,
    Compare,
    Concat,
    Constant,
    Cumulative,
    DotGeneral,
    DynamicSlice,
    Fusion,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Predicate,
    Reduce,
    ReduceWindow,
    Reshape,
    ScatterElements,
    ScatterND,
    Select,
    Size,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.ops.reduction import identity

Point = tuple[Index, ...]


def strides_of(type_: TensorType) -> tuple[Dim, ...]:
    """Row-major strides in elements."""
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(type_.shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


def linear(point: Point, type_: TensorType) -> Index:
    """Position of `point` in a row-major buffer of `type_`."""
    total = Index()
    for index, stride, dim in zip(point, strides_of(type_), type_.shape, strict=True):
        if dim != 1:  # the only index of a unit dimension is 0
            total = total + index.scaled(stride)
    return total


class Lowering:
    """Lowers values of one region, for one nest at a time.

    Args:
        graph: where nodes are made.
        buffers: buffer number of each value that is loaded rather than computed.
        given: nodes that stand for values whatever the index (a matmul's accumulator in its epilogue).
    """

    def __init__(self, graph: Graph, buffers: dict[Value, int], given: dict[Value, Node] | None = None) -> None:
        self.graph, self.buffers, self.given = graph, buffers, dict(given or {})
        self._begin([], [])

    def _begin(self, outer: list[Axis], inner: list[Axis]) -> None:
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
            case Iota():
                return self.cast(g.index(point[op.axis]), dtype)
            case Transpose():
                source: list[Index] = [Index()] * len(point)
                for result_axis, operand_axis in enumerate(op.permutation):
                    source[operand_axis] = point[result_axis]
                return self.element(op.operand, tuple(source))
            case Broadcast():
                return self.element(op.operand, self._broadcast_point(op, point))
            case Reshape():
                return self.element(op.operand, self._reshape_point(op.operand.type, op.result.type, point))
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
                row = self._position(op.indices, point[op.axis : op.axis + n], op.operand.type.shape[op.axis])
                return self.element(op.operand, (*point[: op.axis], row, *point[op.axis + n :]))
            case GatherElements():
                row = self._position(op.indices, point, op.operand.type.shape[op.axis])
                return self.element(op.operand, (*point[: op.axis], row, *point[op.axis + 1 :]))
            case GatherND():
                return self._gather_nd(op, point)
            case Reduce() | ArgReduce() | ReduceWindow() | DotGeneral():
                return self._reduce(op, point)
        raise CompileError(f"{op.mnemonic} can't be part of a loop kernel", location=op.location)

    def cast(self, node: Node, dtype: DType) -> Node:
        return node if node.dtype == dtype else self.graph.node("cast", (node,), dtype)

    def _broadcast_point(self, op: Broadcast, point: Point) -> Point:
        source: list[Index] = []
        for dim, axis in zip(op.operand.type.shape, op.axes, strict=True):
            wanted = op.shape[axis]
            if dim == 1:
                source.append(Index())
            elif dim == wanted or not isinstance(dim, Expr):
                source.append(point[axis])
            else:  # repeats if the size turns out to be 1: index * (size != 1)
                one = self.graph.size(1)
                varies = self.cast(self.graph.compare("ne", self.graph.size(dim), one), i64)
                product_ = self.graph.node("mul", (self.graph.index(point[axis]), varies), i64)
                source.append(Index(((product_, 1),)))
        return tuple(source)

    def _reshape_point(self, source: TensorType, result: TensorType, point: Point) -> Point:
        """Index into the operand of a reshape: matching groups of dimensions are split or merged exactly."""
        if [d for d in source.shape if d != 1] == [d for d in result.shape if d != 1]:
            kept = iter(i for i, d in zip(point, result.shape, strict=True) if d != 1)
            return tuple(Index() if d == 1 else next(kept) for d in source.shape)
        groups = _match_groups(source.shape, result.shape)
        out: list[Index] = []
        for source_dims, result_range in groups:
            flat = Index()
            for axis in result_range:
                flat = flat.scaled(result.shape[axis]) + point[axis]
            out.extend(self._delinearize(flat, source_dims))
        return tuple(out)

    def _delinearize(self, flat: Index, dims: Sequence[Dim]) -> list[Index]:
        if not dims:
            return []
        if not flat.terms and flat.offset == 0:
            return [Index() for _ in dims]
        g = self.graph
        rest = g.index(flat)
        out: list[Index] = []
        for position, dim in enumerate(dims):
            if position == len(dims) - 1:
                out.append(Index(((rest, 1),)) if position else flat)
                break
            if dim == 1:
                out.append(Index())
                continue
            step = g.size(product(tuple(dims[position + 1 :])))
            out.append(Index(((g.node("div", (rest, step), i64), 1),)))
            rest = g.node("mod", (rest, step), i64)
        return out

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

    def _position(self, indices: Value, point: Point, extent: Dim) -> Index:
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
        rows = [
            self._position(op.indices, (*lead, Index((), d)), source.shape[op.batch_axes + d]) for d in range(depth)
        ]
        return self.element(op.operand, (*point[: op.batch_axes], *rows, *point[index_type.rank - 1 :]))

    # -- reductions ----------------------------------------------------------------------------
    def _reduce(self, op: Reduce | ArgReduce | ReduceWindow | DotGeneral, point: Point) -> Node:
        g = self.graph
        free = frozenset[Axis]().union(*(i.axes for i in point))
        outside = free - set(self.outer) - set(self.inner)
        if outside or free & set(self.inner):
            raise CompileError(
                "a reduction inside a kernel must run along the kernel's inner axes", location=op.location
            )
        match op:
            case Reduce() | ArgReduce():
                axes = op.axes if isinstance(op, Reduce) else (op.axis,)
                inner = self._inner_axes([op.operand.type.shape[a] for a in axes])
                source = list(point)
                for axis, index in zip(axes, inner, strict=True):
                    source.insert(axis, index)
                value = self.element(op.operand, tuple(source))
                if isinstance(op, ArgReduce):
                    return self._step(op.how, value, i64, argument=True, position=inner[0], last=op.last)
                if op.how == "mean":
                    return self._mean(value, product(tuple(op.operand.type.shape[a] for a in axes)))
                return self._step(op.how, value, op.result.type.dtype)
            case DotGeneral():
                nb, nl = len(op.lhs_batch), len(op.lhs_free)
                inner = self._inner_axes([op.lhs.type.shape[a] for a in op.lhs_contract])
                lhs = _place(
                    op.lhs.type.rank, (*op.lhs_batch, *op.lhs_free, *op.lhs_contract), (*point[: nb + nl], *inner)
                )
                rhs = _place(
                    op.rhs.type.rank,
                    (*op.rhs_batch, *op.rhs_contract, *op.rhs_free),
                    (*point[:nb], *inner, *point[nb + nl :]),
                )
                a, b = self.element(op.lhs, lhs), self.element(op.rhs, rhs)
                return self._step("sum", g.node("mul", (a, b), op.result.type.dtype), op.result.type.dtype)
            case ReduceWindow():
                return self._window(op, point)

    def _window(self, op: ReduceWindow, point: Point) -> Node:
        g, dtype = self.graph, op.result.type.dtype
        inner = self._inner_axes(op.window)
        source = list(point)
        conditions: list[Condition] = []
        for position, axis in enumerate(op.axes):
            moved = point[axis].scaled(op.strides[position]) + inner[position].scaled(op.dilations[position])
            moved = moved + op.low[position] * -1
            source[axis] = moved
            if op.low[position] != 0 or op.high[position] != 0:
                conditions.append((moved, op.operand.type.shape[axis]))
        how = "max" if op.how == "max" else "sum"
        neutral = g.constant(identity(how, dtype.numpy).item(), dtype)
        value = g.guard(tuple(conditions), self.element(op.operand, tuple(source)), neutral)
        total = self._step(how, value, dtype)
        if op.how == "mean" or (op.how == "mean_valid" and not conditions):
            return g.node("mul", (total, g.constant(1 / int(np.prod(op.window)), dtype)), dtype)
        if op.how == "mean_valid":
            one, zero = g.constant(1.0, dtype), g.constant(0.0, dtype)
            count = self._step("sum", g.guard(tuple(conditions), one, zero), dtype)
            return g.node("div", (total, count), dtype)
        return total

    def _mean(self, value: Node, count: Dim) -> Node:
        total = self._step("sum", value, value.dtype)
        g = self.graph
        if isinstance(count, int):
            if value.dtype.is_float and count:
                return g.node("mul", (total, g.constant(1 / count, value.dtype)), value.dtype)
            divisor = g.constant(float(count) if value.dtype.is_float else count, value.dtype)
        else:
            divisor = self.cast(g.size(count), value.dtype)
        return g.node("div", (total, divisor), value.dtype)

    def _inner_axes(self, extents: Sequence[Dim]) -> list[Index]:
        """The inner axes for a reduction over `extents`: all reductions of a nest share them."""
        wanted = [d for d in extents if d != 1]
        if not self.inner and wanted:
            self.inner = [self.axis(d) for d in wanted]
        if [a.extent for a in self.inner] != wanted and wanted:
            raise CompileError(f"reductions over {wanted} and {[a.extent for a in self.inner]} in one kernel")
        axes = iter(self.inner)
        return [Index() if d == 1 else of_axis(next(axes)) for d in extents]

    def _step(self, how: str, value: Node, dtype: DType, **argument: Any) -> Node:
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


def _place(rank: int, axes: Sequence[int], values: Sequence[Index]) -> Point:
    out = [Index()] * rank
    for axis, value in zip(axes, values, strict=True):
        out[axis] = value
    return tuple(out)


def _match_groups(source: Sequence[Dim], result: Sequence[Dim]) -> list[tuple[list[Dim], range]]:
    """Smallest groups of adjacent dimensions with equal products: (source dims, range of result axes)."""
    groups: list[tuple[list[Dim], range]] = []
    i = j = 0
    while i < len(source) or j < len(result):
        si, sj = i, j
        a: Dim = 1
        b: Dim = 1
        while True:
            if i < len(source) and (a == b or _smaller(a, b)) and not (a == b and i > si and j > sj):
                a, i = a * source[i], i + 1
            elif j < len(result):
                b, j = b * result[j], j + 1
            elif i < len(source):
                a, i = a * source[i], i + 1
            else:
                break
            if a == b and i > si and j > sj:
                break
        # trailing unit dimensions belong to the last group
        if i == len(source) or j == len(result):
            while i < len(source) and source[i] == 1:
                i += 1
            while j < len(result) and result[j] == 1:
                j += 1
        groups.append((list(source[si:i]), range(sj, j)))
    return groups


def _smaller(a: Dim, b: Dim) -> bool:
    """Whether to extend `a` rather than `b`: by value when both are known, else by number of symbols."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int)
    return len(str(a)) < len(str(b))


def lower_loops(fusion: Fusion) -> Kernel:
    """The loop kernel of a fusion: elementwise chains, reductions, data movement.

    Raises:
        CompileError: an operation in it has no loop form.
    """
    block = fusion.body.block
    buffers: dict[Value, int] = {a: n for n, a in enumerate(block.arguments)}
    outputs = list(block.terminator.operands)
    types = [a.type for a in block.arguments] + [o.type for o in outputs]
    graph = Graph()
    kernel = Kernel(types, len(block.arguments), [], graph)
    lowering = Lowering(graph, {**buffers})
    sink = outputs[0].op if isinstance(outputs[0], OpResult) else None
    first = len(block.arguments)
    match sink:
        case Concat() if len(outputs) == 1:
            start: Dim = 0
            for value in sink.inputs:
                point = lowering.point(value.type.shape)
                lowering._begin([a for i in point if (a := i.axis)], [])
                node = lowering.element(value, point)
                shifted = list(point)
                shifted[sink.axis] = point[sink.axis] + start
                lowering.steps.append(Store(first, _linear_in(tuple(shifted), sink.result.type), node, inner=False))
                kernel.nests.append(_nest(lowering))
                start = start + value.type.shape[sink.axis]
            return kernel
        case ScatterND() | ScatterElements():
            _lower_scatter(lowering, sink, kernel, first)
            return kernel
        case Cumulative():
            _lower_cumulative(lowering, sink, kernel, first)
            return kernel
    kernel.nests.append(_lower_outputs(lowering, block, outputs, first))
    return kernel


def _linear_in(point: Point, type_: TensorType) -> Index:
    """Like `linear`, for points that may be non-zero in a unit dimension of a part."""
    total = Index()
    for index, stride in zip(point, strides_of(type_), strict=True):
        total = total + index.scaled(stride)
    return total


def _nest(lowering: Lowering) -> Nest:
    return Nest(lowering.outer, lowering.inner, lowering.steps)


def _lower_outputs(lowering: Lowering, block: Block, outputs: list[Value], first: int) -> Nest:
    """One nest for all outputs. Axes are laid out by the reductions' operand if there are any, else by the output."""
    reduction = _first_reduction(block)
    if reduction is None:
        point = lowering.point(outputs[0].type.shape)
        lowering._begin([a for i in point if (a := i.axis)], [])
        for number, output in enumerate(outputs):
            at = point if number == 0 else lowering.visited.get(output, point)
            lowering.store(output, at, first + number, Index(), inner=False)
        return _nest(lowering)
    kept_point = lowering.point(reduction.results[0].type.shape)
    lowering._begin([a for i in kept_point if (a := i.axis)], [])
    # Asking for the reduction first fixes which axes are inner.
    lowering.element(reduction.results[0], kept_point)
    kept = [d for d in reduction.results[0].type.shape if d != 1]
    full = _full_point(lowering, reduction)
    pending: list[tuple[int, Value, Point, bool]] = []
    for number, output in enumerate(outputs):
        point_ = _match_point(output.type.shape, reduction, kept_point, full)
        if point_ is None:
            raise CompileError(
                f"result {output.type} does not follow the kernel's axes {kept}", location=reduction.location
            )
        at, inner = point_
        pending.append((number, output, at, inner))
    for number, output, at, inner in pending:
        lowering.store(output, at, first + number, Index(), inner=inner)
    # Reductions come before the stores that need them by construction; a store never feeds a reduction.
    return _nest(lowering)


def _first_reduction(block: Block) -> Reduce | ArgReduce | ReduceWindow | DotGeneral | None:
    for op in block:
        if isinstance(op, Reduce | ArgReduce | ReduceWindow | DotGeneral):
            return op
    return None


def _full_point(
    lowering: Lowering, op: Reduce | ArgReduce | ReduceWindow | DotGeneral
) -> tuple[tuple[Dim, ...], Point] | None:
    """Shape and point of a reduction's operand, which outputs of full shape share."""
    if isinstance(op, Reduce | ArgReduce):
        return op.operand.type.shape, lowering.visited[op.operand]
    return None


def _match_point(
    shape: tuple[Dim, ...],
    op: Reduce | ArgReduce | ReduceWindow | DotGeneral,
    kept: Point,
    full: tuple[tuple[Dim, ...], Point] | None,
) -> tuple[Point, bool] | None:
    """Where an output of `shape` stands: at the kept point, or at the full one (True)."""
    if full is not None and shape == full[0]:
        return full[1], any(i.axis for i in full[1])
    if shape == op.results[0].type.shape:
        return kept, False
    # keepdims: the kept dimensions with units in between
    remaining = [i for i, d in zip(kept, op.results[0].type.shape, strict=True) if d != 1]
    if [d for d in shape if d != 1] == [d for d in op.results[0].type.shape if d != 1]:
        left = iter(remaining)
        return tuple(Index() if d == 1 else next(left) for d in shape), False
    return None


def _lower_scatter(lowering: Lowering, op: ScatterND | ScatterElements, kernel: Kernel, out: int) -> None:
    point = lowering.point(op.operand.type.shape)
    lowering._begin([a for i in point if (a := i.axis)], [])
    lowering.store(op.operand, point, out, Index(), inner=False)
    copy = _nest(lowering)
    copy.serial = True
    kernel.nests.append(copy)
    point = lowering.point(op.updates.type.shape)
    lowering._begin([a for i in point if (a := i.axis)], [])
    value = lowering.element(op.updates, point)
    if isinstance(op, ScatterElements):
        row = lowering._position(op.indices, point, op.operand.type.shape[op.axis])
        target: Point = (*point[: op.axis], row, *point[op.axis + 1 :])
    else:
        index_type = op.indices.type
        depth = index_type.shape[-1]
        assert isinstance(depth, int)
        lead = point[: index_type.rank - 1]
        rows = [lowering._position(op.indices, (*lead, Index((), d)), op.operand.type.shape[d]) for d in range(depth)]
        target = (*rows, *point[index_type.rank - 1 :])
    lowering.steps.append(Store(out, linear(target, op.operand.type), value, inner=False, mode=op.mode))
    nest = _nest(lowering)
    nest.serial = True
    kernel.nests.append(nest)


def _lower_cumulative(lowering: Lowering, op: Cumulative, kernel: Kernel, out: int) -> None:
    point = lowering.point(op.operand.type.shape)
    along = point[op.axis].axis
    lowering._begin([a for i in point if (a := i.axis) and a is not along], [along] if along else [])
    value = lowering.element(op.operand, point)
    index = linear(point, op.operand.type)
    lowering.steps.append(Running(out, index, value, op.how, op.exclusive, op.reverse))
    kernel.nests.append(_nest(lowering))
