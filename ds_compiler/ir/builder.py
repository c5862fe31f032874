"""Appends operations at an insertion point, stamping each with the current source location."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from ds_compiler.ir.block import Block
from ds_compiler.ir.location import UNKNOWN, Location
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.value import OpResult

_T = TypeVar("_T", bound=Operation)


class Builder:
    """Inserts at the end of `block`, or in front of `before`.

    x = builder.emit(Unary(y, "exp"))          # the result
    op = builder.insert(TopK(x, k, axis=1))    # the operation
    """

    def __init__(
        self, block: Block | None = None, *, before: Operation | None = None, location: Location = UNKNOWN
    ) -> None:
        if before is not None:
            block = before.parent
            location = location or before.location
        if block is None:
            raise ValueError("a builder needs a block, or an operation that stands in one")
        self.block, self.before, self.location = block, before, location

    def insert(self, operation: _T) -> _T:
        """Insert `operation`; it takes the builder's location unless it has one."""
        for nested in operation.walk():
            if not nested.location:
                nested.location = self.location
        if self.before is not None:
            return self.block.insert_before(self.before, operation)
        return self.block.append(operation)

    def emit(self, operation: Operation, hint: str = "") -> OpResult:
        """Insert an operation with one result and return that result."""
        result = self.insert(operation).result
        if hint:
            result.hint = hint
        return result

    @contextmanager
    def at(self, location: Location) -> Iterator[None]:
        """Stamp what is inserted inside with `location`."""
        previous, self.location = self.location, location
        try:
            yield
        finally:
            self.location = previous
