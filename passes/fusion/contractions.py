"""Groups around a contraction: the elementwise operations that follow it become its epilogue."""

from __future__ import annotations

from ds_compiler.ir import Operation, Value
from ds_compiler.ops import ConvWeightGradient, Transpose
from ds_compiler.passes.fusion.groups import Group, Grouping
from ds_compiler.passes.fusion.kinds import CONTRACTION, ELEMENTWISE, contraction_strategy, is_copy

_MOST_RESULTS = 3


def with_epilogue(grouping: Grouping, root: Operation, strategy: str) -> Group:
    """The root and the longest run of elementwise followers that leaves one value alive, or few in its place."""
    best = Group(strategy, root, {root: None})
    group = Group(strategy, root, {root: None})
    if len(root.results) != 1 or isinstance(root, ConvWeightGradient):  # its sums are in memory when they are done
        return best
    while len(group.members) < grouping.max_ops:
        follower = _follower(grouping, group)
        if follower is None:
            break
        group.members[follower] = None
        group.sink = follower
        outside = [r for m in group.members for r in m.results if any(u not in group.members for u in r.users)]
        # Several save a pass over the product, where no more are stored than without (an activation and its derivative,
        # a weight and its moments).
        worth = strategy == "matmul" and sum(not _in_memory(v) for v in outside) <= 1
        if len(outside) == 1 or (len(outside) <= _MOST_RESULTS and worth):
            sink = outside[0].defining_op
            assert sink is not None
            best = Group(strategy, sink, dict(group.members))
    _add_producers(grouping, best)
    _add_copies(grouping, best)
    return best


def _in_memory(value: Value) -> bool:
    """Whether a value is stored in any case: the block returns it, or a contraction reads it."""
    return any(u.is_terminator or contraction_strategy(u) is not None for u in value.users)


def _follower(grouping: Grouping, group: Group) -> Operation | None:
    """The next operation that can join a contraction's epilogue."""
    users = {u for m in group.members for r in m.results for u in r.users}
    for user in sorted(users, key=grouping.where):
        if user in group.members or user in grouping.group_of or user.parent is not grouping.block:
            continue
        if isinstance(user, Transpose):
            # Stores stay contiguous vectors as long as the last axis stays last.
            if user.permutation[-1] == len(user.permutation) - 1 and len(user.operand.uses) == 1:
                return user
            continue
        if not isinstance(user, ELEMENTWISE):
            continue
        outside = [source for source in grouping.sources(user) if source not in group.members]
        if not any(grouping.depends_on(source, group.members) for source in outside):
            return user
    return None


def _add_producers(grouping: Grouping, group: Group) -> None:
    """Compute what only the epilogue reads, element by element, inside the kernel."""
    stack: list[Operation] = [m for m in group.members if isinstance(m, ELEMENTWISE)]
    while stack and len(group.members) < grouping.max_ops:
        member = stack.pop()
        for source in (v.defining_op for v in member.operands):
            if source is None or source in group or source in grouping.group_of or source.parent is not grouping.block:
                continue
            alike = isinstance(source, ELEMENTWISE) and source.results[0].type.shape == member.results[0].type.shape
            if alike and all(u in group.members for u in source.results[0].users):
                group.members[source] = None
                stack.append(source)


def _add_copies(grouping: Grouping, group: Group) -> None:
    """Compute broadcasts and scalars inside the kernel."""
    stack = [v for m in group.members if not isinstance(m, CONTRACTION) for v in m.operands]
    while stack:
        source = stack.pop().defining_op
        if source is None or source in group or source.parent is not grouping.block or not is_copy(source):
            continue
        group.copies[source] = None
        stack.extend(source.operands)
