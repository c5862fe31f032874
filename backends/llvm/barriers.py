"""Where the tasks of a program must wait for each other.

All tasks run the same steps in the same order. A step must see what earlier steps have written, and must not
overwrite what another task may still read; where two steps touch the same memory and at least one writes it, a
barrier stands between them, unless task 0 alone runs both. Memory is the planned one: two buffers that share a place
in the arena count as the same.

The analysis keeps the accesses made since the last barrier (`Pending`), merges the branches of an ``if``, and goes
through loop bodies until nothing changes, so that the last steps of an iteration meet the first ones of the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ds_compiler.ir import Block, Operation, Value
from ds_compiler.ir.dims import evaluate, is_non_negative, symbols_of
from ds_compiler.ops import Bind, Fusion, If, Scan, While, Yield
from ds_compiler.passes.buffers import Buffer, Buffers, Carry, Half, Output, Place, Where
from ds_compiler.passes.memory_plan import MemoryPlan, half_size


@dataclass(frozen=True, slots=True)
class Access:
    """One step's use of a place: whether it writes, and whether all tasks take part or task 0 alone."""

    place: Place
    writes: bool
    by_all: bool


Pending = frozenset[Access]
NOTHING: Pending = frozenset()


@dataclass
class Barriers:
    """Operations in front of whose step all tasks wait.

    Attributes:
        before: in front of the kernel, of reading the condition, or of the copies of a yield or return.
        allocation: in front of the allocation of buffers made by this operation.
        count: barriers in the program's text.
    """

    before: set[Operation] = field(default_factory=set)
    allocation: set[Operation] = field(default_factory=set)

    @property
    def count(self) -> int:
        return len(self.before) + len(self.allocation)


def plan_barriers(block: Block, plan: MemoryPlan, parallel: Mapping[Fusion, bool]) -> Barriers:
    """Barriers for a function's block; `parallel` tells which kernels all tasks run."""
    analysis = _Analysis(plan, parallel)
    analysis.block(block, NOTHING)
    return analysis.barriers


def allocated_by(op: Operation, buffers: Buffers) -> list[Buffer]:
    """Buffers that are allocated at run time right in front of `op`."""
    found: dict[Buffer, None] = {}
    if isinstance(op, Fusion):
        for result in op.results:
            buffer = buffers.own[result].find()
            if buffer.where is Where.HEAP and not buffer.alternating:
                found[buffer] = None
    elif isinstance(op, While | Scan):
        for stacked in buffers.stacked[op]:
            buffer = stacked.buffer.find()
            if buffer.where is Where.HEAP and not buffer.alternating:
                found[buffer] = None
        for carried in buffers.carried[op]:
            if carried.buffer is not None and carried.buffer.where is Where.HEAP:
                found[carried.buffer] = None
    return list(found)


class _Analysis:
    def __init__(self, plan: MemoryPlan, parallel: Mapping[Fusion, bool]) -> None:
        self.plan, self.buffers, self.parallel = plan, plan.buffers, parallel
        self.barriers = Barriers()
        self._shared: dict[tuple[Buffer, Buffer], bool] = {}

    def block(self, block: Block, pending: Pending) -> Pending:
        for op in block:
            pending = self._operation(op, pending)
        return pending

    def _operation(self, op: Operation, pending: Pending) -> Pending:
        pending = self._allocate(op, pending)
        match op:
            case Fusion():
                by_all = self.parallel[op]
                accesses = [a for v in op.inputs for a in self._accesses(v, False, by_all)]
                accesses += [a for v in op.results for a in self._accesses(v, True, by_all)]
                return self._step(op, pending, accesses)
            case Bind():
                return self._step(op, pending, self._accesses(op.value, False, True))
            case If():
                pending = self._step(op, pending, self._accesses(op.condition, False, True))
                return self.block(op.then.block, pending) | self.block(op.orelse.block, pending)
            case While() | Scan():
                return self._loop(op, pending)
            case _ if op.is_terminator and op.parent is not None:
                return self._step(op, pending, self._copies(op))
        return pending

    def _allocate(self, op: Operation, pending: Pending) -> Pending:
        made = allocated_by(op, self.buffers)
        if not made:
            return pending
        if self._conflicts(pending, [Access((b, Half.ANY), True, False) for b in made]):
            self.barriers.allocation.add(op)
        # The allocation itself ends with a barrier, after which every task reads the pointers.
        return frozenset(Access((b, Half.ANY), False, True) for b in made)

    def _loop(self, op: While | Scan, pending: Pending) -> Pending:
        halves = [c.buffer for c in self.buffers.carried[op] if c.buffer is not None]
        while True:
            now = pending
            if isinstance(op, While):
                now = self.block(op.condition.block, now)
                (condition,) = op.condition.block.terminator.operands
                now = self._step(op, now, self._accesses(condition, False, True))
            after = self.block(op.body.block, now)
            following = pending | {_swapped(a, halves) for a in after}
            if following == pending:
                break
            pending = following
        # A while leaves after its condition, a scan after the body (or at once).
        return frozenset(_forget_half(a, halves) for a in (now if isinstance(op, While) else pending | after))

    def _copies(self, terminator: Operation) -> list[Access]:
        """What the copies at the end of a region or of the function touch."""
        accesses: list[Access] = []
        owner = terminator.parent.parent.parent if terminator.parent and terminator.parent.parent else None
        if isinstance(terminator, Yield):
            if not isinstance(owner, While | Scan) or terminator.parent is not owner.body.block:
                return []
            carried = self.buffers.carried[owner]
            for value, carry in zip(terminator.values, carried):
                if carry.how is Carry.COPY and carry.buffer is not None:
                    accesses += self._accesses(value, False, True)
                    accesses.append(Access((carry.buffer, Half.NEXT), True, True))
            for value, stacked in zip(terminator.values[len(carried) :], self.buffers.stacked[owner], strict=True):
                if not stacked.direct:
                    accesses += self._accesses(value, False, True)
                    accesses += [Access((_storage(stacked.buffer), Half.ANY), True, True)]
            return accesses
        for value, how in zip(terminator.operands, self.buffers.outputs, strict=True):
            if how in (Output.COPY, Output.ALLOCATED_COPY):
                accesses += self._accesses(value, False, True)
        # Task 0 frees what was allocated.
        return accesses + [Access((b, Half.ANY), True, False) for b in self.plan.slots]

    def _accesses(self, value: Value, writes: bool, by_all: bool) -> list[Access]:
        ignored = (Where.CONSTANT, Where.INPUT, Where.PRIVATE)
        return [Access(place, writes, by_all) for place in self.buffers.places(value) if place[0].where not in ignored]

    def _step(self, op: Operation, pending: Pending, accesses: Iterable[Access]) -> Pending:
        accesses = list(accesses)
        if op in self.barriers.before or self._conflicts(pending, accesses):
            self.barriers.before.add(op)
            pending = NOTHING
        return pending | frozenset(accesses)

    def _conflicts(self, pending: Pending, accesses: Iterable[Access]) -> bool:
        return any(
            (a.writes or b.writes) and (a.by_all or b.by_all) and self._meet(a.place, b.place)
            for a in accesses
            for b in pending
        )

    def _meet(self, a: Place, b: Place) -> bool:
        if a[0] is b[0]:
            return Half.ANY in (a[1], b[1]) or a[1] is b[1]
        if a[0].where is not Where.ARENA or b[0].where is not Where.ARENA:
            return False
        key = (a[0], b[0])
        if key not in self._shared:
            self._shared[key] = _share_memory(*key)
        return self._shared[key]


def _storage(buffer: Buffer) -> Buffer:
    buffer = buffer.find()
    while buffer.where is Where.SLICE:
        assert buffer.base is not None
        buffer = buffer.base.find()
    return buffer


def _share_memory(a: Buffer, b: Buffer) -> bool:
    """Whether two planned buffers overlap, for any value of the symbols."""
    spans = []
    for buffer in (a, b):
        size = 2 * half_size(buffer) if buffer.alternating else buffer.size
        spans.append((buffer.offset, buffer.offset + size))
    ends = [*spans[0], *spans[1]]
    if not any(symbols_of(e) for e in ends):
        (a0, a1), (b0, b1) = ((evaluate(x, {}), evaluate(y, {})) for x, y in spans)
        return a0 < b1 and b0 < a1
    # Symbolic places are compared by form: one that starts where or after the other ends is apart from it.
    apart = is_non_negative(spans[1][0] - spans[0][1]) or is_non_negative(spans[0][0] - spans[1][1])
    return not apart


def _swapped(access: Access, halves: list[Buffer]) -> Access:
    buffer, half = access.place
    if buffer not in halves or half is Half.ANY:
        return access
    return Access((buffer, Half.NEXT if half is Half.CURRENT else Half.CURRENT), access.writes, access.by_all)


def _forget_half(access: Access, halves: list[Buffer]) -> Access:
    buffer, _ = access.place
    return Access((buffer, Half.ANY), access.writes, access.by_all) if buffer in halves else access
