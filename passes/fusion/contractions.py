"""Groups around a contraction: the elementwise operations that follow it become its epilogue."""

from __future__ import annotations

from ds_compiler.ir import Operation
from ds_compiler.ops import ConvWeightGradient, Transpose
from ds_compiler.passes.fusion.groups import Group, Grouping
from ds_compiler.passes.fusion.kinds import CONTRACTION, ELEMENTWISE, is_copy


def with_epilogue(grouping: Grouping, root: Operation, strategy: str) -> Group:
    """The root and the longest run of elementwise followers that leaves one value alive."""
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
        if len(outside) == 1:
            sink = outside[0].defining_op
            assert sink is not None
            best = Group(strategy, sink, dict(group.members))
    _add_copies(grouping, best)
    return best


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


def _add_copies(grouping: Grouping, group: Group) -> None:
    """Compute broadcasts and scalars inside the kernel."""
    stack = [v for m in group.members if not isinstance(m, CONTRACTION) for v in m.operands]
    while stack:
        source = stack.pop().defining_op
        if source is None or source in group or source.parent is not grouping.block or not is_copy(source):
            continue
        group.copies[source] = None
        stack.extend(source.operands)
