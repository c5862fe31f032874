"""Values: what operations and blocks define, and operations read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds_compiler.ir.types import TensorType

if TYPE_CHECKING:
    from ds_compiler.ir.block import Block
    from ds_compiler.ir.operation import Operation


class Value:
    """A tensor computed once: an operation's result or a block's argument.

    Attributes:
        uses: the (operation, operand index) pairs that read it, in the order they were made.
        hint: name wanted for it in text; unique names are made when printing.
    """

    __slots__ = ("hint", "type", "uses")

    def __init__(self, type_: TensorType, hint: str = "") -> None:
        self.type = type_
        self.hint = hint
        self.uses: dict[tuple[Operation, int], None] = {}

    @property
    def users(self) -> list[Operation]:
        """Operations that read the value, each once."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    @property
    def defining_op(self) -> Operation | None:
        """The operation whose result this is; None for a block argument."""
        return self.op if isinstance(self, OpResult) else None

    def replace_all_uses_with(self, other: Value) -> None:
        """Let every reader read `other` instead."""
        if other is self:
            return
        for op, index in list(self.uses):
            op.set_operand(index, other)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hint or '?'} : {self.type}>"


class OpResult(Value):
    """Result number `index` of `op`."""

    __slots__ = ("index", "op")

    def __init__(self, type_: TensorType, op: Operation, index: int, hint: str = "") -> None:
        super().__init__(type_, hint)
        self.op, self.index = op, index


class BlockArgument(Value):
    """Argument number `index` of `block`."""

    __slots__ = ("block", "index")

    def __init__(self, type_: TensorType, block: Block, index: int, hint: str = "") -> None:
        super().__init__(type_, hint)
        self.block, self.index = block, index
