"""Which memory holds each value of a fused function, and when that memory is in use.

Values are places, not copies: a reshape is its operand's buffer; what an ``if`` yields is seen through a pointer, or
both branches write one buffer; a scan's slices are pointers into the scanned and stacked tensors; a loop's carried
value is written into the half of a double buffer that the current iteration does not read. A copy remains only where
one value must be in two places (`Carry.COPY`, a stacked or returned value that is also something else).

The function may hold: constant, size, bind, assume, check, reshape, fusion, if, while, scan, yield, return.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from ds_compiler.ir import Block, Operation, Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ops import Constant, Fusion, Reshape

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
    """The assignment; made by `buffer_assignment`, lifetimes by `buffer_lifetimes`.

    Attributes:
        own: the buffer that a fusion's result or other directly placed value is written to.
        carried, stacked: by loop.
        outputs: how each returned value gets out.
        position, end: program order of operations; `end` is after the regions.
        bound: symbols that the program binds itself.
        in_place: number of results that took the buffer of an input.
        sources: where a value may come from: places, or other values.
        all: every buffer, merged ones included, in program order.
    """

    own: dict[Value, Buffer] = field(default_factory=dict)
    carried: dict[Operation, list[Carried]] = field(default_factory=dict)
    stacked: dict[Operation, list[Stacked]] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    position: dict[Operation, int] = field(default_factory=dict)
    end: dict[Operation, int] = field(default_factory=dict)
    bound: frozenset[str] = frozenset()
    in_place: int = 0
    sources: dict[Value, list[Value | Place]] = field(default_factory=dict)
    all: list[Buffer] = field(default_factory=list)

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
            for source in self.sources[current]:
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
        sources = self.sources[value]
        if len(sources) != 1 or isinstance(sources[0], Value):
            return None
        buffer = sources[0][0].find()
        if buffer.claimed or sources[0][1] is not Half.ANY or buffer.where not in (Where.ARENA, Where.HEAP):
            return None
        return buffer

    def of_kind(self, where: Where) -> list[Buffer]:
        """All distinct buffers of a kind, in program order."""
        return [b for b in self.all if b.merged is None and b.where is where]


def kernel_blocks(block: Block) -> Iterator[Operation]:
    """The operations of a block and of nested control flow, in program order; fusions are not entered."""
    for op in block:
        yield op
        if not isinstance(op, Fusion):
            for region in op.regions:
                yield from kernel_blocks(region.block)
