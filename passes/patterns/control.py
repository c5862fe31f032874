"""Control flow that is decided at compile time."""

from __future__ import annotations

from ds_compiler.ir import Builder, Region, Value
from ds_compiler.ops import If, Scan
from ds_compiler.passes.matching import reshaped, splat
from ds_compiler.passes.patterns.canonical import pattern
from ds_compiler.passes.rewriter import Rewrite


def inlined(region: Region, arguments: dict[Value, Value], builder: Builder) -> list[Value]:
    """Copies the region's operations to the builder's place; returns what it yields there."""
    mapping = dict(arguments)
    for op in region.block:
        if not op.is_terminator:
            builder.insert(op.clone(mapping))
    return [mapping.get(v, v) for v in region.block.terminator.operands]


@pattern(If)
def decided_if(op: If, builder: Builder) -> Rewrite:
    """An if with a constant condition is the branch taken."""
    condition = splat(op.condition)
    if condition is None:
        return None
    taken = op.then if condition else op.orelse
    yielded = [v.type for v in taken.block.terminator.operands]
    values = inlined(taken, {}, builder)
    # The branch's sizes may be written otherwise than the result's (which it binds): a view states the latter.
    return [
        v if t == r.type else reshaped(builder, v, r.type.shape)
        for v, t, r in zip(values, yielded, op.results, strict=True)
    ]


@pattern(If)
def equal_branches(op: If, builder: Builder) -> Rewrite:
    """An if whose branches yield the same outer values needs no branch."""
    then, orelse = op.then.block.terminator.operands, op.orelse.block.terminator.operands
    if then != orelse or any(nested.has_side_effects for nested in op.walk()):
        return None
    inside = {r for nested in op.walk() if nested is not op for r in nested.results}
    if any(v in inside for v in then) or any(v.type != r.type for v, r in zip(then, op.results, strict=True)):
        return None
    return list(then)


@pattern(Scan)
def single_iteration(op: Scan, builder: Builder) -> Rewrite:
    """A scan over one element is its body."""
    if op.length != 1:
        return None
    carried = len(op.inits)
    values: list[Value] = list(op.inits)
    values += [reshaped(builder, v, v.type.shape[1:]) for v in op.inputs]
    results = inlined(op.body, dict(zip(op.body.block.arguments, values, strict=True)), builder)
    stacked = [reshaped(builder, v, (1, *v.type.shape)) for v in results[carried:]]
    return [*results[:carried], *stacked]
