"""Groups become `fusion` operations, in an order that respects what each reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ds_compiler.ir import Block, Operation, Region, Value
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.location import Location
from ds_compiler.ops import Composite, Fusion, Yield
from ds_compiler.passes.fusion.groups import Group, Grouping
from ds_compiler.passes.fusion.kinds import is_copy


def rewrite(grouping: Grouping) -> None:
    """Replace the block's operations by fusions, one a group, and what is in no group."""
    order = _schedule(grouping)
    for unit in order:
        if isinstance(unit, Group):
            _materialise(grouping, unit)
        else:
            grouping.block.append(unit.detach())
    for op in reversed(list(grouping.block)):  # cheap producers that nobody reads any more
        if is_copy(op) and not any(r.uses for r in op.results):
            op.erase()


def _schedule(grouping: Grouping) -> list[Group | Operation]:
    """Groups and single operations, each after what it reads, else in the order of their last operation (contractions
    with several results: of `_early`)."""
    units: list[Group | Operation] = []
    begun: set[int] = set()
    placed: set[int] = set()

    def place(op: Operation) -> None:
        unit: Group | Operation = grouping.group_of.get(op, op)
        if id(unit) in placed:
            return
        if id(unit) in begun:
            raise CompileError("fuse: two kernels would each need the other's result", location=op.location)
        begun.add(id(unit))
        own: Sequence[Operation] = list(unit.members) + list(unit.copies) if isinstance(unit, Group) else [op]
        for member in own:
            for source in sorted(set(grouping.sources(member)), key=grouping.where):
                if source not in own:
                    place(source)
        placed.add(id(unit))
        units.append(unit)

    early: dict[Operation, list[Operation]] = {}
    for each in grouping.groups:
        if each.strategy != "loop" and len(each.outputs()) > 1:
            early.setdefault(_early(grouping, each), []).append(each.sink)
    for op in grouping.ops:
        group = grouping.group_of.get(op)
        if group is None or op is group.sink:
            place(op)
        for sink in early.get(op, ()):
            place(op)
            place(sink)
    return units


def _early(grouping: Grouping, group: Group) -> Operation:
    """Where a contraction belongs whose epilogue may have been written much later (a weight's update): at its root, as
    what the root reads need not be kept then; but behind other readers of the arguments that the epilogue updates, so
    that it may overwrite them."""
    first = next(iter(group.members))
    arguments = {v for m in group.members if m is not first for v in m.operands if v in grouping.block.arguments}
    types = {v.type for v in group.outputs()}
    readers = {u for v in arguments if v.type in types for u in v.users if u not in group}
    return max((first, *readers), key=grouping.where)


def _in_order(grouping: Grouping, group: Group) -> list[Operation]:
    """Members in program order, cheap producers in front of their first reader: wherever those stood, equal groups
    make equal kernels."""
    placed: dict[Operation, None] = {}

    def place(op: Operation) -> None:
        for operand in op.operands:
            source = operand.defining_op
            if source is not None and source in group.copies and source not in placed:
                place(source)
        placed[op] = None

    for member in sorted(group.members, key=grouping.where):
        place(member)
    return list(placed)


def _materialise(grouping: Grouping, group: Group) -> None:
    outputs = group.outputs()
    everything = _in_order(grouping, group)
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
            mapping.update(zip(op.results, inline(op, body.append, mapping), strict=True))
        else:
            body.append(op.clone(mapping))
        if op in group.members:
            location = location.merge(op.location)
    body.append(Yield(tuple(mapping[v] for v in outputs)))
    fusion = Fusion(tuple(inputs), Region(body), group.strategy, location=location)  # type: ignore[call-arg]
    grouping.block.append(fusion)
    for old, new in zip(outputs, fusion.results, strict=True):
        new.hint = old.hint
        old.replace_all_uses_with(new)
    for op in sorted(group.members, key=grouping.where, reverse=True):
        op.drop()


def inline(
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
