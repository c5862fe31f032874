"""Sequences and optionals. Their structure is known at import, where every operation on them is done; what is left in
the program are the tensors in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import Extent, as_size, entries
from ds_compiler.frontends.onnx.listed import Entry, Listed
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import ceildiv

_LONGEST = 4096
"""Most elements and iterations that are written out."""


# -- sequences ------------------------------------------------------------------------------------
@onnx_op("SequenceEmpty")
def sequence_empty(e: Emitter, n: Node) -> Listed:
    return Listed(())


@onnx_op("SequenceConstruct")
def sequence_construct(e: Emitter, n: Node) -> Listed:
    return Listed(tuple(n.present()))


@onnx_op("SequenceLength", lists=True)
def sequence_length(e: Emitter, n: Node) -> Value:
    return e.constant(np.asarray(len(n.sequence(0).elements)))


@onnx_op("SequenceAt", lists=True)
def sequence_at(e: Emitter, n: Node) -> Value:
    elements = n.sequence(0).elements
    return elements[_position(e, n, 1, len(elements))]


@onnx_op("SequenceInsert", lists=True)
def sequence_insert(e: Emitter, n: Node) -> Listed:
    elements, new = n.sequence(0).elements, n.input(1)
    if elements and elements[0].type.dtype != new.type.dtype:
        n.fail(f"a {new.type} does not go into a sequence of {elements[0].type.dtype}")
    # the position behind the last element exists here too
    at = len(elements) if n.optional(2) is None else _position(e, n, 2, len(elements), behind=True)
    return Listed((*elements[:at], new, *elements[at:]))


@onnx_op("SequenceErase", lists=True)
def sequence_erase(e: Emitter, n: Node) -> Listed:
    elements = n.sequence(0).elements
    at = _position(e, n, 1, len(elements)) if n.optional(1) is not None else len(elements) - 1
    if not elements:
        n.fail("the sequence is empty")
    return Listed((*elements[:at], *elements[at + 1 :]))


def _position(e: Emitter, n: Node, index: int, length: int, behind: bool = False) -> int:
    """The position that input `index` names, counted from the front."""
    value = n.input(index)
    known = e.array(value)
    if known is None:
        n.needed(e, value, "the position in a sequence")
    position = int(known.reshape(()))
    if not -length <= position < length + behind:
        n.fail(f"position {position} is out of range for a sequence of {length}")
    return position + length if position < 0 else position


@onnx_op("SplitToSequence")
def split_to_sequence(e: Emitter, n: Node) -> Listed:
    x, given = n.input(0), n.optional(1)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    size = x.type.shape[axis]
    sizes: list[Extent]
    if given is None:
        sizes = [1] * _count(n, size)
    elif given.type.rank:
        sizes = entries(e, n, given, "the list of sizes")
    else:
        known = e.array(given)
        if known is None:
            n.needed(e, given, "the size of the parts")
        part = int(known)
        if part < 1:
            n.fail(f"parts of size {part}")
        count = _count(n, ceildiv(size, part))
        sizes = [part] * max(count - 1, 0)
        sizes += [size - part * (count - 1)] if count else []
    parts: list[Value] = []
    start: Dim = 0
    for extent in sizes:
        stop = start + as_size(e, extent, "part")
        parts.append(e.slice(x, axis, start, stop))
        start = stop
    e.assume(start, size, "the parts' sizes must add up to the size of what is split")
    if given is None and not n.int("keepdims", 1):
        kept = [d for a, d in enumerate(x.type.shape) if a != axis]
        parts = [e.reshape(part, kept) for part in parts]
    return Listed(tuple(parts))


def _count(n: Node, size: Dim) -> int:
    if not isinstance(size, int):
        n.fail(f"how many parts there are depends on size '{size}'", help=f"fix dimension '{size}'")
    if size > _LONGEST:
        n.fail(f"{size} parts; at most {_LONGEST} are supported")
    return size


@onnx_op("ConcatFromSequence", lists=True)
def concat_from_sequence(e: Emitter, n: Node) -> Value:
    elements = n.sequence(0).elements
    if not elements:
        n.fail("the sequence is empty")
    new = n.int("new_axis", 0)
    axis = n.axis(int(n.required("axis")), elements[0].type.rank + new)
    if new:
        elements = tuple(e.reshape(v, (*v.type.shape[:axis], 1, *v.type.shape[axis:])) for v in elements)
    return e.concat(elements, axis)


@onnx_op("SequenceMap", lists=True)
def sequence_map(e: Emitter, n: Node) -> list[Entry | None]:
    graph: GraphProto = n.required("body")
    mapped = n.sequence(0).elements
    columns: list[tuple[Entry | None, ...]] = [mapped]
    for entry in n.entries[1:]:
        columns.append(entry.elements if isinstance(entry, Listed) else (entry,) * len(mapped))
        if len(columns[-1]) != len(mapped):
            n.fail(f"sequences of {len(mapped)} and {len(columns[-1])} elements")
    rows = [n.importer.subgraph(graph, [x for x in row if x is not None]) for row in zip(*columns, strict=True)]
    results: list[list[Value]] = [[] for _ in graph.output]
    for row in rows:
        for column, entry in zip(results, row, strict=True):
            if isinstance(entry, Listed):
                n.fail("its graph yields a sequence; sequences of sequences are not supported")
            column.append(entry)
    return [Listed(tuple(column)) for column in results]


def loop_over_sequences(e: Emitter, n: Node, limit: Value | None, start: Value | None) -> list[Entry | None]:
    """A loop that carries sequences, its iterations one after the other: how many there are must be known."""
    graph: GraphProto = n.required("body")
    count, go_on = _known(e, n, limit, "the trip count", _LONGEST), _known(e, n, start, "the condition", 1)
    carried: list[Entry] = [entry for entry in n.entries[2:] if entry is not None]
    stacked: list[list[Value]] = [[] for _ in graph.output[1 + len(carried) :]]
    iteration = 0
    while go_on and iteration < count:
        arguments: list[Entry] = [e.constant(np.asarray(iteration)), e.constant(np.asarray(True)), *carried]
        condition, *values = n.importer.subgraph(graph, arguments)
        if isinstance(condition, Listed):
            n.fail(f"its condition is {condition}")
        carried, rows = values[: len(carried)], values[len(carried) :]
        for column, row in zip(stacked, rows, strict=True):
            if isinstance(row, Listed):
                n.fail(f"a stacked value is {row}")
            column.append(e.reshape(row, (1, *row.type.shape)))
        go_on = _known(e, n, condition, "the condition", 1)
        iteration += 1
    if iteration == _LONGEST:
        n.fail(f"carries sequences through more than {_LONGEST} iterations")
    if not iteration and stacked:
        n.fail("stacks values of an unknown size in no iteration")
    return [*carried, *(e.concat(column, 0) for column in stacked)]


def _known(e: Emitter, n: Node, scalar: Value | None, what: str, absent: int) -> int:
    if scalar is None:
        return absent
    known = e.array(scalar)
    if known is None:
        n.needed(e, scalar, f"{what} of a loop that carries sequences")
    return int(known.reshape(()))


# -- optionals ------------------------------------------------------------------------------------
@onnx_op("Optional", lists=True)
def optional(e: Emitter, n: Node) -> Entry:
    entry = n.entries[0] if n.entries else None
    return Listed((), optional=True) if entry is None else entry


@onnx_op("OptionalHasElement", lists=True)
def optional_has_element(e: Emitter, n: Node) -> Value:
    entry = n.entries[0] if n.entries else None
    absent = entry is None or (isinstance(entry, Listed) and entry.optional)
    return e.constant(np.asarray(not absent))


@onnx_op("OptionalGetElement", lists=True)
def optional_get_element(e: Emitter, n: Node) -> Sequence[Entry | None]:
    entry = n.entries[0]
    if entry is None or (isinstance(entry, Listed) and entry.optional):
        n.fail("the optional holds nothing")
    return [entry]
