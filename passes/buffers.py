"""Which memory holds each value of a fused function, and when that memory is in use.

Values are places, not copies: a reshape is its operand's buffer; what an ``if`` yields is seen through a pointer, or
both branches write one buffer; a scan's slices are pointers into the scanned and stacked tensors; a loop's carried
value is written into the half of a double buffer that the current iteration does not read. A copy remains only where
one value must be in two places (`Carry.COPY`, a stacked or returned value that is also something else).

The function may hold: constant, size, bind, assume, reshape, fusion, if, while, scan, yield, return.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ds_compiler.ir import Block, Function, Operation, Value
from ds_compiler.ir.dims import Dim, symbols_of
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Assume, Bind, Constant, Fusion, If, Reshape, Scan, Size, While

Loops = tuple[Operation, ...]


class Where(Enum):
    """What kind of memory a buffer is."""

    INPUT = "input"  #: the caller's array number `index`
    OUTPUT = "output"  #: the caller's array number `index`, written by the program
    CONSTANT = "constant"  #: in the constant block
    ARENA = "arena"  #: planned: at `offset` in the arena
    HEAP = "heap"  #: allocated at run time, since its size depends on data
    PRIVATE = "private"  #: a scalar that every task computes for itself, on its stack
    SLICE = "slice"  #: one iteration's part of the stacked buffer `base`


@dataclass(eq=False)
class Buffer:
    """Memory for one value, or for several that are never needed at once.

    Attributes:
        size: bytes (of one half, when `alternating`).
        loops: the loops around the place where it is made; it is in use through whole iterations of inner ones.
        alternating: the double buffer of the carried values of loop `loop`.
        first, last: positions in program order between which it is in use.
        offset: in the arena, in bytes; set by the memory plan.
        claimed: given its final place by a yield or return, so no other may take it.
    """

    where: Where
    size: Dim
    loops: Loops = ()
    index: int = 0
    constant: Constant | None = None
    base: Buffer | None = None
    loop: Operation | None = None
    alternating: bool = False
    first: int = -1
    last: int = -1
    offset: Dim = 0
    claimed: bool = False
    merged: Buffer | None = None

    def find(self) -> Buffer:
        """The buffer that this one became part of, or itself."""
        buffer = self
        while buffer.merged is not None:
            buffer = buffer.merged
        return buffer

    def touch(self, position: int) -> None:
        self.first = position if self.first < 0 else min(self.first, position)
        self.last = max(self.last, position)


class Half(Enum):
    """Which part of an alternating buffer is meant; `ANY` for other buffers."""

    ANY = 0
    CURRENT = 1
    NEXT = 2


Place = tuple[Buffer, Half]


class Carry(Enum):
    """How a carried value gets to the next iteration."""

    KEEP = "keep"  #: it does not change
    POINTER = "pointer"  #: it lies in memory that stays as it is until the loop ends: only the pointer moves
    WRITTEN = "written"  #: its kernel writes straight into the half that is read next
    COPY = "copy"  #: copied into that half
    RESIZED = "resized"  #: copied into memory that is allocated for it, since an iteration changes its size


@dataclass(frozen=True)
class Carried:
    """One carried value of a loop, and its double buffer if it has one.

    Attributes:
        resized: for `Carry.RESIZED`, the memory in use and the memory that is being filled.
    """

    how: Carry
    buffer: Buffer | None = None
    resized: tuple[Buffer, Buffer] | None = None


@dataclass(frozen=True)
class Stacked:
    """One stacked result of a scan: its buffer; `direct` when the body's kernel writes straight into the slice."""

    buffer: Buffer
    direct: bool


class Output(Enum):
    """How a returned value gets to the caller."""

    DIRECT = "direct"  #: computed there
    COPY = "copy"  #: copied at the end
    HANDED_OVER = "handed over"  #: allocated by the program, the pointer is passed out
    ALLOCATED_COPY = "allocated copy"  #: as `COPY`, into memory that the program allocates


@dataclass
class Buffers:
    """The assignment; see `assign_buffers`.

    Attributes:
        own: the buffer that a fusion's result or other directly placed value is written to.
        carried, stacked: by loop.
        outputs: how each returned value gets out.
        position, end: program order of operations; `end` is after the regions.
        bound: symbols that the program binds itself.
        in_place: number of results that took the buffer of an input.
    """

    own: dict[Value, Buffer] = field(default_factory=dict)
    carried: dict[Operation, list[Carried]] = field(default_factory=dict)
    stacked: dict[Operation, list[Stacked]] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    position: dict[Operation, int] = field(default_factory=dict)
    end: dict[Operation, int] = field(default_factory=dict)
    bound: frozenset[str] = frozenset()
    in_place: int = 0
    _sources: dict[Value, list[Value | Place]] = field(default_factory=dict)
    _all: list[Buffer] = field(default_factory=list)

    def places(self, value: Value) -> frozenset[Place]:
        """All memory that may hold `value` (several after an ``if`` or a loop)."""
        found: dict[Place, None] = {}
        seen: set[Value] = set()
        pending: list[Value] = [value]
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            for source in self._sources[current]:
                if isinstance(source, Value):
                    pending.append(source)
                    continue
                buffer, half = source[0].find(), source[1]
                while buffer.where is Where.SLICE:
                    assert buffer.base is not None
                    buffer = buffer.base.find()
                if buffer.alternating and half is Half.ANY:
                    half = Half.NEXT  # written in this iteration, for the following one
                found[(buffer, half)] = None
        return frozenset(found)

    def sole(self, value: Value) -> Buffer | None:
        """The buffer a value is always in, when a kernel writes it there and nothing has claimed it yet."""
        while isinstance(value.defining_op, Reshape):
            value = value.defining_op.operand
        sources = self._sources[value]
        if len(sources) != 1 or isinstance(sources[0], Value):
            return None
        buffer = sources[0][0].find()
        if buffer.claimed or sources[0][1] is not Half.ANY or buffer.where not in (Where.ARENA, Where.HEAP):
            return None
        return buffer

    def of_kind(self, where: Where) -> list[Buffer]:
        """All distinct buffers of a kind, in program order."""
        return [b for b in self._all if b.merged is None and b.where is where]


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
    _Lifetimes(function, assigner.buffers).run()
    if inplace:
        _reuse_dying_inputs(assigner.buffers, inplace)
    return assigner.buffers


def kernel_blocks(block: Block) -> Iterator[Operation]:
    """The operations of a block and of nested control flow, in program order; fusions are not entered."""
    for op in block:
        yield op
        if not isinstance(op, Fusion):
            for region in op.regions:
                yield from kernel_blocks(region.block)


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
        self.buffers._all.append(buffer)
        return buffer

    def _place(self, value: Value, buffer: Buffer) -> None:
        self.buffers.own[value] = buffer
        self.buffers._sources[value] = [(buffer, Half.ANY)]

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
                    self.buffers._sources[op.result] = [op.operand]
                case Fusion():
                    for result in op.results:
                        self._place(result, self._new(Where.ARENA, result.type.bytes))
                case If():
                    self._if(op)
                case While() | Scan():
                    self._loop(op)
                case Bind() | Assume():
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
                self.buffers._sources[result] = [yes, no]

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
                self.buffers._sources[argument] = [init]
        stacked: list[Stacked] = []
        if isinstance(op, Scan):
            for argument, source in zip(body.arguments[count:], op.inputs, strict=True):
                self.buffers._sources[argument] = [source]
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
                    self.buffers._sources[block.arguments[index]].append(yielded[index])
            if carry.buffer is not None:
                after.append((carry.buffer, Half.CURRENT))
                for block in regions:
                    self.buffers._sources[block.arguments[index]].append((carry.buffer, Half.CURRENT))
            if carry.resized is not None:
                places: list[Value | Place] = [(buffer, Half.ANY) for buffer in carry.resized]
                after += places
                for block in regions:
                    self.buffers._sources[block.arguments[index]] += places
            self.buffers._sources[op.results[index]] = after
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
            for source in self.buffers._sources[current]:
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


class _Lifetimes:
    """Sets `first` and `last` of all buffers."""

    def __init__(self, function: Function, buffers: Buffers) -> None:
        self.function, self.buffers = function, buffers
        self._loops: Loops = ()

    def run(self) -> None:
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


def _reuse_dying_inputs(buffers: Buffers, inplace: Mapping[Fusion, Mapping[int, tuple[int, ...]]]) -> None:
    """Let results take the buffers of inputs that nobody reads after the kernel.

    An input's buffer may also become (part of) an output's: the value before a final activation is then computed
    where the caller wants the result.
    """
    for fusion, allowed in inplace.items():
        position = buffers.position[fusion]
        taken: set[Buffer] = {buffers.own[r].find() for r in fusion.results}
        for result_index, candidates in allowed.items():
            result = buffers.own[fusion.results[result_index]].find()
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
