"""Group operations that one kernel computes into ``fusion`` operations.

    %2 = dot_general %0, %w                %5 = fusion(%0, %w, %b) strategy=matmul {
    %3 = broadcast %b                          dot_general, broadcast, add, max → yield
    %4 = add %2, %3                 →      }
    %5 = max %4, %zero

Two kinds of groups. A *contraction* (matrix product, convolution, pooling, attention) takes the elementwise
operations that follow it as its epilogue. All other operations form *loop* groups, grown from a last operation
towards its producers: elementwise chains, data movement, and reductions that share one set of axes (softmax and layer
norm come out as one kernel). Growth keeps one rule: nothing is computed more than once per element, except
what is cheaper to compute again than to load.

What stays outside: constants, sizes, `reshape` (a view), control flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ds_compiler.ir import Block, Builder, Module, Operation, Region, Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.location import Location
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Broadcast,
    Cast,
    Compare,
    Composite,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
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
    TopK,
    Transpose,
    Unary,
    Yield,
)
from ds_compiler.ops.elementwise import BINARY, UNARY
from ds_compiler.passes.manager import register

_ELEMENTWISE = (Unary, Binary, Compare, Predicate, Select, Cast)
_MOVEMENT = (Transpose, Slice, Pad, DynamicSlice, Gather, GatherElements, GatherND)
_SINK_ONLY = (Concat, ScatterND, ScatterElements, Cumulative)
_WHOLE = ("attention",)  # composites that are kernels
_CONTRACTION = (DotGeneral, Conv, ConvTranspose, Composite)

# Operations whose result costs more to compute again than to load from the first-level cache.
_EXPENSIVE_FLOPS = 4
_MOST_OUTPUTS = 4

Map = tuple["int | None", ...]  # for each dimension of a value: the group's axis it runs along, None for a unit one


@register("fuse")
def fuse(module: Module, *, max_ops: int = 64) -> None:
    """Form kernels in every block; `max_ops` bounds the operations of one."""
    for function in module.functions.values():
        _fuse_block(function.block, max_ops)


def _fuse_block(block: Block, max_ops: int) -> None:
    for op in block:
        if not isinstance(op, Fusion | Composite):
            for region in op.regions:
                _fuse_block(region.block, max_ops)
    _inline_unknown(block)
    _absorb_transposes(block)
    _Grouper(block, max_ops).run()


def _inline_unknown(block: Block) -> None:
    """Composites that no kernel computes as a whole become what they mean."""
    for composite in list(block):
        if isinstance(composite, Composite) and composite.callee not in _WHOLE:
            before = Builder(before=composite)
            composite.replace_with(*_inline(composite, before.insert, {}))


def _absorb_transposes(block: Block) -> None:
    """Let a matrix product read a transposed operand in place."""
    for op in block:
        if not isinstance(op, DotGeneral):
            continue
        for side in ("lhs", "rhs"):
            source = getattr(op, side).defining_op
            if not isinstance(source, Transpose) or len(getattr(op, f"{side}_free")) > 1:
                continue
            permutation = source.permutation
            for role in ("batch", "contract"):
                key = f"{side}_{role}"
                op.attributes[key] = tuple(permutation[a] for a in op.attributes[key])
            op.set_operand(0 if side == "lhs" else 1, source.operand)
            if not source.result.uses:
                source.erase()


@dataclass(eq=False)
class _Group:
    """Operations of one kernel to be. `copies` are cheap producers, computed again wherever they are wanted."""

    strategy: str
    sink: Operation
    members: dict[Operation, None] = field(default_factory=dict)
    copies: dict[Operation, None] = field(default_factory=dict)

    def __contains__(self, op: Operation) -> bool:
        return op in self.members or op in self.copies

    def read_outside(self, value: Value) -> bool:
        """Whether others read `value`: directly, or through a cheap producer that they compute themselves."""
        return any(
            user not in self or (user in self.copies and any(self.read_outside(r) for r in user.results))
            for user in value.users
        )

    def outputs(self) -> list[Value]:
        """Results that others read, the sink's first."""
        found = [r for op in (self.sink, *self.members) for r in op.results if op is self.sink or self.read_outside(r)]
        return list(dict.fromkeys(found))


class _Grouper:
    def __init__(self, block: Block, max_ops: int) -> None:
        self.block, self.max_ops = block, max_ops
        self.ops = list(block)
        self.position = {op: n for n, op in enumerate(self.ops)}
        self.group_of: dict[Operation, _Group] = {}
        self.groups: list[_Group] = []
        # For each position, the first member of the groups that reach over it: from there on, what stands in front of
        # an operation may need it nevertheless.
        self.lowest = list(range(len(self.ops)))

    def run(self) -> None:
        for op in self.ops:
            strategy = _contraction_strategy(op)
            if strategy is not None and op not in self.group_of:
                self._adopt(self._with_epilogue(op, strategy))
        for op in reversed(self.ops):
            if op not in self.group_of and _loops(op) and (not _is_copy(op) or self._read_elsewhere(op)):
                self._adopt(_LoopGrowth(self, op).grow())
        self._rewrite()

    def _adopt(self, group: _Group) -> None:
        self.groups.append(group)
        for op in group.members:
            self.group_of[op] = group
        places = [self.position[op] for op in group.members]
        first = min(places)
        for place in range(first + 1, max(places) + 1):
            self.lowest[place] = min(self.lowest[place], first)

    def _read_elsewhere(self, op: Operation) -> bool:
        """A cheap producer needs a kernel of its own only for readers that can't compute it themselves."""
        return any(user not in self.group_of or op not in self.group_of[user].copies for user in op.results[0].users)

    # -- dependences ---------------------------------------------------------------------------
    def where(self, op: Operation) -> int:
        """Position of an operation, or of the one in this block that it is nested in."""
        while op.parent is not self.block:
            owner = op.parent.parent.parent if op.parent is not None and op.parent.parent is not None else None
            if not isinstance(owner, Operation):
                return len(self.ops)
            op = owner
        return self.position.get(op, len(self.ops))

    def _sources(self, op: Operation) -> Iterable[Operation]:
        """Operations of this block that `op` (its regions included) reads; all of a group's when it is in one."""
        units: Iterable[Operation] = self.group_of[op].members if op in self.group_of else (op,)
        for unit in units:
            for nested in unit.walk():
                for operand in nested.operands:
                    source = operand.defining_op
                    if source is not None and source in self.position and source not in units:
                        yield source

    def depends_on(self, value: Value, members: Iterable[Operation]) -> bool:
        """Whether computing `value` needs a result of `members`."""
        wanted = set(members)
        first = min(self.position[m] for m in wanted)
        while self.lowest[first] < first:
            first = self.lowest[first]
        start = value.defining_op
        stack = [start] if start is not None and start in self.position else []
        seen: set[Operation] = set()
        while stack:
            op = stack.pop()
            if op in wanted:
                return True
            if op in seen or self.position[op] < first:
                continue
            seen.add(op)
            stack.extend(self._sources(op))
        return False

    # -- contractions --------------------------------------------------------------------------
    def _with_epilogue(self, root: Operation, strategy: str) -> _Group:
        """The root and the longest run of elementwise followers that leaves one value alive."""
        best = _Group(strategy, root, {root: None})
        group = _Group(strategy, root, {root: None})
        if strategy == "top_k":  # two results
            return best
        while len(group.members) < self.max_ops:
            follower = self._follower(group)
            if follower is None:
                break
            group.members[follower] = None
            group.sink = follower
            outside = [r for m in group.members for r in m.results if any(u not in group.members for u in r.users)]
            if len(outside) == 1:
                sink = outside[0].defining_op
                assert sink is not None
                best = _Group(strategy, sink, dict(group.members))
        self._add_copies(best)
        return best

    def _follower(self, group: _Group) -> Operation | None:
        """The next operation that can join a contraction's epilogue."""
        users = {u for m in group.members for r in m.results for u in r.users}
        for user in sorted(users, key=self.where):
            if user in group.members or user in self.group_of or user.parent is not self.block:
                continue
            if isinstance(user, Transpose):
                # Stores stay contiguous vectors as long as the last axis stays last.
                if user.permutation[-1] == len(user.permutation) - 1 and len(user.operand.uses) == 1:
                    return user
                continue
            if not isinstance(user, _ELEMENTWISE):
                continue
            outside = [v for v in user.operands if v.defining_op not in group.members]
            if not any(self.depends_on(v, group.members) for v in outside):
                return user
        return None

    def _add_copies(self, group: _Group) -> None:
        """Compute broadcasts and scalars inside the kernel."""
        stack = [v for m in group.members if not isinstance(m, _CONTRACTION) for v in m.operands]
        while stack:
            source = stack.pop().defining_op
            if source is None or source in group or source.parent is not self.block or not _is_copy(source):
                continue
            group.copies[source] = None
            stack.extend(source.operands)

    # -- rewriting -----------------------------------------------------------------------------
    def _rewrite(self) -> None:
        order = self._schedule()
        for unit in order:
            if isinstance(unit, _Group):
                self._materialise(unit)
            else:
                self.block.append(unit.detach())
        for op in reversed(list(self.block)):  # cheap producers that nobody reads any more
            if _is_copy(op) and not any(r.uses for r in op.results):
                op.erase()

    def _schedule(self) -> list[_Group | Operation]:
        """Groups and single operations, each after what it reads, else in the order of their last operation."""
        units: list[_Group | Operation] = []
        begun: set[int] = set()
        placed: set[int] = set()

        def place(op: Operation) -> None:
            unit: _Group | Operation = self.group_of.get(op, op)
            if id(unit) in placed:
                return
            if id(unit) in begun:
                raise CompileError("fuse: two kernels would each need the other's result", location=op.location)
            begun.add(id(unit))
            own: Sequence[Operation] = list(unit.members) + list(unit.copies) if isinstance(unit, _Group) else [op]
            for member in own:
                for source in sorted(self._direct_sources(member), key=self.where):
                    if source not in own:
                        place(source)
            placed.add(id(unit))
            units.append(unit)

        for op in self.ops:
            group = self.group_of.get(op)
            if group is None or op is group.sink:
                place(op)
        return units

    def _direct_sources(self, op: Operation) -> list[Operation]:
        found: dict[Operation, None] = {}
        for nested in op.walk():
            for operand in nested.operands:
                source = operand.defining_op
                if source is not None and source in self.position:
                    found[source] = None
        return list(found)

    def _in_order(self, group: _Group) -> list[Operation]:
        """Members in program order, cheap producers in front of their first reader: wherever those stood, equal groups
        make equal kernels."""
        placed: dict[Operation, None] = {}

        def place(op: Operation) -> None:
            for operand in op.operands:
                source = operand.defining_op
                if source is not None and source in group.copies and source not in placed:
                    place(source)
            placed[op] = None

        for member in sorted(group.members, key=self.where):
            place(member)
        return list(placed)

    def _materialise(self, group: _Group) -> None:
        outputs = group.outputs()
        everything = self._in_order(group)
        inputs: dict[Value, None] = {}
        for op in everything:
            nested_in_op = dict.fromkeys(op.walk())
            for nested in nested_in_op:
                for operand in nested.operands:
                    source = operand.defining_op
                    local = source is not None and (source in group or source in nested_in_op)
                    if not local and not _is_inner_argument(operand, op):
                        inputs[operand] = None
        body = Block([v.type for v in inputs], [v.hint for v in inputs])
        mapping: dict[Value, Value] = dict(zip(inputs, body.arguments))
        location = Location()
        for op in everything:
            if isinstance(op, Composite):
                mapping.update(zip(op.results, _inline(op, body.append, mapping), strict=True))
            else:
                body.append(op.clone(mapping))
            if op in group.members:
                location = location.merge(op.location)
        body.append(Yield(tuple(mapping[v] for v in outputs)))
        fusion = Fusion(tuple(inputs), Region(body), group.strategy, location=location)  # type: ignore[call-arg]
        self.block.append(fusion)
        for old, new in zip(outputs, fusion.results, strict=True):
            new.hint = old.hint
            old.replace_all_uses_with(new)
        for op in sorted(group.members, key=self.where, reverse=True):
            op.drop()


def _inline(
    composite: Composite, insert: Callable[[Operation], Operation], mapping: Mapping[Value, Value]
) -> list[Value]:
    """Insert the meaning of a composite, whose inputs are to be read through `mapping`; returns its results."""
    inner = composite.body.block
    local: dict[Value, Value] = {a: mapping.get(v, v) for a, v in zip(inner.arguments, composite.inputs, strict=True)}
    for op in inner:
        if not op.is_terminator:
            insert(op.clone(local))
    return [local[v] for v in inner.terminator.operands]


def _is_inner_argument(value: Value, op: Operation) -> bool:
    """An argument of a region nested in `op` (a composite's body)."""
    return any(value in region.block.arguments for nested in op.walk() for region in nested.regions)


class _LoopGrowth:
    """Grows one loop group from its sink.

    `maps` holds, for each value reached, how its dimensions run along the group's axes; None once an index is
    computed (slice, gather, pad), below which no reduction can join. `inner`: the axes that reductions combine.
    """

    def __init__(self, grouper: _Grouper, sink: Operation) -> None:
        self.grouper = grouper
        self.group = _Group("loop", sink, {sink: None})
        self.extents: list[Dim] = []
        self.inner: list[int] | None = None
        self.maps: dict[Value, Map | None] = {}
        self.reduces = False

    def grow(self) -> _Group:
        sink = self.group.sink
        if isinstance(sink, _SINK_ONLY):
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
        if _is_copy(op):
            if op in group.copies and self.maps.get(value) == axes:
                return False
            group.copies[op] = None
            self.maps[value] = axes
            return True
        if op in grouper.group_of or not _loops(op) or isinstance(op, Reshape):
            return False
        if isinstance(op, _SINK_ONLY) and (self.inner is not None or axes is None or not _is_rotation(op)):
            return False
        if not self._affordable(op, axes, repeated):
            return False
        if isinstance(op, Reduce | ArgReduce | ReduceWindow | DotGeneral) and not self._reduction_fits(op, axes):
            return False
        if value in self.maps and self.maps[value] != axes and (self.reduces or _has_reduction(op)):
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
        if repeated and axes is None and isinstance(op, _ELEMENTWISE) and not isinstance(op, Cast):
            return False  # indices: each is read for many elements (a resize ran three times as long with them inside)
        if not repeated or _flops(op) < _EXPENSIVE_FLOPS:
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
            case Unary() | Binary() | Compare() | Predicate() | Select() | Cast():
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
            case ReduceWindow() | DotGeneral():
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
            if isinstance(op, _ELEMENTWISE) or (isinstance(op, Reshape) and _is_copy(op)):
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
                if not isinstance(op, _ELEMENTWISE) or [a for a in axes if a is not None] != full:
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
        """Whether the group, once `op` is in it, would need something computed from one of its results."""
        members = [*self.group.members, op]
        for member in (*members, *self.group.copies):
            for operand in member.operands:
                source = operand.defining_op
                if source is None or source in self.group or source is op:
                    continue
                if self.grouper.depends_on(operand, members):
                    return True
        return False


def _contraction_strategy(op: Operation) -> str | None:
    match op:
        case DotGeneral() if op.result.type.dtype.name in ("f32", "f64"):
            return "matmul"
        case Conv():
            return "conv"
        case ConvTranspose():
            return "conv_transpose"
        case TopK():
            return "top_k"
        case Composite():
            return op.callee
        case ReduceWindow():
            rank = op.operand.type.rank
            channels_last = op.axes == tuple(range(1, rank - 1)) and rank in (3, 4)
            known = isinstance(op.operand.type.shape[-1], int) and op.how != "sum"
            if channels_last and known and op.operand.type.dtype.name in ("f32", "f64"):
                return "pool"
    return None


def _loops(op: Operation) -> bool:
    """Operations that loop kernels compute."""
    return isinstance(
        op, (*_ELEMENTWISE, *_MOVEMENT, *_SINK_ONLY, Broadcast, Iota, Reduce, ArgReduce, ReduceWindow, DotGeneral)
    )


def _is_rotation(op: Operation) -> bool:
    """A concat of slices of one tensor, some negated (rotary embeddings): cheap enough to compute where it is read."""
    if not isinstance(op, Concat) or len(op.inputs) != 2:
        return False
    sources: set[Value] = set()
    for value in op.inputs:
        part = value.defining_op
        if isinstance(part, Unary) and part.kind == "neg":
            part = part.operand.defining_op
        if not isinstance(part, Slice):
            return False
        sources.add(part.operand)
    return len(sources) == 1


def _is_copy(op: Operation) -> bool:
    """Cheaper to compute again than to load: scalars, broadcasts, added or dropped unit dimensions."""
    match op:
        case Constant():
            return bool(op.value.size == 1 and op.value.ndim == 0)
        case Broadcast() | Iota() | Size():
            return True
        case Reshape():
            return [d for d in op.shape if d != 1] == [d for d in op.operand.type.shape if d != 1]
    return False


def _flops(op: Operation) -> int:
    if isinstance(op, Unary):
        return UNARY[op.kind].flops
    if isinstance(op, Binary):
        return BINARY[op.kind].flops
    return 1


def _has_reduction(op: Operation) -> bool:
    return isinstance(op, Reduce | ArgReduce | ReduceWindow)
