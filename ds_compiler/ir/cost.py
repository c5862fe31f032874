"""What an operation costs: floating-point operations and bytes moved, as sizes (symbolic when shapes are)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds_compiler.ir.dims import Dim

if TYPE_CHECKING:
    from ds_compiler.ir.operation import Operation


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs (an FMA counts two), bytes read, bytes written; all of an operation run on its own."""

    flops: Dim = 0
    read: Dim = 0
    written: Dim = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)


def traffic(op: Operation, flops: Dim) -> Cost:
    """Cost with every operand read once and every result written once."""
    read: Dim = 0
    for operand in dict.fromkeys(op.operands):
        read = read + operand.type.bytes
    written: Dim = 0
    for result in op.results:
        written = written + result.type.bytes
    return Cost(flops, read, written)


def elementwise_cost(op: Operation, flops_per_element: int = 1) -> Cost:
    """Cost of `flops_per_element` operations for each element of the first result."""
    return traffic(op, op.results[0].type.elements * flops_per_element if op.results else 0)
