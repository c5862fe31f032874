"""Blocks and regions: lists of operations, and the code that an operation or function holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from ds_compiler.ir.operation import Operation
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import BlockArgument, Value

if TYPE_CHECKING:
    from ds_compiler.ir.module import Function

_T = TypeVar("_T", bound=Operation)


class Block:
    """A list of operations with arguments, the last one a terminator (doubly linked, so edits are O(1))."""

    def __init__(self, argument_types: Sequence[TensorType] = (), hints: Sequence[str] = ()) -> None:
        self.arguments: list[BlockArgument] = []
        self.parent: Region | None = None
        self._first: Operation | None = None
        self._last: Operation | None = None
        for index, type_ in enumerate(argument_types):
            self.add_argument(type_, hints[index] if index < len(hints) else "")

    def add_argument(self, type_: TensorType, hint: str = "") -> BlockArgument:
        argument = BlockArgument(type_, self, len(self.arguments), hint)
        self.arguments.append(argument)
        return argument

    def insert_argument(self, index: int, type_: TensorType) -> BlockArgument:
        """Add an argument in front of number `index`."""
        argument = BlockArgument(type_, self, index)
        self.arguments.insert(index, argument)
        for later in self.arguments[index + 1 :]:
            later.index += 1
        return argument

    def remove_argument(self, index: int) -> None:
        """Remove an argument that nobody reads."""
        if self.arguments[index].uses:
            raise ValueError(f"block argument {index} is in use")
        del self.arguments[index]
        for later in self.arguments[index:]:
            later.index -= 1

    def __iter__(self) -> Iterator[Operation]:
        current = self._first
        while current is not None:
            following = current._next  # read first: the loop body may erase `current`
            yield current
            current = following

    def __reversed__(self) -> Iterator[Operation]:
        current = self._last
        while current is not None:
            previous = current._previous
            yield current
            current = previous

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def first(self) -> Operation | None:
        return self._first

    @property
    def last(self) -> Operation | None:
        return self._last

    @property
    def terminator(self) -> Operation:
        """The last operation.

        Raises:
            ValueError: the block is empty or not terminated.
        """
        if self._last is None or not self._last.is_terminator:
            raise ValueError("the block has no terminator")
        return self._last

    def append(self, op: _T) -> _T:
        """Add at the end."""
        self._adopt(op)
        op._previous = self._last
        if self._last is None:
            self._first = op
        else:
            self._last._next = op
        self._last = op
        return op

    def insert_before(self, anchor: Operation, op: _T) -> _T:
        """Add in front of `anchor`."""
        self._adopt(op)
        op._next, op._previous = anchor, anchor._previous
        if anchor._previous is None:
            self._first = op
        else:
            anchor._previous._next = op
        anchor._previous = op
        return op

    def _adopt(self, op: Operation) -> None:
        if op.parent is not None:
            raise ValueError(f"{op.mnemonic} already stands in a block")
        op.parent = self

    def _unlink(self, op: Operation) -> None:
        if op._previous is None:
            self._first = op._next
        else:
            op._previous._next = op._next
        if op._next is None:
            self._last = op._previous
        else:
            op._next._previous = op._previous
        op.parent = op._next = op._previous = None


class Region:
    """Nested code of an operation or function: a list of blocks (structured operations have exactly one).

    A region may read values of the enclosing ones, except under operations that are isolated
    (`fusion`, `composite`), whose operands enter as block arguments.
    """

    def __init__(self, block: Block | None = None) -> None:
        self.blocks: list[Block] = []
        self.parent: Operation | Function | None = None
        if block is not None:
            self.add_block(block)

    def add_block(self, block: Block) -> Block:
        block.parent = self
        self.blocks.append(block)
        return block

    @property
    def block(self) -> Block:
        """The only block."""
        if len(self.blocks) != 1:
            raise ValueError(f"the region has {len(self.blocks)} blocks, one expected")
        return self.blocks[0]

    def walk(self) -> Iterator[Operation]:
        for block in self.blocks:
            for operation in block:
                yield from operation.walk()

    def clone(self, mapping: dict[Value, Value]) -> Region:
        """A copy; `mapping` supplies values for what it reads and learns the copies."""
        copy = Region()
        for block in self.blocks:
            new = copy.add_block(Block([a.type for a in block.arguments], [a.hint for a in block.arguments]))
            mapping.update(zip(block.arguments, new.arguments))
            for operation in block:
                new.append(operation.clone(mapping))
        return copy
