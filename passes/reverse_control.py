"""Reverse mode through control flow and stated derivatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ds_compiler.ir import Block, Builder, Region, TensorType, Value, symbol
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Binary, Bind, Constant, CustomCall, If, Scan, While, Yield
from ds_compiler.ops.derivatives import Terms
from ds_compiler.passes.inline import fitted
from ds_compiler.passes.reverse import Reverse, region_rule


def _captured(regions: Iterable[Region], active: set[Value]) -> list[Value]:
    """Active values of the enclosing code that regions read."""
    return list(dict.fromkeys(v for region in regions for op in region.walk() for v in op.operands if v in active))


def _differentiated(
    outer: Reverse,
    terms: Terms,
    block: Block,
    mapping: dict[Value, Value],
    active: Iterable[Value],
    cotangents: Sequence[Value | None],
) -> Reverse:
    """Run a copy of `block` inside `terms`, then its sweep, given cotangents of what it yields."""
    copies = [terms.insert(op.clone(mapping)) for op in block if not op.is_terminator]
    inner = Reverse(outer.inliner, terms, active)
    operations = inner.follow(copies)
    for value, cotangent in zip(block.terminator.operands, cotangents, strict=True):
        inner.add(inner.current(mapping.get(value, value)), cotangent)
    inner.sweep(operations)
    return inner


@region_rule(If)
def if_(reverse: Reverse, op: If, cotangents: Sequence[Value | None]) -> None:
    """The branch that ran is run again, and swept."""
    captured = _captured(op.regions, reverse.active)
    branches: list[Region] = []
    for region in op.regions:
        block = Block()
        terms = Terms(block, location=op.location)
        inner = _differentiated(reverse, terms, region.block, {}, captured, cotangents)
        terms.insert(Yield(tuple(inner.cotangent(v) for v in captured)))
        branches.append(Region(block))
    results = reverse.terms.insert(If(op.condition, then=branches[0], orelse=branches[1])).results
    for value, result in zip(captured, results, strict=True):
        reverse.add(value, result)


@region_rule(Scan)
def scan(reverse: Reverse, op: Scan, cotangents: Sequence[Value | None]) -> None:
    """Each step saves what it started from; the sweep takes the steps in opposite order and runs each again."""
    terms, body, carried = reverse.terms, op.body.block, len(op.inits)
    captured = _captured(op.regions, reverse.active)
    saving = _saving_states(op)
    saved = saving.results[len(op.results) :]
    reverse.replace(op, saving.results[: len(op.results)])

    state = [i for i in range(carried) if body.arguments[i].type.dtype.is_float]
    stacked = [i for i in range(carried, len(cotangents)) if cotangents[i] is not None]
    given = [cotangents[i] or terms.zeros(body.arguments[i].type) for i in state]
    sums = [terms.zeros(v.type) for v in captured]
    inputs = [*saved, *op.inputs, *(c for c in (cotangents[i] for i in stacked) if c is not None)]

    carries = [v.type for v in (*given, *sums)]
    block = Block([*carries, *(v.type.with_shape(v.type.shape[1:]) for v in inputs)])
    inside = Terms(block, location=op.location)
    slices = block.arguments[len(carries) :]
    mapping: dict[Value, Value] = dict(zip(body.arguments, slices))
    yields: list[Value | None] = [None] * len(cotangents)
    for index, argument in zip((*state, *stacked), (*block.arguments[: len(state)], *slices[len(body.arguments) :])):
        yields[index] = argument
    swept = [i for i, v in enumerate(op.inputs, carried) if v in reverse.active]
    active = [*(mapping[body.arguments[i]] for i in (*state, *swept)), *captured]
    inner = _differentiated(reverse, inside, body, mapping, active, yields)

    out = [inner.cotangent(mapping[body.arguments[i]]) for i in state]
    for value, before in zip(captured, block.arguments[len(state) : len(carries)], strict=True):
        found = inner.found(value)
        out.append(before if found is None else inside.add(before, found))
    out += [inner.cotangent(mapping[body.arguments[i]]) for i in swept]
    inside.insert(Yield(tuple(out)))
    back = terms.insert(Scan((*given, *sums), tuple(inputs), op.length, Region(block), not op.reverse))
    read = [*(op.operands[i] for i in state), *captured, *(op.operands[i] for i in swept)]
    for value, result in zip(read, back.results, strict=True):
        reverse.add(value, result)


def _saving_states(op: Scan) -> Scan:
    """A copy of a scan, in front of it, that also stacks the carried values that each step starts from."""
    region = op.body.clone({})
    block = region.block
    _yield_instead(block, (*block.terminator.operands, *block.arguments[: len(op.inits)]))
    return Builder(before=op).insert(Scan(op.inits, op.inputs, op.length, region, op.reverse))


def _yield_instead(block: Block, values: Sequence[Value]) -> None:
    location = block.terminator.location
    block.terminator.drop()
    block.append(Yield(tuple(values)).at(location))


@region_rule(While)
def while_(reverse: Reverse, op: While, cotangents: Sequence[Value | None]) -> None:
    """The steps are counted; then the loop is a scan of that length."""
    inits = op.inits
    counting = _counting(op)
    count = counting.results[-1]
    body = op.body.clone({})
    reverse.replace(op, counting.results[:-1])
    name = reverse.inliner.fresh("_steps")
    reverse.terms.insert(Bind(count, name))
    steps = reverse.terms.insert(Scan(inits, (), symbol(name), body))
    scan(reverse, steps, cotangents)


def _counting(op: While) -> While:
    """A copy of a loop, in front of it, whose last result is the number of its steps."""
    builder = Builder(before=op)
    condition, body = op.condition.clone({}), op.body.clone({})
    condition.block.add_argument(TensorType((), i64))
    before = body.block.add_argument(TensorType((), i64))
    inside = Builder(before=body.block.terminator)
    one = inside.emit(Constant(np.asarray(1, np.int64)))
    _yield_instead(body.block, (*body.block.terminator.operands, inside.emit(Binary(before, one, "add"))))
    zero = builder.emit(Constant(np.asarray(0, np.int64)))
    return builder.insert(While((*op.inits, zero), condition, body))


@region_rule(CustomCall)
def custom_call(reverse: Reverse, op: CustomCall, cotangents: Sequence[Value | None]) -> None:
    """The stated forward function runs instead, and the stated backward function is the derivative."""
    inliner, terms, inputs = reverse.inliner, reverse.terms, op.inputs
    types = [r.type for r in op.results]
    builder = Builder(before=op)
    forward = inliner.copy(builder, inliner.module.functions[op.forward], inputs)
    results, residuals = forward[: len(types)], forward[len(types) :]
    backward = inliner.module.functions[op.backward]
    given = [
        terms.zeros(t) if cotangent is None else cotangent
        for cotangent, t in zip(cotangents, types, strict=True)
        if t.dtype.is_float
    ]
    reverse.replace(op, [fitted(builder, v, t) for v, t in zip(results, types, strict=True)])
    gradients = inliner.copy(terms, backward, [*residuals, *given])
    for value, gradient in zip((v for v in inputs if v.type.dtype.is_float), gradients, strict=True):
        reverse.add(value, gradient)
