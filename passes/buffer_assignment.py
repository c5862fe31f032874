"""Assigns a buffer to every value of a fused function, control flow included."""

from __future__ import annotations

from collections.abc import Mapping

from ds_compiler.ir import Block, Function, Value
from ds_compiler.ir.dims import Dim, symbols_of
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Assume, Bind, Check, Constant, Fusion, If, Reshape, Scan, Size, While
from ds_compiler.passes.buffer_lifetimes import Lifetimes, reuse_dying_inputs
from ds_compiler.passes.buffers import (
    Buffer,
    Buffers,
    Carried,
    Carry,
    Half,
    Loops,
    Output,
    Place,
    Stacked,
    Where,
    kernel_blocks,
)


def assign_buffers(
    function: Function, inplace: Mapping[Fusion, Mapping[int, tuple[int, ...]]] | None = None
) -> Buffers:
    """Assign a buffer to every value of `function` and compute lifetimes.

    Args:
        inplace: for a fusion's results, the inputs whose buffer each may overwrite.

    Raises:
        CompileError: an operation that fusion should have taken stands in the function; or a loop stacks slices whose
            size depends on data computed in the loop.
    """
    assigner = _Assigner(function)
    assigner.run()
    Lifetimes(function, assigner.buffers).run()
    if inplace:
        reuse_dying_inputs(assigner.buffers, inplace)
    return assigner.buffers


class _Assigner:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.buffers = Buffers()
        self._loops: Loops = ()
        self._clock = 0

    def run(self) -> None:
        block = self.function.block
        self.buffers.bound = frozenset(op.symbol for op in kernel_blocks(block) if isinstance(op, Bind))
        for index, argument in enumerate(block.arguments):
            self._place(argument, self._new(Where.INPUT, argument.type.bytes, index=index))
        self._block(block)
        self._outputs()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _new(self, where: Where, size: Dim, *, index: int = 0) -> Buffer:
        if where is Where.ARENA and symbols_of(size) & self.buffers.bound:
            where = Where.HEAP
        buffer = Buffer(where, size, self._loops, index)
        self.buffers.all.append(buffer)
        return buffer

    def _place(self, value: Value, buffer: Buffer) -> None:
        self.buffers.own[value] = buffer
        self.buffers.sources[value] = [(buffer, Half.ANY)]

    def _block(self, block: Block) -> None:
        for op in block:
            self.buffers.position[op] = self._tick()
            match op:
                case Constant():
                    buffer = self._new(Where.CONSTANT, op.result.type.bytes)
                    buffer.constant = op
                    self._place(op.result, buffer)
                case Size():
                    self._place(op.result, self._new(Where.PRIVATE, 8))
                case Reshape():
                    self.buffers.sources[op.result] = [op.operand]
                case Fusion():
                    for result in op.results:
                        self._place(result, self._new(Where.ARENA, result.type.bytes))
                case If():
                    self._if(op)
                case While() | Scan():
                    self._loop(op)
                case Bind() | Assume() | Check():
                    pass
                case _ if not op.is_terminator:
                    raise CompileError(f"{op.mnemonic} is not part of a kernel", location=op.location)
            self.buffers.end[op] = self._tick()

    # -- control flow -------------------------------------------------------------------------
    def _if(self, op: If) -> None:
        self._block(op.then.block)
        self._block(op.orelse.block)
        taken: set[Buffer] = set()
        pairs = zip(op.then.block.terminator.operands, op.orelse.block.terminator.operands, strict=True)
        for result, (yes, no) in zip(op.results, pairs, strict=True):
            a, b = (self._made_in(v, r.block) for v, r in ((yes, op.then), (no, op.orelse)))
            fits = a is not None and b is not None and a.where is b.where is Where.ARENA and a.size == b.size
            # A value that two results yield can be merged for one of them only.
            if fits and a is not None and b is not None and not {a, b} & taken:
                b.merged = a
                taken.add(a)
                self._place(result, a)
            else:
                self.buffers.sources[result] = [yes, no]

    def _made_in(self, value: Value, block: Block) -> Buffer | None:
        """The unclaimed buffer of `value` if a kernel (or a merging ``if``) in `block` itself writes it."""
        root = value
        while isinstance(root.defining_op, Reshape):
            root = root.defining_op.operand
        op = root.defining_op
        buffer = self.buffers.sole(value)
        if buffer is None or op is None or op.parent is not block:
            return None
        return buffer if buffer.loops == self._loops else None

    def _loop(self, op: While | Scan) -> None:
        outer = self._loops
        self._loops = (*outer, op)
        body = op.body.block
        count = len(op.inits)
        regions = [body] if isinstance(op, Scan) else [op.condition.block, body]
        for block in regions:
            for argument, init in zip(block.arguments, op.inits):
                self.buffers.sources[argument] = [init]
        stacked: list[Stacked] = []
        if isinstance(op, Scan):
            for argument, source in zip(body.arguments[count:], op.inputs, strict=True):
                self.buffers.sources[argument] = [source]
        for block in regions:
            self._block(block)
        yielded = body.terminator.operands
        if isinstance(op, Scan):
            stacked = [self._stack(op, v, r, outer) for v, r in zip(yielded[count:], op.results[count:], strict=True)]
        carried = [self._carry(op, index, yielded[index], outer) for index in range(count)]
        for index, carry in enumerate(carried):
            after: list[Value | Place] = [op.inits[index]]
            if carry.how is Carry.POINTER:
                after.append(yielded[index])
                for block in regions:
                    self.buffers.sources[block.arguments[index]].append(yielded[index])
            if carry.buffer is not None:
                after.append((carry.buffer, Half.CURRENT))
                for block in regions:
                    self.buffers.sources[block.arguments[index]].append((carry.buffer, Half.CURRENT))
            if carry.resized is not None:
                places: list[Value | Place] = [(buffer, Half.ANY) for buffer in carry.resized]
                after += places
                for block in regions:
                    self.buffers.sources[block.arguments[index]] += places
            self.buffers.sources[op.results[index]] = after
        for stack, result in zip(stacked, op.results[count:], strict=False):
            self._place(result, stack.buffer)
        self.buffers.carried[op], self.buffers.stacked[op] = carried, stacked
        self._loops = outer

    def _stack(self, op: Scan, value: Value, result: Value, outer: Loops) -> Stacked:
        whole = self._new(Where.ARENA, result.type.bytes)
        whole.loops = outer
        if symbols_of(whole.size) & _bound_in(op):
            raise CompileError(
                f"scan: the size of the stacked {value.type} depends on data of the iteration", location=op.location
            )
        buffer = self.buffers.sole(value)
        if buffer is None or buffer.where is not Where.ARENA or buffer.loops != self._loops:
            return Stacked(whole, False)
        buffer.where, buffer.base, buffer.loop, buffer.claimed = Where.SLICE, whole, op, True
        return Stacked(whole, True)

    def _carry(self, op: While | Scan, index: int, value: Value, outer: Loops) -> Carried:
        root = value
        while isinstance(root.defining_op, Reshape):
            root = root.defining_op.operand
        if root is op.body.block.arguments[index]:
            return Carried(Carry.KEEP)
        if self._stays(op, value):
            return Carried(Carry.POINTER)
        if symbols_of(value.type.bytes) & _bound_in(op):
            first, second = (self._new(Where.HEAP, value.type.bytes) for _ in range(2))
            first.loops = second.loops = outer
            return Carried(Carry.RESIZED, resized=(first, second))
        buffer = self.buffers.sole(value)
        if buffer is not None and buffer.loops == self._loops and buffer.size == op.inits[index].type.bytes:
            buffer.alternating, buffer.loop, buffer.claimed, buffer.loops = True, op, True, outer
            return Carried(Carry.WRITTEN, buffer)
        copy = self._new(Where.ARENA, op.inits[index].type.bytes)
        copy.alternating, copy.loop, copy.claimed, copy.loops = True, op, True, outer
        return Carried(Carry.COPY, copy)

    def _stays(self, op: While | Scan, value: Value) -> bool:
        """Whether the memory behind `value` keeps its content, and its address, until loop `op` has ended."""
        pending, seen = [value], set[Value]()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            if any(current is argument for argument in op.body.block.arguments[: len(op.inits)]):
                return False  # a carried value of this loop
            for source in self.buffers.sources[current]:
                if isinstance(source, Value):
                    pending.append(source)
                    continue
                buffer = source[0].find()
                if buffer.where is Where.SLICE and buffer.loop is op:
                    continue
                moves = op in buffer.loops or (buffer.alternating and buffer.loop is op)
                if moves or buffer.where in (Where.SLICE, Where.PRIVATE):
                    return False
        return True

    def _outputs(self) -> None:
        for index, value in enumerate(self.function.block.terminator.operands):
            late = bool(symbols_of(value.type.bytes) & self.buffers.bound)
            buffer = self.buffers.sole(value)
            if buffer is None or buffer.loops or buffer.alternating or (buffer.where is Where.HEAP) != late:
                self.buffers.outputs.append(Output.ALLOCATED_COPY if late else Output.COPY)
            elif late:
                buffer.claimed = True
                self.buffers.outputs.append(Output.HANDED_OVER)
            else:
                buffer.where, buffer.index, buffer.claimed = Where.OUTPUT, index, True
                self.buffers.outputs.append(Output.DIRECT)


def _bound_in(op: While | Scan) -> set[str]:
    """Symbols that an iteration binds."""
    return {o.symbol for o in kernel_blocks(op.body.block) if isinstance(o, Bind)}
