"""Channels-last layout for convolutional code, with as few transposed bytes as possible.

Convolutions compute on channels-last tensors. Every operation that can work in either layout gets one of two labels,
*first* ([N, C, spatial]) or *last* ([N, spatial, C]); convolutions are last, inputs, results and operations that
know nothing of layouts are first. A value whose producer and reader differ is transposed, which costs its bytes, so
the cheapest labelling is a minimum cut. Then the operations labelled last are rebuilt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ds_compiler.ir import Block, Builder, Dim, Module, Operation, Value
from ds_compiler.ir.dims import substitute, symbols_of
from ds_compiler.ops import (
    ArgReduce,
    Broadcast,
    Composite,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    ConvWeightGradient,
    Cumulative,
    DotGeneral,
    Fusion,
    Gather,
    Iota,
    Pad,
    Reduce,
    ReduceWindow,
    Reshape,
    Slice,
    Transpose,
)
from ds_compiler.passes import remarks
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import ELEMENTWISE, constant, defined_by, groups, inverse, transposed, with_operands
from ds_compiler.passes.mincut import INFINITE, FlowNetwork

CONVOLUTIONS = (Conv, ConvTranspose, ConvWeightGradient)
_NOMINAL = 64  # what a symbolic size counts as when bytes are compared


@register("layout")
def channels_last(module: Module) -> None:
    """Compute convolutions, and what lies between them, on channels-last tensors.

    %2 = conv %0, %w (nchw)            %1 = transpose %0 (0, 2, 3, 1)
    %3 = max %2, %zero                 %2 = conv %1, %w (nhwc)
    %4 = conv %3, %v (nchw)     →      %3 = max %2, %zero
    return %4                          %4 = conv %3, %v (nhwc)
                                       %5 = transpose %4 (0, 3, 1, 2)
    """
    for function in module.functions.values():
        _visit(function.block)
    eliminate_dead_code(module)


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation that makes [N, C, spatial] channels-last."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation that makes [N, spatial, C] channels-first."""
    return inverse(to_last(rank))


def _visit(block: Block) -> None:
    for op in block:
        if not isinstance(op, Fusion | Composite):
            for region in op.regions:
                _visit(region.block)
    if any(isinstance(op, CONVOLUTIONS) and op.layout == "nchw" for op in block):
        _channel_shuffles_as_gathers(block)
        labels = _Labelling(block)
        _rebuild(block, labels)


def _channel_shuffles_as_gathers(block: Block) -> None:
    """reshape, transpose, reshape that only permute channels become a gather along the channel axis."""
    for op in block:
        if not isinstance(op, Reshape):
            continue
        middle = defined_by(op.operand, Transpose)
        first = None if middle is None else defined_by(middle.operand, Reshape)
        if middle is None or first is None or first.operand.type.shape != op.shape or len(op.shape) < 3:
            continue
        channels = op.shape[1]
        split = groups(op.shape, first.shape)
        if not isinstance(channels, int) or split is None or len(split) != len(op.shape):
            continue
        if any(len(a) != 1 or (a != (1,) and len(b) != 1) for a, b in split):
            continue
        inner = split[1][1]
        if any(p != i for i, p in enumerate(middle.permutation) if i not in inner):
            continue
        parts = [d for d in (first.shape[a] for a in inner) if isinstance(d, int)]
        if len(parts) != len(inner):
            continue
        order = [middle.permutation[a] - inner[0] for a in inner]
        indices = np.arange(channels).reshape(parts).transpose(order).reshape(-1).astype(np.int64)
        builder = Builder(before=op, location=op.location)
        op.replace_with(builder.emit(Gather(first.operand, builder.emit(Constant(indices)), 1)))


def _flexible(op: Operation) -> bool:
    """Can work in either layout, all its operands of rank > 2 (but broadcast sources) having the same layout."""
    if not op.results or op.results[0].type.rank < 2:
        return False
    source = op.operands[0].type.rank if op.operands else 0
    match op:
        case Conv() | ConvTranspose() | ConvWeightGradient():
            return op.layout == "nchw"
        case Reduce():
            return source > 2 and 0 not in op.axes and (1 not in op.axes or source - len(op.axes) >= 1)
        case ArgReduce():
            return source > 2 and op.axis != 0
        case Gather():
            return source > 2 and op.indices.type.rank == 1
        case Reshape():
            return _keeps_channels(op)
        case Broadcast() | Iota() | ReduceWindow() | Pad() | Slice() | Concat() | Cumulative():
            return op.result.type.rank > 2
    return isinstance(op, ELEMENTWISE) and op.result.type.rank > 2


def _keeps_channels(op: Reshape) -> bool:
    """Regroups spatial axes only: their elements are equally many, and keep their order, whatever their sizes."""
    before, after = op.operand.type.shape, op.shape
    return len(before) > 2 and len(after) > 2 and before[:2] == after[:2]


def _repeats_in_space(op: Broadcast) -> bool:
    """Repeats along spatial axes only (nearest-neighbour upsampling): the operand has the result's layout."""
    return op.operand.type.rank > 2 and op.axes[:2] == (0, 1)


def _result_is_last(op: Operation) -> bool:
    """Labelled last, the operation's result is channels-last too (else it comes out channels-first)."""
    if isinstance(op, Reduce):
        return 1 not in op.axes
    if isinstance(op, ConvWeightGradient):
        return False
    return not (isinstance(op, ArgReduce) and op.axis == 1)


def _layout_operands(op: Operation) -> list[Value]:
    """Operands that have the operation's layout."""
    match op:
        case Conv() | ConvTranspose() | Gather() | Pad():
            return [op.operands[0]]
        case Broadcast():
            return [op.operand] if _repeats_in_space(op) else []
        case Iota():
            return []
    return list(op.operands)


def _reads_either_layout(op: Operation, index: int) -> bool:
    """A matrix product reads an operand in any layout, unless that would reorder its result."""
    if not isinstance(op, DotGeneral):
        return False
    position = inverse(to_last(op.operands[index].type.rank))
    free = [position[a] for a in (op.lhs_free if index == 0 else op.rhs_free)]
    return free == sorted(free)


def transposed_bytes(value: Value) -> int:
    """Bytes that transposing `value` to the other layout moves: 1 where it moves only axes of size 1, which is free
    but still a reason to stay in one layout."""
    shape = value.type.shape
    if len(shape) < 3 or constant(value) is not None:
        return 0
    if shape[1] == 1 or all(d == 1 for d in shape[2:]):
        return 1
    size: Dim = value.type.bytes
    nominal = substitute(size, dict.fromkeys(symbols_of(size), _NOMINAL))
    assert isinstance(nominal, int)
    return max(nominal, 1)


class _Labelling:
    """The cheapest labels of a block's operations."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.network = FlowNetwork()
        self.nodes: dict[Operation, int] = {}
        for op in block:
            if _flexible(op):
                self.nodes[op] = self.network.node()
                if isinstance(op, CONVOLUTIONS):
                    self.network.edge(0, self.nodes[op], INFINITE)
        self._bonds: dict[int, list[int]] = {}  # which nodes transposing costs something between
        for op in block:
            if isinstance(op, Broadcast) and op in self.nodes:
                self._add(self.nodes[op], 1, _broadcast_cost(op))
            for result in op.results:
                self._value(result, self._producer(op))
        for value in self._outer_values():
            self._value(value, 1)
        side = self.network.source_side()
        bound = self._reached_from_source()
        self.last = {op for op, node in self.nodes.items() if side[node] and node in bound}

    def _producer(self, op: Operation) -> int:
        if isinstance(op, Transpose) and op.permutation == to_first(len(op.permutation)) and len(op.permutation) > 2:
            return 0  # the operand is the channels-last form
        node = self.nodes.get(op)
        return 1 if node is None or not _result_is_last(op) else node

    def _outer_values(self) -> list[Value]:
        inside = {r for op in self.block for r in op.results}
        return list(dict.fromkeys(v for op in self.block for v in op.operands if v not in inside))

    def _reader(self, op: Operation, index: int) -> int | None:
        """The node whose label operand `index` must have; None for any."""
        value = op.operands[index]
        if op.parent is not self.block:
            return 1
        if isinstance(op, Transpose) and op.permutation == to_last(len(op.permutation)) and len(op.permutation) > 2:
            return 0
        if op in self.nodes and any(v is value for v in _layout_operands(op)):
            return self.nodes[op]
        if isinstance(op, Broadcast) and op in self.nodes:
            return 1 if op.operand.type.rank > 2 else None
        return None if _reads_either_layout(op, index) else 1

    def _value(self, value: Value, producer: int) -> None:
        """One transposed copy serves all readers in the other layout."""
        cost = transposed_bytes(value)
        if not cost:
            return
        readers = dict.fromkeys(r for r in (self._reader(op, i) for op, i in value.uses) if r is not None)
        readers.pop(producer, None)
        if not readers:
            return
        wants_last, wants_first = self.network.node(), self.network.node()
        self._add(wants_last, producer, cost)
        self._add(producer, wants_first, cost)
        for reader in readers:
            self._add(reader, wants_last, INFINITE)
            self._add(wants_first, reader, INFINITE)

    def _add(self, a: int, b: int, cost: int) -> None:
        if not cost or a == b:
            return
        self.network.edge(a, b, cost)
        for x, y in ((a, b), (b, a)):
            if x != 1:  # being bound to the first layout binds nobody to the last one
                self._bonds.setdefault(x, []).append(y)

    def _reached_from_source(self) -> set[int]:
        """Nodes that some chain of costs joins to a convolution; the others have no reason to be last."""
        seen = {0, *(node for op, node in self.nodes.items() if isinstance(op, CONVOLUTIONS))}
        stack = list(seen)
        while stack:
            for other in self._bonds.get(stack.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return seen


def _broadcast_cost(op: Broadcast) -> int:
    """Bytes of the operand if making the result channels-last transposes it."""
    position = inverse(to_last(len(op.shape)))
    axes = [position[a] for a in op.axes]
    if axes == sorted(axes) or _repeats_in_space(op) or constant(op.operand) is not None:
        return 0
    size = op.operand.type.bytes
    nominal = substitute(size, dict.fromkeys(symbols_of(size), _NOMINAL))
    assert isinstance(nominal, int)
    return nominal


def _rebuild(block: Block, labels: _Labelling) -> None:
    """Rebuild operations labelled last; readers elsewhere get their results transposed back."""
    last_form: dict[Value, Value] = {}

    def in_last(value: Value, builder: Builder) -> Value:
        if value.type.rank < 3:
            return value
        if value not in last_form:
            existing = defined_by(value, Transpose)
            if existing is not None and existing.permutation == to_first(value.type.rank):
                last_form[value] = existing.operand
            else:
                last_form[value] = transposed(builder, value, to_last(value.type.rank))
        return last_form[value]

    for op in block:
        if op not in labels.last:
            if isinstance(op, Transpose) and op.operand in last_form:
                rank = op.operand.type.rank
                if op.permutation == to_last(rank) and last_form[op.operand] is not op.result:
                    op.replace_with(last_form[op.operand])
            continue
        builder = Builder(before=op, location=op.location)
        operands = {v: in_last(v, builder) for v in _layout_operands(op)}
        new = builder.emit(_in_last_layout(op, operands, builder))
        remarks.count(f"layout.{op.name}")
        old = op.results[0]
        if _result_is_last(op):
            first = transposed(builder, new, to_first(new.type.rank))
            if first is not new:
                last_form[first] = new
        else:
            first = new
        if not new.hint:
            new.hint = old.hint
        op.replace_with(first)


def _permuted(values: Sequence[Dim], rank: int) -> tuple[Dim, ...]:
    return tuple(values[a] for a in to_last(rank))


def _in_last_layout(op: Operation, last: dict[Value, Value], builder: Builder) -> Operation:
    """The operation on channels-last operands."""
    operands = [last.get(v, v) for v in op.operands]
    rank = op.operands[0].type.rank if op.operands else op.results[0].type.rank
    position = inverse(to_last(rank))
    match op:
        case Conv() | ConvTranspose() | ConvWeightGradient():
            return with_operands(op, operands, layout="nhwc")
        case Pad():
            return Pad(operands[0], op.value, _permuted(op.low, rank), _permuted(op.high, rank)).at(op.location)
        case Slice():
            starts, sizes, steps = (_permuted(x, rank) for x in (op.starts, op.sizes, op.steps))
            return with_operands(op, operands, starts=starts, sizes=sizes, steps=steps)
        case Concat() | Gather() | Cumulative() | ArgReduce():
            return with_operands(op, operands, axis=position[op.axis])
        case Reduce():
            return with_operands(op, operands, axes=tuple(sorted(position[a] for a in op.axes)))
        case ReduceWindow():
            order = sorted(range(len(op.axes)), key=lambda i: position[op.axes[i]])
            parallel = ("window", "strides", "low", "high", "dilations")
            changes = {name: tuple(getattr(op, name)[i] for i in order) for name in parallel}
            return with_operands(op, operands, axes=tuple(position[op.axes[i]] for i in order), **changes)
        case Reshape():
            return with_operands(op, operands, shape=_permuted(op.shape, len(op.shape)))
        case Iota():
            return with_operands(op, operands, shape=_permuted(op.shape, rank), axis=position[op.axis])
        case Broadcast():
            rank = len(op.shape)
            position = inverse(to_last(rank))
            axes = [position[a] for a in op.axes]
            if _repeats_in_space(op):
                return Broadcast(operands[0], _permuted(op.shape, rank), (0, *axes[2:], axes[1])).at(op.location)
            order = sorted(range(len(axes)), key=lambda i: axes[i])
            operand = transposed(builder, op.operand, order)
            shape = _permuted(op.shape, rank)
            return Broadcast(operand, shape, tuple(axes[i] for i in order)).at(op.location)
    return with_operands(op, operands)
