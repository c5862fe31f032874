"""`vmap`: a function replayed operation by operation on values with one more axis, the first.

Most operations take the axis along. What has no rule of its own (a convolution with a kernel for each example, a
window whose corner differs) runs in a ``scan`` over the axis, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.creation import iota
from ds_compiler.frontends.trace.frame import Frame, Scope, current, located, nested_block, tracing_into
from ds_compiler.ir import Dim, Function, Operation, Region, TensorType, Value
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Bind,
    Broadcast,
    Call,
    Cast,
    Check,
    Compare,
    Concat,
    Conv,
    Cumulative,
    DotGeneral,
    DynamicSlice,
    Gather,
    GatherElements,
    GatherND,
    If,
    Jvp,
    Pad,
    Predicate,
    Reduce,
    ReduceWindow,
    Reshape,
    Scan,
    ScatterElements,
    ScatterND,
    Select,
    Slice,
    StopGradient,
    TopK,
    Transpose,
    Unary,
    Vjp,
    While,
    Yield,
)


@dataclass(frozen=True)
class Lane:
    """A value; `batched`: with the axis in front."""

    value: Value
    batched: bool


_ELEMENTWISE = (Unary, Binary, Compare, Select, Cast, Predicate, StopGradient)


def replay(function: Function, arguments: Sequence[Lane], size: Dim) -> list[Lane]:
    """The results of `function` for `arguments`, `size` being the batch's."""
    return _Batcher(size).region(function.body, arguments)


class _Batcher:
    """Attributes:
    running: of the batch's examples those that run the code inserted now (a bool vector, and its scope); None: all.
    """

    def __init__(self, size: Dim, running: tuple[Value, Scope] | None = None) -> None:
        self.size = size
        self.running = running
        self.lanes: dict[Value, Lane] = {}

    def region(self, region: Region, arguments: Sequence[Lane]) -> list[Lane]:
        """What the region hands out, inserted where the trace stands."""
        self.lanes.update(zip(region.block.arguments, arguments))
        for operation in region.block:
            operands = [self.lane(v) for v in operation.operands]
            if operation.is_terminator:
                return operands
            for result, lane in zip(operation.results, self.operation(operation, operands)):
                self.lanes[result] = lane
        raise ValueError("a block ends without a terminator")

    def lane(self, value: Value) -> Lane:
        return self.lanes.get(value, Lane(value, False))

    # -- helpers ------------------------------------------------------------------------------------
    def full(self, lane: Lane) -> Value:
        """The value with the axis."""
        if lane.batched:
            return lane.value
        shape = lane.value.type.shape
        return current().emit(Broadcast(lane.value, (self.size, *shape), tuple(range(1, len(shape) + 1))))

    def emit(self, operation: Operation) -> list[Lane]:
        return [Lane(v, True) for v in current().insert(operation)]

    # -- operations -----------------------------------------------------------------------------------
    def operation(self, op: Operation, operands: list[Lane]) -> list[Lane]:
        if isinstance(op, Bind):
            raise located("vmap: a size depends on data")
        match op:
            case If():
                return self.if_(op, operands[0])
            case While():
                return self.while_(op, operands)
            case Scan():
                return self.scan(op, operands)
            case Call() | Vjp() | Jvp():
                if any(lane.batched for lane in operands) or self.running is not None:
                    return self.call(op, operands)
            case Check():
                return self.check(op, operands[0])
        if not any(lane.batched for lane in operands) and not op.regions:
            mapping = {old: lane.value for old, lane in zip(op.operands, operands)}
            return [Lane(v, False) for v in current().insert(op.clone(mapping))]
        if isinstance(op, _ELEMENTWISE):
            return self.cloned(op, operands)
        rule = _RULES.get(type(op))
        found = rule(self, op, operands) if rule is not None else None
        return self.one_by_one(op, operands) if found is None else found

    def cloned(self, op: Operation, operands: Sequence[Lane]) -> list[Lane]:
        """The same operation on values that all have the axis."""
        mapping = {old: self.full(lane) for old, lane in dict(zip(op.operands, operands)).items()}
        return self.emit(op.clone(mapping))

    def one_by_one(self, op: Operation, operands: Sequence[Lane]) -> list[Lane]:
        """The operation in a scan over the axis."""
        scanned = [lane.value for lane in operands if lane.batched]
        with nested_block([v.type.with_shape(v.type.shape[1:]) for v in scanned]) as (block, _):
            slices = iter(block.arguments)
            mapping = {old: next(slices) if lane.batched else lane.value for old, lane in zip(op.operands, operands)}
            current().insert(Yield(tuple(current().insert(op.clone(mapping)))))
        return self.emit(Scan((), tuple(scanned), self.size, Region(block)))

    def check(self, op: Check, condition: Lane) -> list[Lane]:
        """Of every example that runs it: what a branch checks that was not taken does not count."""
        holds = condition.value
        if self.running is not None:
            running = current().readable(*self.running, "")
            holds = compose.binary("or", self.full(condition), compose.unary("not", running))
        if holds.type.rank:
            holds = compose.reduce(holds, [0], "all")
        current().insert(op.clone({op.condition: holds}))
        return []

    @contextmanager
    def only(self, examples: Value) -> Iterator[None]:
        """What is inserted inside is run by `examples` (a bool vector) alone."""
        before = self.running
        if before is not None:
            examples = compose.binary("and", current().readable(*before, ""), examples)
        self.running = (examples, current().scope)
        try:
            yield
        finally:
            self.running = before

    # -- functions and control flow ---------------------------------------------------------------------
    def call(self, op: Call | Vjp | Jvp, operands: list[Lane]) -> list[Lane]:
        """Of a function that takes the axis; derivatives of that are those of each example."""
        trace = current().trace
        count = len(op.inputs)
        wrt = set[int]() if isinstance(op, Call) else set(op.wrt)
        inputs = [Lane(self.full(lane), True) if index in wrt else lane for index, lane in enumerate(operands[:count])]
        callee = trace.module.functions[op.callee]
        frame = Frame(trace, [lane.value.type for lane in inputs])
        with tracing_into(frame):
            inner = _Batcher(self.size, self.running)
            arguments = [Lane(a, lane.batched) for a, lane in zip(frame.root.arguments, inputs)]
            results = [inner.full(lane) for lane in inner.region(callee.body, arguments)]
            batched = frame.finish(trace.fresh(f"{op.callee}_batched"), results)
        trace.module.add(batched)
        values = (*(lane.value for lane in inputs), *frame.captures())
        rest = tuple(self.full(lane) for lane in operands[count:])
        types = tuple(batched.result_types)
        if isinstance(op, Call):
            return self.emit(Call(values, batched.name, types))
        if isinstance(op, Vjp):
            return self.emit(Vjp(values, rest, batched.name, op.wrt))
        return self.emit(Jvp(values, rest, batched.name, op.wrt, types))

    def branch(self, region: Region) -> Region:
        with nested_block([]) as (block, _):
            current().insert(Yield(tuple(self.full(lane) for lane in self.region(region, []))))
        return Region(block)

    def if_(self, op: If, condition: Lane) -> list[Lane]:
        if not condition.batched:
            return self.emit(If(condition.value, self.branch(op.then), self.branch(op.orelse)))
        results = []
        with self.only(condition.value):
            taken = self.region(op.then, [])
        with self.only(compose.unary("not", condition.value)):
            other = self.region(op.orelse, [])
        for a, b in zip(taken, other):
            results.append(Lane(self.chosen(condition.value, self.full(a), self.full(b)), True))
        return results

    def chosen(self, condition: Value, a: Value, b: Value) -> Value:
        """`a` for the examples where `condition` holds."""
        test = current().emit(Broadcast(condition, a.type.shape, (0,)))
        return current().emit(Select(test, a, b))

    def while_(self, op: While, operands: list[Lane]) -> list[Lane]:
        """Until no example goes on; those that are done keep their state."""
        inits = [self.full(lane) for lane in operands]
        types = [v.type for v in inits]
        with nested_block(types) as (test, _):
            (lane,) = self.region(op.condition, [Lane(a, True) for a in test.arguments])
            again = lane.value if not lane.batched else compose.reduce(lane.value, [0], "any")
            current().insert(Yield((again,)))
        with nested_block(types) as (block, _):
            state = [Lane(a, True) for a in block.arguments]
            (lane,) = self.region(op.condition, state)
            goes_on = lane
            with self.only(goes_on.value) if goes_on.batched else nullcontext():
                following = [self.full(lane) for lane in self.region(op.body, state)]
            if goes_on.batched:
                following = [self.chosen(goes_on.value, v, s.value) for v, s in zip(following, state)]
            current().insert(Yield(tuple(following)))
        return self.emit(While(tuple(inits), Region(test), Region(block)))

    def scan(self, op: Scan, operands: list[Lane]) -> list[Lane]:
        carried = len(op.inits)
        inits = [self.full(lane) for lane in operands[:carried]]
        inputs = [compose.moved(lane.value, 1, 0) if lane.batched else lane.value for lane in operands[carried:]]
        types = [v.type for v in inits] + [v.type.with_shape(v.type.shape[1:]) for v in inputs]
        with nested_block(types) as (block, _):
            flags = [True] * carried + [lane.batched for lane in operands[carried:]]
            lanes = [Lane(a, flag) for a, flag in zip(block.arguments, flags)]
            current().insert(Yield(tuple(self.full(lane) for lane in self.region(op.body, lanes))))
        results = current().insert(Scan(tuple(inits), tuple(inputs), op.length, Region(block), op.reverse))
        return [Lane(v if i < carried else compose.moved(v, 1, 0), True) for i, v in enumerate(results)]


# -- rules: the axis is in front, hence the others are one further ---------------------------------------------
_Rule = Callable[..., "list[Lane] | None"]


def _along(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + 1 for a in axes)


def _reshape(b: _Batcher, op: Reshape, lanes: list[Lane]) -> list[Lane]:
    return b.emit(Reshape(lanes[0].value, (b.size, *op.shape)))


def _transpose(b: _Batcher, op: Transpose, lanes: list[Lane]) -> list[Lane]:
    return b.emit(Transpose(lanes[0].value, (0, *_along(op.permutation))))


def _broadcast(b: _Batcher, op: Broadcast, lanes: list[Lane]) -> list[Lane]:
    return b.emit(Broadcast(lanes[0].value, (b.size, *op.shape), (0, *_along(op.axes))))


def _slice(b: _Batcher, op: Slice, lanes: list[Lane]) -> list[Lane]:
    return b.emit(Slice(lanes[0].value, (0, *op.starts), (b.size, *op.sizes), (1, *op.steps)))


def _dynamic_slice(b: _Batcher, op: DynamicSlice, lanes: list[Lane]) -> list[Lane] | None:
    operand, *starts = lanes
    if any(lane.batched for lane in starts):
        return None
    zero = compose.size(0, op.operands[1].type.dtype) if starts else None
    corner = [lane.value for lane in starts]
    return b.emit(DynamicSlice(operand.value, (zero, *corner) if zero is not None else (), (b.size, *op.sizes)))


def _pad(b: _Batcher, op: Pad, lanes: list[Lane]) -> list[Lane] | None:
    if lanes[1].batched:
        return None
    return b.emit(Pad(lanes[0].value, lanes[1].value, (0, *op.low), (0, *op.high)))


def _concat(b: _Batcher, op: Concat, lanes: list[Lane]) -> list[Lane]:
    return b.emit(Concat(tuple(b.full(lane) for lane in lanes), op.axis + 1))


def _reduce(b: _Batcher, op: Reduce, lanes: list[Lane]) -> list[Lane]:
    return b.emit(Reduce(lanes[0].value, _along(op.axes), op.how))


def _further(b: _Batcher, op: Operation, lanes: list[Lane]) -> list[Lane]:
    """Operations with one `axis`."""
    mapping = {old: b.full(lane) for old, lane in dict(zip(op.operands, lanes)).items()}
    return b.emit(op.clone(mapping, axis=op.attributes["axis"] + 1))


def _window(b: _Batcher, op: ReduceWindow, lanes: list[Lane]) -> list[Lane]:
    return b.emit(op.clone({op.operand: lanes[0].value}, axes=_along(op.axes)))


def _dot(b: _Batcher, op: DotGeneral, lanes: list[Lane]) -> list[Lane]:
    left, right = lanes
    axes = [op.lhs_batch, op.rhs_batch, op.lhs_contract, op.rhs_contract]
    for side, lane in enumerate(lanes):
        if lane.batched:
            axes[side], axes[side + 2] = _along(axes[side]), _along(axes[side + 2])
    if left.batched and right.batched:
        axes[0], axes[1] = (0, *axes[0]), (0, *axes[1])
    (result,) = current().insert(DotGeneral(left.value, right.value, *axes))
    place = 0
    if not right.batched:  # the axis is the first free one of its side
        place = len(op.lhs_batch)
    elif not left.batched:
        place = len(op.lhs_batch) + len(op.lhs_free)
    return [Lane(compose.moved(result, place, 0), True)]


def _conv(b: _Batcher, op: Conv, lanes: list[Lane]) -> list[Lane] | None:
    x, weight = lanes
    if weight.batched:
        return None
    shape = x.value.type.shape
    merged = compose.reshape(x.value, (shape[0] * shape[1], *shape[2:]))
    (result,) = current().insert(op.clone({op.input: merged, op.weight: weight.value}))
    return [Lane(compose.reshape(result, (shape[0], shape[1], *result.type.shape[1:])), True)]


def _gather(b: _Batcher, op: Gather, lanes: list[Lane]) -> list[Lane]:
    operand, indices = lanes
    if not indices.batched:
        return b.emit(Gather(operand.value, indices.value, op.axis + 1))
    if not operand.batched:
        (result,) = current().insert(Gather(operand.value, indices.value, op.axis))
        return [Lane(compose.moved(result, op.axis, 0), True)]
    front = compose.moved(operand.value, op.axis + 1, 1)
    points = compose.reshape(indices.value, (*indices.value.type.shape, 1))
    (result,) = current().insert(GatherND(front, points, 1))
    count = op.indices.type.rank
    order = [
        0,
        *range(1 + count, 1 + count + op.axis),
        *range(1, 1 + count),
        *range(1 + count + op.axis, result.type.rank),
    ]
    return [Lane(compose.transpose(result, order), True)]


def _gather_nd(b: _Batcher, op: GatherND, lanes: list[Lane]) -> list[Lane]:
    return b.emit(GatherND(b.full(lanes[0]), b.full(lanes[1]), op.batch_axes + 1))


def _scatter_nd(b: _Batcher, op: ScatterND, lanes: list[Lane]) -> list[Lane]:
    operand, indices, updates = (b.full(lane) for lane in lanes)
    example = iota((*indices.type.shape[:-1], 1), 0, indices.type.dtype)
    return b.emit(ScatterND(operand, compose.concat([example, indices], indices.type.rank - 1), updates, op.mode))


def _top_k(b: _Batcher, op: TopK, lanes: list[Lane]) -> list[Lane]:
    return b.emit(TopK(lanes[0].value, op.k, op.largest))


_RULES: dict[type[Operation], _Rule] = {
    Reshape: _reshape,
    Transpose: _transpose,
    Broadcast: _broadcast,
    Slice: _slice,
    DynamicSlice: _dynamic_slice,
    Pad: _pad,
    Concat: _concat,
    Reduce: _reduce,
    ArgReduce: _further,
    Cumulative: _further,
    GatherElements: _further,
    ScatterElements: _further,
    ReduceWindow: _window,
    DotGeneral: _dot,
    Conv: _conv,
    Gather: _gather,
    GatherND: _gather_nd,
    ScatterND: _scatter_nd,
    TopK: _top_k,
}


def example_type(type_: TensorType, axis: int) -> TensorType:
    """The type of one example."""
    return type_.with_shape([d for a, d in enumerate(type_.shape) if a != axis])
