"""When each buffer is in use, and which results may take the buffer of an input that dies."""

from __future__ import annotations

from collections.abc import Mapping

from ds_compiler.ir import Block, Function, Value
from ds_compiler.ops import Fusion, If, Scan, While
from ds_compiler.passes.buffers import Buffer, Buffers, Loops, Where


class Lifetimes:
    """Sets `first` and `last` of all buffers."""

    def __init__(self, function: Function, buffers: Buffers) -> None:
        self.function, self.buffers = function, buffers
        self._loops: Loops = ()

    def run(self) -> None:
        """Compute them."""
        self._block(self.function.block)

    def _block(self, block: Block) -> None:
        position, end = self.buffers.position, self.buffers.end
        for op in block:
            for operand in op.operands:
                self._touch(operand, position[op])
            match op:
                case If():
                    self._block(op.then.block)
                    self._block(op.orelse.block)
                case While() | Scan():
                    for stacked in self.buffers.stacked[op]:
                        self._touch_buffer(stacked.buffer.find(), position[op])
                    for carried in self.buffers.carried[op]:
                        if carried.buffer is not None:
                            self._touch_buffer(carried.buffer, position[op])
                            self._touch_buffer(carried.buffer, end[op])
                    self._loops = (*self._loops, op)
                    for region in op.regions:
                        self._block(region.block)
                    self._loops = self._loops[:-1]
                    for operand in op.operands:
                        self._touch(operand, end[op])
                case Fusion():
                    for result in op.results:
                        self._touch(result, position[op])
                    continue
            for result in op.results:
                self._touch(result, end[op])

    def _touch(self, value: Value, position: int) -> None:
        for buffer, _ in self.buffers.places(value):
            self._touch_buffer(buffer, position)

    def _touch_buffer(self, buffer: Buffer, position: int) -> None:
        buffer.touch(position)
        for depth, loop in enumerate(self._loops):
            if depth >= len(buffer.loops):  # the outermost loop that the buffer outlives
                buffer.touch(self.buffers.position[loop])
                buffer.touch(self.buffers.end[loop])
                break


def reuse_dying_inputs(buffers: Buffers, inplace: Mapping[Fusion, Mapping[int, tuple[int, ...]]]) -> None:
    """Let results take the buffers of inputs that nobody reads after the kernel.

    An input's buffer may also become (part of) an output's: the value before a final activation is then computed
    where the caller wants the result. Not where the output may take the memory of an input of the program, which is
    still read when the value is made.
    """
    for fusion, allowed in inplace.items():
        position = buffers.position[fusion]
        taken: set[Buffer] = {buffers.own[r].find() for r in fusion.results}
        for result_index, candidates in allowed.items():
            result = buffers.own[fusion.results[result_index]].find()
            ending = _inputs_that_end(buffers, fusion, candidates) if result.where is Where.OUTPUT else []
            if any(source.size == result.size for source in ending):
                continue
            for candidate in candidates:
                places = buffers.places(fusion.inputs[candidate])
                if len(places) != 1:
                    continue
                ((buffer, _),) = places
                if buffer in taken or not _may_merge(buffer, result, position):
                    continue
                readers = [i for i, v in enumerate(fusion.inputs) if any(b is buffer for b, _ in buffers.places(v))]
                if not set(readers) <= set(candidates):
                    continue
                _merge(buffer, result)
                taken.add(result if result.merged is None else buffer)
                buffers.in_place += 1
                break


def overwritable(
    function: Function, buffers: Buffers, inplace: Mapping[Fusion, Mapping[int, tuple[int, ...]]]
) -> list[tuple[int, int]]:
    """Outputs, each with an input whose memory it may be given: of its type, and read for the last time by the first
    kernel that writes the output, at the place written. The program is right whether they share memory or not.
    """
    arguments, results = function.block.arguments, function.block.terminator.operands
    writers = {buffers.position[fusion]: fusion for fusion in inplace}
    found: list[tuple[int, int]] = []
    for output in buffers.of_kind(Where.OUTPUT):
        fusion = writers.get(output.first)
        if fusion is None:
            continue
        for number, allowed in inplace[fusion].items():
            if buffers.own[fusion.results[number]].find() is output:
                sources = [source.index for source in _inputs_that_end(buffers, fusion, allowed)]
                kind = results[output.index].type
                found += [(output.index, source) for source in sources if arguments[source].type == kind]
    return sorted(found)  # as a step returns what it was given in the order given, first fit finds each its own


def _inputs_that_end(buffers: Buffers, fusion: Fusion, candidates: tuple[int, ...]) -> list[Buffer]:
    """The program's inputs among a kernel's `candidates` that nothing reads after it."""
    found: list[Buffer] = []
    for candidate in candidates:
        places = {buffer for buffer, _ in buffers.places(fusion.inputs[candidate])}
        source = places.pop()
        readers = {i for i, v in enumerate(fusion.inputs) if any(b is source for b, _ in buffers.places(v))}
        if not places and source.where is Where.INPUT and readers <= set(candidates):
            found += [source] if source.last == buffers.position[fusion] else []
    return found


def _may_merge(buffer: Buffer, result: Buffer, position: int) -> bool:
    plain = not (buffer.alternating or result.alternating)
    kinds = buffer.where is Where.ARENA and result.where in (Where.ARENA, Where.OUTPUT)
    return (
        plain
        and kinds
        and buffer.last == position == result.first
        and buffer.size == result.size
        and buffer.loops == result.loops
    )


def _merge(buffer: Buffer, result: Buffer) -> None:
    """Make both one: the result's place when the caller gave it, else the input's."""
    kept, gone = (result, buffer) if result.where is Where.OUTPUT else (buffer, result)
    gone.merged = kept
    kept.first, kept.last = min(kept.first, gone.first), max(kept.last, gone.last)
    kept.claimed = kept.claimed or gone.claimed
