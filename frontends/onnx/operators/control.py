"""If and Loop.

A condition that is known at import leaves one branch. Where sizes differ between branches, or change from one
iteration to the next, they get symbols of their own that the program binds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ValueInfoProto

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.listed import Entry, Listed
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.sequence import loop_over_sequences
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Dim, Region, TensorType, Value, symbol
from ds_compiler.ir.dims import symbols_of
from ds_compiler.ir.dtypes import bool_, i64
from ds_compiler.ops import Binary, Bind, Cast, Compare, If, Iota, Reshape, Scan, Size, Slice, Unary, While, Yield

_UNROLLED = 32
"""Most iterations of a loop that are written one after the other, when sizes change from one to the next."""

_GENERALISED = 4
"""How often a loop's body is imported again with more general sizes before it is given up."""


@onnx_op("If", lists=True)
def if_(e: Emitter, n: Node) -> Sequence[Entry | None]:
    condition = e.truth(e.reshape(n.input(0), ()))
    then, orelse = n.required("then_branch"), n.required("else_branch")
    known = e.array(condition)
    if known is not None:
        return n.importer.subgraph(then if known else orelse)
    blocks = Block(), Block()
    branches: list[list[Entry]] = []
    for block, graph in zip(blocks, (then, orelse), strict=True):
        with e.into(block):
            branches.append(n.importer.subgraph(graph))
    if any(isinstance(entry, Listed) for branch in branches for entry in branch):
        for block in blocks:
            _discard(block)
        n.needed(e, condition, "a condition that chooses between sequences or optionals")
    values = [tensors(n, branch) for branch in branches]
    for a, b in zip(*values, strict=True):
        if a.type.dtype != b.type.dtype:
            n.fail(f"the branches yield {a.type} and {b.type}")
        if a.type.rank != b.type.rank:
            return _assumed_branch(e, n, condition, blocks, values)
    return _join(e, condition, blocks, values)


def _assumed_branch(
    e: Emitter, n: Node, condition: Value, blocks: tuple[Block, Block], values: list[list[Value]]
) -> list[Value]:
    """Of branches whose results differ in rank, the one for equal sizes (an exporter's way to write
    ``x.squeeze(axis)``: drop the axis if it has size 1); the program checks that they are equal."""
    found = _equality(e, condition)
    if found is None:
        what = "the branches' results differ in rank: the condition"
        n.needed(e, condition, what, help="fix the sizes that it depends on")
    (a, b), holds = found
    taken, other = (0, 1) if holds else (1, 0)
    for operation in reversed(blocks[other]):
        operation.drop()
    e.assume(a, b)
    e.splice(blocks[taken])
    return values[taken]


def _equality(e: Emitter, condition: Value) -> tuple[tuple[Dim, Dim], bool] | None:
    """The sizes whose equality decides a bool scalar, and what it is when they are equal."""
    holds = True
    while True:
        operation = condition.defining_op
        match operation:
            case Reshape() | Cast():
                condition = operation.operand
            case Unary() if operation.kind == "not":
                condition, holds = operation.operand, not holds
            case Compare() if operation.kind in ("eq", "ne"):
                sides = [e.source(v) for v in (operation.lhs, operation.rhs)]
                if any(x is None or x.size != 1 or x.dtype.kind not in "iuO" for x in sides):
                    return None
                a, b = ((x if x.dtype == object else x.astype(object)).reshape(-1)[0] for x in sides if x is not None)
                return (a, b), holds == (operation.kind == "eq")
            case _:
                return None


def _join(e: Emitter, condition: Value, blocks: tuple[Block, Block], values: list[list[Value]]) -> list[Value]:
    """The results of an ``if``: what both branches know is known; sizes in which they differ are bound by each."""
    joined = [a if a is b or _known_alike(e, a, b) else None for a, b in zip(*values, strict=True)]
    yielded = [[v for v, whole in zip(branch, joined, strict=True) if whole is None] for branch in values]
    symbols: dict[tuple[Dim, Dim], str] = {}
    types = []
    for a, b in zip(*yielded, strict=True):
        shape: list[Dim] = []
        for x, y in zip(a.type.shape, b.type.shape, strict=True):
            if x != y and (x, y) not in symbols:
                symbols[x, y] = e.fresh_symbol()
            shape.append(x if x == y else symbol(symbols[x, y]))
        types.append(a.type.with_shape(shape))
    for side, (block, branch) in enumerate(zip(blocks, yielded, strict=True)):
        with e.into(block):
            for pair, name in symbols.items():
                e.insert(Bind(e.size(pair[side]), name))
            e.insert(Yield(tuple(branch)))
    stated = tuple(types) if symbols else None
    if not types and not any(op.has_side_effects for block in blocks for op in block):
        results = []
    else:
        results = e.insert(If(condition, Region(blocks[0]), Region(blocks[1]), stated))
    remaining = iter(results)
    return [next(remaining) if whole is None else whole for whole in joined]


def _known_alike(e: Emitter, a: Value, b: Value) -> bool:
    x, y = e.contents(a), e.contents(b)
    return x is not None and y is not None and a.type == b.type and x.dtype == y.dtype and np.array_equal(x, y)


def tensors(n: Node, entries: Sequence[Entry]) -> list[Value]:
    for entry in entries:
        if isinstance(entry, Listed):
            n.fail(f"its graph yields {entry}, expected a tensor")
    return [entry for entry in entries if isinstance(entry, Value)]


# -- loops --------------------------------------------------------------------------------------------------------
class _Body:
    """A loop's body graph, imported as often as needed.

    Attributes:
        types: of the carried values; sizes that change from one iteration to the next are symbols of `changing`.
        changing: symbols, with each one's carried value and axis.
    """

    def __init__(self, e: Emitter, n: Node, inits: Sequence[Value]) -> None:
        self.e, self.n = e, n
        self.graph: GraphProto = n.required("body")
        self.inits = list(inits)
        self.types = [v.type for v in inits]
        self.changing: dict[str, tuple[int, int]] = {}

    def generalise(self, found: Sequence[TensorType]) -> bool:
        """Give sizes that an iteration changes symbols; whether there were new ones."""
        again = False
        for index, (expected, new) in enumerate(zip(self.types, found, strict=True)):
            if expected.dtype != new.dtype or expected.rank != new.rank:
                self.n.fail(f"carried value {index} is {expected} before an iteration and {new} after it")
            shape = list(expected.shape)
            for axis, (a, b) in enumerate(zip(expected.shape, new.shape, strict=True)):
                if a != b and str(a) not in self.changing:
                    name = self.e.fresh_symbol()
                    self.changing[name] = (index, axis)
                    shape[axis] = symbol(name)
                    again = True
            self.types[index] = expected.with_shape(shape)
        return again

    def enter(self) -> list[Value]:
        """The initial values, under the types that the loop carries."""
        for name, (index, axis) in self.changing.items():
            self.e.insert(Bind(self.e.size(self.inits[index].type.shape[axis]), name))
        return [self.e.reshape(v, t.shape) for v, t in zip(self.inits, self.types, strict=True)]

    def following(self, values: Sequence[Value]) -> list[Value]:
        """An iteration's values under the types that the loop carries, after the sizes that changed are bound.

        A new size gets a symbol of its own first, under which a slice copies the value: no rewrite then joins what is
        computed with the old size and the view that states the new one by the same symbol.
        """
        e = self.e
        moved = list(values)
        names: dict[str, str] = {}
        for name, (index, axis) in self.changing.items():
            names[name] = e.fresh_symbol()
            e.insert(Bind(e.size(values[index].type.shape[axis]), names[name]))
        for index, value in enumerate(values):
            new = {axis: symbol(names[name]) for name, (i, axis) in self.changing.items() if i == index}
            if new:
                sizes = tuple(new.get(a, d) for a, d in enumerate(value.type.shape))
                zeros, ones = (0,) * len(sizes), (1,) * len(sizes)
                moved[index] = e.insert(Slice(value, zeros, sizes, ones))[0]
        for name, new_name in names.items():
            e.insert(Bind(e.insert(Size(symbol(new_name)))[0], name))
        return [e.reshape(v, t.shape) for v, t in zip(moved, self.types, strict=True)]


def _loop_body(body: _Body, iteration: Value, carried: Sequence[Value]) -> tuple[Value, list[Value], list[Value]]:
    """One iteration, inserted where the emitter stands: whether to go on, carried values, stacked values."""
    e = body.e
    arguments = [iteration, e.constant(np.asarray(True)), *carried]
    declared = [len(i.type.tensor_type.shape.dim) for i in body.graph.input[:2]]
    arguments[:2] = [e.reshape(v, (1,) * rank) for v, rank in zip(arguments[:2], declared, strict=True)]
    go_on, *values = tensors(body.n, body.n.importer.subgraph(body.graph, arguments))
    values = [_as_declared(e, v, o) for v, o in zip(values, body.graph.output[1:], strict=True)]
    count = len(carried)
    return e.truth(e.reshape(go_on, ())), values[:count], values[count:]


def _as_declared(e: Emitter, value: Value, declared: ValueInfoProto) -> Value:
    """`value` with the sizes that its graph declares where data decides them; the program checks them."""
    shape = list(value.type.shape)
    dims = declared.type.tensor_type.shape.dim
    if len(dims) != len(shape):
        return value
    for axis, (size, dim) in enumerate(zip(shape, dims, strict=True)):
        if dim.HasField("dim_value") and any(name.startswith("_") for name in symbols_of(size)):
            e.assume(size, int(dim.dim_value))
            shape[axis] = int(dim.dim_value)
    return e.reshape(value, shape)


@onnx_op("Loop", lists=True)
def loop(e: Emitter, n: Node) -> Sequence[Entry | None]:
    """A loop that always runs through is a scan; others are a ``while``. A loop that may end early and stacks
    values runs twice: the first time tells how often, which the second, a scan, then knows. One that carries a
    sequence is written out."""
    limit, start = n.optional(0), n.optional(1)
    limit = None if limit is None else e.cast(e.reshape(limit, ()), i64)
    start = None if start is None else e.truth(e.reshape(start, ()))
    if any(isinstance(entry, Listed) for entry in n.entries[2:]):
        return loop_over_sequences(e, n, limit, start)
    body = _Body(e, n, [n.input(i) for i in range(2, len(n.inputs))])
    known_start = None if start is None else e.array(start)
    if known_start is not None:
        start = None
        if not known_start:
            limit = e.constant(np.asarray(0))
    for _ in range(_GENERALISED):
        block = Block([*body.types, TensorType((), i64)])
        with e.into(block):
            *carried, iteration = block.arguments
            go_on, values, stacked = _loop_body(body, iteration, carried)
            if not body.generalise([v.type for v in values]):
                e.insert(Yield((*(v for v in body.following(values)), *stacked)))
                break
        _discard(block)
    else:
        n.fail("the sizes of its values do not settle")
    runs_through = e.array(go_on)
    length = None
    if runs_through is not None and runs_through:
        if limit is None:
            n.fail("has no trip count, and its condition is always true")
        count = limit if start is None else e.select(start, limit, e.constant(np.asarray(0)))
        length = e.dims(count)
        if body.changing and length is not None and isinstance(length[0], int) and length[0] <= _UNROLLED:
            _discard(block)
            return _unrolled(body, max(length[0], 0), len(stacked))
    else:
        results = _while(body, limit, start)
        if not stacked:
            _discard(block)
            return results[2:]
        count = results[0]
    trips = _trips(e, count)
    for value in stacked:
        changing = value.type.symbols & body.changing.keys()
        if changing:
            n.fail(f"a stacked value is {value.type}, which changes from one iteration to the next")
    numbers = e.insert(Iota((trips,), 0, i64))[0]
    inits = body.enter()
    # the scan's body takes the carried values, then the slice of `numbers`
    return e.insert(Scan(tuple(inits), (numbers,), trips, Region(block)))


def _trips(e: Emitter, count: Value) -> Dim:
    """An iteration count as a size; negative ones are none."""
    known = e.dims(count)
    if known is not None and isinstance(known[0], int):
        return max(known[0], 0)
    return e.bind(count, "trips")


def _discard(block: Block) -> None:
    for operation in reversed(block):
        operation.drop()


def _unrolled(body: _Body, length: int, stacks: int) -> list[Value]:
    e = body.e
    carried = list(body.inits)
    rows: list[list[Value]] = []
    for index in range(length):
        _, carried, stacked = _loop_body(body, e.constant(np.asarray(index)), carried)
        rows.append([e.reshape(v, (1, *v.type.shape)) for v in stacked])
    if stacks and not rows:
        body.n.fail("stacks values of an unknown size in no iteration")
    return [*carried, *(e.concat(column, 0) for column in zip(*rows, strict=True))]


def _while(body: _Body, limit: Value | None, start: Value | None) -> list[Value]:
    """Results of the loop as a ``while``: the number of iterations, the condition, the carried values."""
    e = body.e
    scalar = TensorType((), i64)
    types = [scalar, TensorType((), bool_), *body.types]
    condition = Block(types)
    with e.into(condition):
        go_on: Value = condition.arguments[1]
        if limit is not None:
            more = e.compare("lt", condition.arguments[0], limit)
            go_on = e.binary("and", go_on, more)
        e.insert(Yield((go_on,)))
    block = Block(types)
    with e.into(block):
        iteration, _, *carried = block.arguments
        again, values, _ = _loop_body(body, iteration, carried)
        following = e.insert(Binary(iteration, e.constant(np.asarray(1)), "add"))[0]
        e.insert(Yield((following, again, *body.following(values))))
    zero = e.constant(np.asarray(0))
    first = e.constant(np.asarray(True)) if start is None else start
    return e.insert(While((zero, first, *body.enter()), Region(condition), Region(block)))
