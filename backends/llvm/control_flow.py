"""``if``, ``while`` and ``scan`` as branches and loops of ``dsc_main``.

Values move by pointer: see `ds_compiler.passes.buffers` for which yields need a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ds_compiler.backends.llvm.builder import V
from ds_compiler.backends.llvm.sizes import emit_size
from ds_compiler.ir import Block, Operation, Value
from ds_compiler.ops import If, Scan, While
from ds_compiler.passes.buffers import Carried, Carry
from ds_compiler.passes.memory_plan import half_size

if TYPE_CHECKING:
    from ds_compiler.backends.llvm.program import Emitter, Variable


def emit_if(emitter: Emitter, op: If) -> None:
    """Branch on the condition; results that the branches do not write to one place become pointer variables."""
    fb = emitter.fb
    then, orelse, done = fb.label("then"), fb.label("else"), fb.label("done")
    pointers = {i: emitter.variable() for i, r in enumerate(op.results) if r not in emitter.buffers.own}
    condition = load_condition(emitter, op.condition)
    fb.void(f"br i1 {condition.ref}, label %{then}, label %{orelse}")
    for label, region in ((then, op.then), (orelse, op.orelse)):
        fb.place(label)
        emitter.block(region.block)
        for index, variable in pointers.items():
            fb.store(emitter.pointer(region.block.terminator.operands[index]), variable.address)
        fb.void(f"br label %{done}")
    fb.place(done)
    for index, variable in pointers.items():
        emitter.pointers[op.results[index]] = variable


def emit_while(emitter: Emitter, op: While) -> None:
    """Loop with the condition's region at the head."""
    fb = emitter.fb
    current = _start(emitter, op, [op.condition.block, op.body.block])
    head, body, done = fb.label("while.head"), fb.label("while.body"), fb.label("while.done")
    fb.void(f"br label %{head}")
    fb.place(head)
    emitter.block(op.condition.block)
    condition = load_condition(emitter, op.condition.block.terminator.operands[0])
    fb.void(f"br i1 {condition.ref}, label %{body}, label %{done}")
    fb.place(body)
    emitter.block(op.body.block)
    _advance(emitter, op, current)
    fb.void(f"br label %{head}")
    fb.place(done)


def emit_scan(emitter: Emitter, op: Scan) -> None:
    """Counted loop; slices of the scanned inputs and stacked results are pointers."""
    from ds_compiler.backends.llvm.program import ScanState

    fb, count = emitter.fb, len(op.inits)
    block = op.body.block
    current = _start(emitter, op, [block])
    length = emit_size(fb, op.length, emitter.symbols)
    position = fb.alloca("i64", 1, align=8)
    fb.store(fb.i64(0), position)
    head, body, done = fb.label("scan.head"), fb.label("scan.body"), fb.label("scan.done")
    fb.void(f"br label %{head}")
    fb.place(head)
    step = fb.load("i64", position)
    more = fb.icmp("slt", step, length)
    fb.void(f"br i1 {more.ref}, label %{body}, label %{done}")
    fb.place(body)
    index = fb.sub(fb.sub(length, fb.i64(1)), step) if op.reverse else step
    emitter.scans[op] = ScanState(index)
    for argument, source in zip(block.arguments[count:], op.inputs, strict=True):
        emitter.pointers[argument] = emitter.slice(emitter.pointer(source), argument.type.bytes, op)
    emitter.block(block)
    _advance(emitter, op, current)
    fb.store(fb.add(step, fb.i64(1)), position)
    fb.void(f"br label %{head}")
    fb.place(done)


def load_condition(emitter: Emitter, value: Value) -> V:
    """A bool scalar as i1."""
    return emitter.fb.icmp("ne", emitter.fb.load("i8", emitter.pointer(value)), V("i8", "0"))


def _start(emitter: Emitter, op: While | Scan, blocks: Sequence[Block]) -> list[Variable | None]:
    """Pointers to the carried values, which the regions' arguments and the results then stand for."""
    from ds_compiler.backends.llvm.program import Alternation

    fb = emitter.fb
    emitter.allocate(op)
    current: list[Variable | None] = []
    for index, (init, carried) in enumerate(zip(op.inits, emitter.buffers.carried[op], strict=True)):
        place: V | Variable = emitter.pointer(init)
        variable = None
        if carried.how is not Carry.KEEP:
            place = variable = emitter.variable(emitter.pointer(init))
        current.append(variable)
        for value in (*(b.arguments[index] for b in blocks), op.results[index]):
            emitter.pointers[value] = place
        if carried.buffer is not None:
            first = emitter.base(carried.buffer)
            second = fb.gep("i8", first, emit_size(fb, half_size(carried.buffer), emitter.symbols))
            following = emitter.variable(first)
            emitter.alternations[carried.buffer] = Alternation(first, second, following.address)
    return current


def _advance(emitter: Emitter, op: While | Scan, current: Sequence[Variable | None]) -> None:
    """The end of an iteration: copies that are needed, then the pointers move on."""
    fb, carried = emitter.fb, emitter.buffers.carried[op]
    yielded: Operation = op.body.block.terminator
    for value, carry in zip(yielded.operands, carried):
        if carry.how is Carry.COPY and carry.buffer is not None:
            emitter.copy(emitter.address(carry.buffer), emitter.pointer(value), value.type.bytes)
    for value, stacked in zip(yielded.operands[len(carried) :], emitter.buffers.stacked[op], strict=True):
        if not stacked.direct:
            target = emitter.slice(emitter.address(stacked.buffer), value.type.bytes, op)
            emitter.copy(target, emitter.pointer(value), value.type.bytes)
    resized = _resize(emitter, op)
    pairs = enumerate(zip(carried, yielded.operands))
    following = [resized.get(i) or _next_pointer(emitter, c, v) for i, (c, v) in pairs]
    for variable, pointer in zip(current, following, strict=True):
        if variable is not None:
            fb.store(pointer, variable.address)
    for carry in carried:
        if carry.buffer is not None:
            halves = emitter.alternations[carry.buffer]
            written = fb.load("ptr", halves.following)
            at_first = fb.icmp("eq", written, halves.first)
            fb.store(fb.select(at_first, halves.second, halves.first), halves.following)


def _resize(emitter: Emitter, op: While | Scan) -> dict[int, V]:
    """Copy carried values whose sizes the iteration has changed into memory of the new sizes; pointers to it.

    All copies are made before any memory is freed, for a value may lie in what another one had.
    """
    fb, values = emitter.fb, op.body.block.terminator.operands
    pairs = {i: c.resized for i, c in enumerate(emitter.buffers.carried[op]) if c.resized is not None}
    if not pairs:
        return {}
    pointers: dict[int, V] = {}
    for index, (_, fresh) in pairs.items():
        pointers[index] = emitter.allocated(values[index].type.bytes, f"{op.location or op.mnemonic}")
        fb.store(pointers[index], emitter.heap_slot(fresh))
        emitter.copy(pointers[index], emitter.pointer(values[index]), values[index].type.bytes)
    for index, (used, fresh) in pairs.items():
        emitter.call_free(fb.load("ptr", emitter.heap_slot(used)))
        fb.store(pointers[index], emitter.heap_slot(used))
        fb.store(V("ptr", "null"), emitter.heap_slot(fresh))
    return pointers


def _next_pointer(emitter: Emitter, carry: Carried, value: Value) -> V:
    if carry.how is Carry.POINTER:
        return emitter.pointer(value)
    return emitter.address(carry.buffer) if carry.buffer is not None else V("ptr", "null")
