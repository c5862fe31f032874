"""What surrounds attention that is outlined already moves into its composites: a kernel reads and writes through views.

%q = transpose %x                       %r, … = composite(%x, …) { transpose, …, transpose }
%o, … = composite(%q, …)           →
%r = transpose %o
"""

from __future__ import annotations

from ds_compiler.ir import Block, Builder, Operation, Region, Value
from ds_compiler.ops import Composite, DotGeneral, Transpose, Yield
from ds_compiler.ops.derivatives.terms import inverse
from ds_compiler.passes.attention_operands import view_of


def with_views(op: Composite) -> Composite:
    """`op`, or what takes its place: results that nobody reads are dropped, transposes of results written as such."""
    kept = [r for r in op.results if r.uses]
    orders = [_order(r) if len(kept) > 1 or op.callee != "attention" else None for r in kept]
    old = op.body.block
    sources: dict[Value, Value] = {}
    chains: dict[Value, list[Operation]] = {}
    for argument, value in zip(old.arguments, op.inputs, strict=True):
        sources[argument], chains[argument] = _behind(argument, value)
    inputs = list(dict.fromkeys(sources.values()))
    if not kept or (inputs == list(op.inputs) and len(kept) == len(op.results) and not any(orders)):
        return op
    block = Block([v.type for v in inputs], [v.hint for v in inputs])
    builder = Builder(block, location=op.location)
    arguments: dict[Value, Value] = dict(zip(inputs, block.arguments, strict=True))
    mapping: dict[Value, Value] = {}
    for argument in old.arguments:
        local = {sources[argument]: arguments[sources[argument]]}
        for view in chains[argument]:
            builder.insert(view.clone(local))
        mapping[argument] = local[chains[argument][-1].results[0]] if chains[argument] else local[sources[argument]]
    for nested in old:
        if not nested.is_terminator:
            builder.insert(nested.clone(mapping))
    yields = [mapping[old.terminator.operands[r.index]] for r in kept]
    yields = [v if o is None else builder.emit(Transpose(v, o)) for v, o in zip(yields, orders, strict=True)]
    builder.insert(Yield(tuple(yields)))
    outer = Builder(before=op, location=op.location)
    made = outer.insert(Composite(tuple(inputs), Region(block), op.callee, op.options))
    for result, new, order in zip(kept, made.results, orders, strict=True):
        if order is None:
            result.replace_all_uses_with(new)
            continue
        for user in list(result.users):
            if isinstance(user, Transpose) and user.permutation == order:
                user.replace_with(new)
        if result.uses:
            result.replace_all_uses_with(outer.emit(Transpose(new, inverse(order))))
    op.erase()
    return made


def _order(result: Value) -> tuple[int, ...] | None:
    """The transpose that a reader takes of a result, if its rows stay together."""
    orders = [u.permutation for u in result.users if isinstance(u, Transpose)]
    return next((o for o in orders if o[-1] == len(o) - 1), None)


def _behind(argument: Value, value: Value) -> tuple[Value, list[Operation]]:
    """What the operand of a product is a view of, and the operations of the view, first to last."""
    walked: set[int] = set()
    for user in argument.users:
        if not isinstance(user, DotGeneral):
            return value, []
        for side in ("lhs", "rhs"):
            if getattr(user, side) is argument:
                walked |= {*getattr(user, f"{side}_free"), *getattr(user, f"{side}_contract")}
    source = view_of(value, walked).source
    chain: list[Operation] = []
    while value is not source:
        op = value.defining_op
        assert op is not None
        chain.insert(0, op)
        value = op.operands[0]
    return source, chain
