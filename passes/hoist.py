"""Loop-invariant operations move out of `scan` and `while`.

%2 = scan(%h, %xs) {                     %1 = transpose %w
  ^(%h, %x):                             %2 = scan(%h, %xs) {
    %1 = transpose %w            →         ^(%h, %x):
    %3 = dot_general %h, %1                  %3 = dot_general %h, %1
}                                        }
"""

from __future__ import annotations

from ds_compiler.ir import Block, BlockArgument, Module, Operation
from ds_compiler.ir.symbols import mentioned_symbols
from ds_compiler.ops import Assume, Bind, Broadcast, Constant, Iota, Reshape, Scan, Size, While
from ds_compiler.passes import remarks
from ds_compiler.passes.manager import register

_FREE = (Constant, Broadcast, Iota, Size, Reshape)
"""Computed inside the kernel that reads them, or not at all: outside they would only occupy memory. They move where
an operation that does move reads them."""


@register("hoist")
def hoist(module: Module) -> None:
    """Compute once, in front of a loop, what each iteration computes anew from values of outside.

    Nothing that could fail or has effects moves, so a loop of no iterations computes some things in vain, no more.
    """
    for function in module.functions.values():
        _visit(function.block)


def _visit(block: Block) -> None:
    for op in list(block):
        for region in op.regions:  # inner loops first: what they give up may leave the outer one as well
            _visit(region.block)
        if isinstance(op, Scan | While):
            for region in op.regions:
                _leave(op, region.block)


def _leave(loop: Operation, block: Block) -> None:
    """Move the invariant operations of a loop's own block in front of the loop."""
    inside = {region.block for op in loop.walk() for region in op.regions}
    bound = {op.symbol for op in loop.walk() if isinstance(op, Bind)}
    invariant: dict[Operation, None] = {}
    for op in block:
        if isinstance(op, Assume):
            break  # what follows may rely on it, and an iteration that checks it may never come
        if _movable(op) and not bound & mentioned_symbols(op) and _reads_outside(op, inside, invariant):
            invariant[op] = None
    wanted: set[Operation] = set()
    for op in reversed(invariant):
        if not isinstance(op, _FREE) or any(user in wanted for result in op.results for user in result.users):
            wanted.add(op)
    parent = loop.parent
    assert parent is not None
    for op in invariant:
        if op in wanted:
            parent.insert_before(loop, op.detach())
    remarks.count("hoist.moved", len(wanted))


def _movable(op: Operation) -> bool:
    return bool(op.results) and not op.is_terminator and not op.has_side_effects and not op.regions


def _reads_outside(op: Operation, inside: set[Block], invariant: dict[Operation, None]) -> bool:
    """Every operand is computed outside of the loop, or will be."""
    for operand in op.operands:
        source = operand.defining_op
        block = operand.block if isinstance(operand, BlockArgument) else source.parent if source is not None else None
        if block in inside and source not in invariant:
            return False
    return True
