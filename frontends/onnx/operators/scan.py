"""Scan: a body that runs once for each element along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.control import tensors
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Dim, Region, TensorType, Value
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Gather, Iota, Scan, Yield


@onnx_op("Scan", since=8)
def batched_scan(e: Emitter, n: Node) -> Sequence[Value | None]:
    """Axis 0 of everything is the batch, axis 1 of what is scanned the sequence: a scan in a scan.

    Where a sequence is shorter than its axis, its state stays as it is behind its end, and what is stacked there,
    which ONNX leaves undefined, is 0. One that is scanned backwards starts at its own end.
    """
    lengths = n.optional(0)
    count = n.int("num_scan_inputs", 0)
    values = [n.input(i) for i in range(1, len(n.inputs))]
    inits, scanned = _split(n, values, count)
    flipped = [bool(v) for v in _listed(n, "directions", count)]
    for value, least in [*((v, 1) for v in inits), *((v, 2) for v in scanned)]:
        if value.type.rank < least:
            n.fail(f"an input is {value.type}, expected at least {least} axes")
    batch = _common(e, values, 0)
    steps = _common(e, scanned, 1)
    inputs = [e.reshape(v, (batch, *v.type.shape[1:])) for v in inits]
    inputs += [e.reshape(v, (batch, steps, *v.type.shape[2:])) for v in scanned]
    if lengths is not None:
        inputs.append(e.cast(e.reshape(lengths, (batch,)), i64))
    block = Block([TensorType(v.type.shape[1:], v.type.dtype) for v in inputs])
    with e.into(block):
        arguments: list[Value] = list(block.arguments)
        own = arguments.pop() if lengths is not None else None
        sequences = [
            _backwards(e, v, own) if back else v for v, back in zip(arguments[len(inits) :], flipped, strict=True)
        ]
        results = _one_sequence(e, n, arguments[: len(inits)], sequences, steps, own)
        e.insert(Yield(tuple(results)))
    return e.insert(Scan((), tuple(inputs), batch, Region(block)))


def _backwards(e: Emitter, sequence: Value, length: Value | None) -> Value:
    """The first `length` elements in reverse order (what follows them does not matter)."""
    if length is None:
        return _flip(e, sequence)
    place = e.emit(Iota((sequence.type.shape[0],), 0, i64))
    last = e.binary("sub", e.broadcast(length, place.type.shape, ()), 1)
    return e.emit(Gather(sequence, e.binary("max", e.binary("sub", last, place), 0), 0))


def _one_sequence(
    e: Emitter, n: Node, inits: Sequence[Value], scanned: Sequence[Value], steps: Dim, length: Value | None
) -> list[Value]:
    """Final states and stacked outputs; steps from `length` on change no state and stack zeros."""
    inputs = [*scanned]
    if length is not None:
        inputs.append(e.emit(Iota((steps,), 0, i64)))
    block = Block([*(v.type for v in inits), *(TensorType(v.type.shape[1:], v.type.dtype) for v in inputs)])
    with e.into(block):
        arguments: list[Value] = list(block.arguments)
        runs = e.compare("lt", arguments.pop(), length) if length is not None else None
        carried, stacked = _body(e, n, arguments, inits)
        if runs is not None:
            before = arguments[: len(inits)]
            carried = [e.select(runs, new, old) for new, old in zip(carried, before, strict=True)]
            stacked = [e.select(runs, v, e.full(0, v.type)) for v in stacked]
        e.insert(Yield((*carried, *stacked)))
    return e.insert(Scan(tuple(inits), tuple(inputs), steps, Region(block)))


@onnx_op("Scan", since=9)
def scan(e: Emitter, n: Node) -> Sequence[Value | None]:
    """Inputs and outputs run along an axis and in a direction of their own."""
    count = n.int("num_scan_inputs", 0)
    inits, scanned = _split(n, n.present(), count)
    outputs = len(n.required("body").output) - len(inits)
    into, out = _directions(n, "scan_input_directions", count), _directions(n, "scan_output_directions", outputs)
    reverse = all(into) and all(out)
    inputs = []
    for value, axis, flipped in zip(scanned, _axes(n, "scan_input_axes", count), into, strict=True):
        axis = n.axis(axis, value.type.rank)
        rest = [a for a in range(value.type.rank) if a != axis]
        moved = e.transpose(value, (axis, *rest))
        inputs.append(_flip(e, moved) if flipped and not reverse else moved)
    length = _common(e, inputs, 0)
    slices = [TensorType(v.type.shape[1:], v.type.dtype) for v in inputs]
    block = Block([*(v.type for v in inits), *slices])
    with e.into(block):
        carried, stacked = _body(e, n, block.arguments, inits)
        e.insert(Yield((*carried, *stacked)))
    final: list[Value] = e.insert(Scan(tuple(inits), tuple(inputs), length, Region(block), reverse))
    turned = []
    for value, axis, flipped in zip(final[len(inits) :], _axes(n, "scan_output_axes", outputs), out, strict=True):
        axis = n.axis(axis, value.type.rank)
        if flipped and not reverse:
            value = _flip(e, value)
        order = list(range(1, value.type.rank))
        order.insert(axis, 0)
        turned.append(e.transpose(value, order))
    return [*final[: len(inits)], *turned]


def _split(n: Node, values: Sequence[Value], count: int) -> tuple[list[Value], list[Value]]:
    """Initial states, and what is scanned."""
    if not 1 <= count <= len(values):
        n.fail(f"num_scan_inputs = {count} of {len(values)} inputs")
    return list(values[: len(values) - count]), list(values[len(values) - count :])


def _common(e: Emitter, values: Sequence[Value], axis: int) -> Dim:
    """The size that `axis` has in all `values`; a number if one of them has it so."""
    size = values[0].type.shape[axis]
    for value in values[1:]:
        e.assume(value.type.shape[axis], size)
        if isinstance(value.type.shape[axis], int):
            size = value.type.shape[axis]
    return size


def _body(e: Emitter, n: Node, arguments: Sequence[Value], inits: Sequence[Value]) -> tuple[list[Value], list[Value]]:
    """The body, imported where the emitter stands: next states, which have the types of `inits`, and outputs."""
    graph: GraphProto = n.required("body")
    results = tensors(n, n.importer.subgraph(graph, arguments))
    carried = []
    for index, (value, init) in enumerate(zip(results[: len(inits)], inits, strict=True)):
        if value.type.dtype != init.type.dtype or value.type.rank != init.type.rank:
            n.fail(f"state {index} is {init.type} before an iteration and {value.type} after it")
        for a, b in zip(value.type.shape, init.type.shape, strict=True):
            e.assume(a, b)
        carried.append(e.reshape(value, init.type.shape))
    return carried, results[len(inits) :]


def _directions(n: Node, name: str, count: int) -> list[bool]:
    return [bool(v) for v in _listed(n, name, count)]


def _axes(n: Node, name: str, count: int) -> list[int]:
    return _listed(n, name, count)


def _listed(n: Node, name: str, count: int) -> list[int]:
    found = list(n.ints(name)) or [0] * count
    if len(found) != count:
        n.fail(f"attribute '{name}' has {len(found)} entries, expected {count}")
    return found


def _flip(e: Emitter, value: Value) -> Value:
    """The first axis backwards."""
    return e.slice(value, 0, value.type.shape[0] - 1, -1, -1)
