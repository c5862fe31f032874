"""Groups of operations that become one kernel each, and the dependences between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ds_compiler.ir import Block, Operation, Value
from ds_compiler.ir.symbols import mentioned_symbols
from ds_compiler.ops import Bind


@dataclass(eq=False)
class Group:
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


class Grouping:
    """The groups of one block so far, and what depends on what between them."""

    def __init__(self, block: Block, max_ops: int) -> None:
        self.block, self.max_ops = block, max_ops
        self.ops = list(block)
        self.position = {op: n for n, op in enumerate(self.ops)}
        self.binds: dict[str, list[Bind]] = {}  # in order: a loop's body may bind the symbol of a size anew
        for op in self.ops:
            if isinstance(op, Bind):
                self.binds.setdefault(op.symbol, []).append(op)
        self.group_of: dict[Operation, Group] = {}
        self.groups: list[Group] = []
        # For each position, the first member of the groups that reach over it: from there on, what stands in front of
        # an operation may need it nevertheless.
        self.lowest = list(range(len(self.ops)))

    def adopt(self, group: Group) -> None:
        """Add a group, whose members belong to none."""
        self.groups.append(group)
        for op in group.members:
            self.group_of[op] = group
        places = [self.position[op] for op in group.members]
        first = min(places)
        for place in range(first + 1, max(places) + 1):
            self.lowest[place] = min(self.lowest[place], first)

    # -- dependences ---------------------------------------------------------------------------
    def where(self, op: Operation) -> int:
        """Position of an operation, or of the one in this block that it is nested in."""
        while op.parent is not self.block:
            owner = op.parent.parent.parent if op.parent is not None and op.parent.parent is not None else None
            if not isinstance(owner, Operation):
                return len(self.ops)
            op = owner
        return self.position.get(op, len(self.ops))

    def sources(self, op: Operation) -> Iterable[Operation]:
        """Operations of this block that `op` (its regions included) needs: those that compute what it reads, and those
        that bind the sizes it mentions."""
        for nested in op.walk():
            for operand in nested.operands:
                source = operand.defining_op
                if source is not None and source in self.position:
                    yield source
            if self.binds:
                for symbol in sorted(mentioned_symbols(nested) & self.binds.keys()):
                    before = [bind for bind in self.binds[symbol] if self.position[bind] < self.position[op]]
                    if before:
                        yield before[-1]

    def depends_on(self, start: Operation, members: Iterable[Operation]) -> bool:
        """Whether computing `start` needs a result of `members`."""
        wanted = set(members)
        first = min(self.position[m] for m in wanted)
        while self.lowest[first] < first:
            first = self.lowest[first]
        stack = [start]
        seen: set[Operation] = set()
        while stack:
            op = stack.pop()
            if op in wanted:
                return True
            if op in seen or self.position[op] < first:
                continue
            units: Iterable[Operation] = self.group_of[op].members if op in self.group_of else (op,)
            seen.update(units)
            for unit in units:
                stack.extend(self.sources(unit))
        return False
