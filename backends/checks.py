"""What the shapes of a program assume, where the compiler cannot prove it: equal sizes, sizes that are not negative.

Operations state equalities only as far as sizes are known; symbolic ones are assumed to fit. An assumption over the
entry's symbols becomes a constraint that the runtime checks once for each combination of input shapes; one that
depends on data, or that stands in a branch that may not be taken, is checked by the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ds_compiler.ir import Function, Operation
from ds_compiler.ir.dims import Dim, Expr, is_non_negative, maximum, product, symbols_of
from ds_compiler.ops import (
    Assume,
    Broadcast,
    Concat,
    Conv,
    ConvTranspose,
    ConvWeightGradient,
    DotGeneral,
    DotInteger,
    Fusion,
    Reshape,
    Scan,
    Slice,
)
from ds_compiler.ops.contraction import window_sizes
from ds_compiler.passes.buffers import kernel_blocks
from ds_compiler.runtime.manifest import Constraint


@dataclass(frozen=True)
class SizeCheck:
    """`value` must be zero, or must not be negative; `message` says where and why."""

    value: Dim
    zero: bool
    message: str

    @property
    def expression(self) -> str:
        """As the manifest writes it."""
        return f"{self.value} {'==' if self.zero else '>='} 0"


def collect_checks(
    function: Function, bound: frozenset[str]
) -> tuple[tuple[Constraint, ...], dict[Operation, list[SizeCheck]]]:
    """Constraints on the entry's symbols, and the checks to make in front of operations.

    Args:
        bound: symbols that the program binds itself.
    """
    constraints: dict[str, Constraint] = {}
    checks: dict[Operation, list[SizeCheck]] = {}
    for op in kernel_blocks(function.block):
        on_every_path = op.parent is function.block
        seen: set[tuple[Dim, bool]] = set()
        for nested in op.walk() if isinstance(op, Fusion) else (op,):
            for check in _assumptions(nested):
                if (check.value, check.zero) in seen:
                    continue
                seen.add((check.value, check.zero))
                if on_every_path and not symbols_of(check.value) & bound:
                    constraints.setdefault(check.expression, Constraint(check.expression, check.message))
                else:
                    checks.setdefault(op, []).append(check)
    return tuple(constraints.values()), checks


def _assumptions(op: Operation) -> Iterator[SizeCheck]:
    def where() -> str:
        return f"{op.location} ({op.mnemonic})" if op.location else op.mnemonic

    def equal(a: Dim, b: Dim, what: str) -> Iterator[SizeCheck]:
        if isinstance(a - b, Expr):
            yield SizeCheck(a - b, True, f"{where()}: {what}: {a} and {b} must be equal")

    def not_negative(value: Dim, what: str) -> Iterator[SizeCheck]:
        if isinstance(value, Expr) and not is_non_negative(value):
            yield SizeCheck(value, False, f"{where()}: {what}")

    match op:
        case Assume():
            if op.reason:
                yield SizeCheck(op.lhs - op.rhs, True, f"{op.location}: {op.reason}" if op.location else op.reason)
            else:
                yield from equal(op.lhs, op.rhs, "sizes")
        case Reshape():
            yield from equal(op.operand.type.elements, product(op.shape), "elements before and after")
        case Broadcast():
            for index, axis in enumerate(op.axes):
                a, b = op.operand.type.shape[index], op.shape[axis]
                if a != 1 and a != b:
                    yield SizeCheck((a - 1) * (a - b), True, f"{where()}: size {a} does not broadcast to {b}")
        case DotGeneral():
            sides = zip((*op.lhs_batch, *op.lhs_contract), (*op.rhs_batch, *op.rhs_contract), strict=True)
            for x, y in sides:
                yield from equal(op.lhs.type.shape[x], op.rhs.type.shape[y], "sizes of lhs and rhs")
        case DotInteger():
            yield from equal(op.lhs.type.shape[-1], op.rhs.type.shape[0], "depths of lhs and rhs")
        case Conv():
            channels = op.input.type.shape[1 if op.layout == "nchw" else -1]
            yield from equal(channels, op.weight.type.shape[1] * op.groups, "input channels of input and weight")
        case ConvTranspose():
            channels = op.input.type.shape[1 if op.layout == "nchw" else -1]
            yield from equal(channels, op.weight.type.shape[0], "input channels of input and weight")
        case ConvWeightGradient():
            spatial = slice(2, None) if op.layout == "nchw" else slice(1, -1)
            seen, given = op.input.type.shape, op.gradient.type.shape
            windows = window_sizes(seen[spatial], op.kernel, op.strides, op.low, op.high, op.dilations)
            for a, b in zip((seen[0], *windows), (given[0], *given[spatial]), strict=True):
                yield from equal(a, b, "windows of the input and elements of the gradient")
        case Concat():
            for value in op.inputs:
                for axis, (a, b) in enumerate(zip(value.type.shape, op.result.type.shape, strict=True)):
                    if axis != op.axis:
                        yield from equal(a, b, f"sizes of axis {axis}")
        case Scan():
            for value in op.inputs:
                yield from equal(value.type.shape[0], op.length, "the scanned length")
        case Slice():
            for start, size, step, extent in zip(op.starts, op.sizes, op.steps, op.operand.type.shape, strict=True):
                last = start + (size - 1) * step
                for spare in (start, last) if step < 0 else (start,):
                    yield from not_negative(maximum(spare, -size), f"a slice begins before element 0 of {extent}")
                for spare in (extent - 1 - start, extent - 1 - last) if step < 0 else (extent - 1 - last,):
                    yield from not_negative(maximum(spare, -size), f"a slice ends after element {extent}")
    for result in op.results:
        for dim in result.type.shape:
            yield from not_negative(dim, f"the size {dim} of the result would be negative")
