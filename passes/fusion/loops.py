"""Loop groups: grown from a last operation towards its producers."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.ir import Operation, Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Concat,
    DotGeneral,
    DotInteger,
    Gather,
    GatherElements,
    GatherND,
    Pad,
    Predicate,
    Reduce,
    ReduceWindow,
    Reshape,
    Select,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.passes.fusion.groups import Group, Grouping
from ds_compiler.passes.fusion.kinds import (
    ELEMENTWISE,
    EXPENSIVE_FLOPS,
    SINK_ONLY,
    flops,
    has_reduction,
    is_copy,
    is_loop,
    is_rotation,
)

_MOST_OUTPUTS = 4

Map = tuple["int | None", ...]  # for each dimension of a value: the group's axis it runs along, None for a unit one


class LoopGrowth:
    """Grows one loop group from its sink.

    `maps` holds, for each value reached, how its dimensions run along the group's axes; None once an index is
    computed (slice, gather, pad), below which no reduction can join. `inner`: the axes that reductions combine.
    """

    def __init__(self, grouper: Grouping, sink: Operation) -> None:
        self.grouper = grouper
        self.group = Group("loop", sink, {sink: None})
        self.extents: list[Dim] = []
        self.inner: list[int] | None = None
        self.maps: dict[Value, Map | None] = {}
        self.reduces = False

    def grow(self) -> Group:
        sink = self.group.sink
        if isinstance(sink, SINK_ONLY):
            pending: list[tuple[Value, Map | None, bool]] = []
            if isinstance(sink, Concat):
                pending = [(v, None, False) for v in sink.inputs]
        else:
            result = sink.results[0].type
            self.extents = list(result.shape)
            own: Map = tuple(None if d == 1 else n for n, d in enumerate(result.shape))
            self.maps[sink.results[0]] = own
            pending = self._below(sink, own, False)
        waiting: list[tuple[Value, Map | None, bool]] = []
        while pending:
            value, axes, repeated = pending.pop(0)
            if len(self.group.members) >= self.grouper.max_ops:
                break
            if self._try(value, axes, repeated, waiting):
                source = value.defining_op
                assert source is not None
                pending.extend(self._below(source, axes, repeated))
                pending.extend(waiting)  # a new member may be the last reader that was missing
                waiting = []
        self._add_outputs(waiting)
        return self.group

    # -- one producer --------------------------------------------------------------------------
    def _try(
        self, value: Value, axes: Map | None, repeated: bool, waiting: list[tuple[Value, Map | None, bool]]
    ) -> bool:
        """Take the producer of `value` in if possible; if only readers are missing, remember it."""
        op, group, grouper = value.defining_op, self.group, self.grouper
        if op is None or op in group.members or op.parent is not grouper.block:
            return False
        if is_copy(op):
            if op in group.copies and self.maps.get(value) == axes:
                return False
            group.copies[op] = None
            self.maps[value] = axes
            return True
        if op in grouper.group_of or not is_loop(op) or isinstance(op, Reshape):
            return False
        if isinstance(op, SINK_ONLY) and (self.inner is not None or axes is None or not is_rotation(op)):
            return False
        if not self._affordable(op, axes, repeated):
            return False
        reducing = isinstance(op, Reduce | ArgReduce | ReduceWindow | DotGeneral | DotInteger)
        if reducing and not self._reduction_fits(op, axes):
            return False
        if value in self.maps and self.maps[value] != axes and (self.reduces or has_reduction(op)):
            return False
        if group.read_outside(value):
            waiting.append((value, axes, repeated))
            return False
        self._join(op, value, axes)
        return True

    def _join(self, op: Operation, value: Value, axes: Map | None) -> None:
        self.group.members[op] = None
        self.maps[value] = axes
        if isinstance(op, Reduce | ArgReduce):
            self.reduces = True

    def _affordable(self, op: Operation, axes: Map | None, repeated: bool) -> bool:
        """Whether computing `op` here does not repeat costly work for each element of a broadcast."""
        if repeated and axes is None and isinstance(op, ELEMENTWISE) and not isinstance(op, Cast):
            return False  # indices: each is read for many elements (a resize ran three times as long with them inside)
        if not repeated or flops(op) < EXPENSIVE_FLOPS:
            return True
        # Inside a reduction kernel, what varies along outer axes only is computed once a row.
        return self.inner is not None and axes is not None and not any(a in self.inner for a in axes)

    def _reduction_fits(self, op: Operation, axes: Map | None) -> bool:
        if not isinstance(op, Reduce) or axes is None:
            return False
        kept = [a for a in axes if a is not None]
        if len(set(kept)) != len(kept):
            return False
        along = [op.operand.type.shape[a] for a in op.axes]
        if self.inner is None:
            return False
        # The operand must run along all axes of the kernel: the kept ones here, the inner ones by this reduction.
        outer = [n for n, d in enumerate(self.extents) if n not in self.inner and d != 1]
        inner = [self.extents[a] for a in self.inner if self.extents[a] != 1]
        return sorted(kept) == outer and [d for d in along if d != 1] == inner

    def _below(self, op: Operation, axes: Map | None, repeated: bool) -> list[tuple[Value, Map | None, bool]]:
        """The operands of a member, with their maps."""
        match op:
            case Unary() | Binary() | Compare() | Predicate() | Select() | Cast() | Bitcast():
                return [(v, axes, repeated) for v in op.operands]
            case Transpose() if axes is not None:
                source: list[int | None] = [None] * len(axes)
                for n, a in enumerate(op.permutation):
                    source[a] = axes[n]
                return [(op.operand, tuple(source), repeated)]
            case Broadcast() if axes is not None:
                dims = op.operand.type.shape
                kept = [None if d == 1 else axes[a] for d, a in zip(dims, op.axes, strict=True)]
                dropped = [a for a in axes if a is not None and a not in kept]
                self._expect_reduction(op.operand, dropped)
                if any(d != 1 and d != op.shape[a] for d, a in zip(dims, op.axes, strict=True)):
                    return [(op.operand, None, True)]
                return [(op.operand, tuple(kept), repeated or bool(dropped))]
            case Broadcast():
                return [(op.operand, None, repeated or op.operand.type.elements != op.result.type.elements)]
            case Reshape() if axes is not None:
                left = iter([a for a, d in zip(axes, op.shape, strict=True) if d != 1])
                return [(op.operand, tuple(None if d == 1 else next(left) for d in op.operand.type.shape), repeated)]
            case Reduce():
                return [(op.operand, self._operand_map(op, axes), False)]
            case ArgReduce():
                self._new_inner([op.operand.type.shape[op.axis]])
                return [(op.operand, self._operand_map(op, axes), False)]
            case ReduceWindow() | DotGeneral() | DotInteger():
                return []  # lowered alone: what it reads, it reads several times
            case Gather() | GatherElements() | GatherND():
                return [(op.indices, None, True)]
            case Slice():  # a rotation's halves read the same tensor at several places
                return [(op.operand, None, repeated or any(isinstance(m, Concat) for m in self.group.members))]
            case Pad() | Concat() | Transpose():
                return [(v, None, repeated) for v in op.operands]
        return []

    def _operand_map(self, op: Reduce | ArgReduce, axes: Map | None) -> Map | None:
        if axes is None:
            return None
        reduced = op.axes if isinstance(op, Reduce) else (op.axis,)
        if self.inner is None:
            self._new_inner([op.operand.type.shape[a] for a in reduced])
        assert self.inner is not None
        inner, kept = iter(self.inner), iter(axes)
        out: list[int | None] = []
        for axis, dim in enumerate(op.operand.type.shape):
            if axis in reduced:
                out.append(None if dim == 1 else next(inner, None))
            else:
                out.append(next(kept))
        return tuple(out)

    def _new_inner(self, dims: Sequence[Dim]) -> None:
        if self.inner is None:
            self.inner = []
            for dim in dims:
                if dim != 1:
                    self.inner.append(len(self.extents))
                    self.extents.append(dim)

    def _expect_reduction(self, value: Value, dropped: list[int]) -> None:
        """A broadcast that repeats a reduction's result over the axes it combined makes them the inner axes."""
        if self.inner is not None or not dropped:
            return
        stack, depth = [value], 0
        while stack and depth < 32:
            depth += 1
            op = stack.pop().defining_op
            if op is None or op.parent is not self.grouper.block or op in self.grouper.group_of:
                continue
            if isinstance(op, Reduce):
                along = [d for a in op.axes if (d := op.operand.type.shape[a]) != 1]
                if along == [self.extents[a] for a in dropped]:
                    self.inner = list(dropped)
                    return
                continue
            if isinstance(op, ELEMENTWISE) or (isinstance(op, Reshape) and is_copy(op)):
                stack.extend(op.operands)

    # -- several results -----------------------------------------------------------------------
    def _add_outputs(self, waiting: list[tuple[Value, Map | None, bool]]) -> None:
        """Store a value that others read as well, when the kernel computes it anyway and no cycle arises."""
        group, grouper = self.group, self.grouper
        full = [n for n, d in enumerate(self.extents) if d != 1]
        progress = True
        while progress and waiting:
            progress = False
            for entry in list(waiting):
                value, axes, repeated = entry
                op = value.defining_op
                if op is None or op in group or op in grouper.group_of or repeated or axes is None:
                    waiting.remove(entry)
                    continue
                if not isinstance(op, ELEMENTWISE) or [a for a in axes if a is not None] != full:
                    waiting.remove(entry)
                    continue
                if len(group.outputs()) >= _MOST_OUTPUTS or len(group.members) >= grouper.max_ops:
                    return
                if self._would_cycle(op):
                    continue
                waiting.remove(entry)
                self._join(op, value, axes)
                progress = True
                pending = self._below(op, axes, repeated)
                while pending:
                    below = pending.pop(0)
                    if self._try(*below, waiting):
                        source = below[0].defining_op
                        assert source is not None
                        pending.extend(self._below(source, below[1], below[2]))

    def _would_cycle(self, op: Operation) -> bool:
        """Whether the group, once `op` is in it, would need what depends on one of its results, a size included."""
        members = [*self.group.members, op]
        for member in (*members, *self.group.copies):
            for source in self.grouper.sources(member):
                if source in self.group or source is op:
                    continue
                if self.grouper.depends_on(source, members):
                    return True
        return False
