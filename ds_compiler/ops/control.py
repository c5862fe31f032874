"""Structured control flow, and operations that hold a piece of program as one unit.

Regions of ``if``, ``while`` and ``scan`` may read values of the enclosing code; ``fusion`` and ``composite`` are
isolated: what they read enters through operands and block arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds_compiler.ir import Operation, Region, Value, op
from ds_compiler.ir.cost import Cost
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import bool_
from ds_compiler.ir.types import TensorType


@op("return")
class Return(Operation):
    """Ends a function."""

    values: tuple[Value, ...]
    is_terminator = True

    def infer(self) -> tuple[TensorType, ...]:
        return ()

    def cost(self) -> Cost:
        return Cost()


@op("yield")
class Yield(Operation):
    """Ends a region, handing values to the operation that owns it."""

    values: tuple[Value, ...]
    is_terminator = True

    def infer(self) -> tuple[TensorType, ...]:
        return ()

    def cost(self) -> Cost:
        return Cost()


def yielded_types(region: Region) -> list[TensorType]:
    """Types that a region hands out."""
    return [v.type for v in region.block.terminator.operands]


class _Structured(Operation):
    def _check_arguments(self, region: Region, expected: Sequence[TensorType], what: str) -> None:
        found = [a.type for a in region.block.arguments]
        if found != list(expected):
            raise self.error(f"{what} takes {found}, expected {list(expected)}")

    def cost(self) -> Cost:
        total = Cost()
        for region in self.regions:
            for nested in region.block:
                total = total + nested.cost()
        return total


@op("if")
class If(_Structured):
    """Run one of two regions (without arguments) by a scalar bool; both yield the result types.

    Where the branches' sizes differ, `types` states result types with symbols of their own, which each branch
    must bind (`bind`) to its sizes.
    """

    condition: Value
    then: Region
    orelse: Region
    types: tuple[TensorType, ...] | None = None

    def infer(self) -> Sequence[TensorType]:
        if self.condition.type != TensorType((), bool_):
            raise self.error(f"condition is {self.condition.type}, expected tensor<bool>")
        self._check_arguments(self.then, [], "the then-region")
        self._check_arguments(self.orelse, [], "the else-region")
        first, second = yielded_types(self.then), yielded_types(self.orelse)
        if self.types is not None:
            for types in (first, second):
                if [(t.rank, t.dtype) for t in types] != [(t.rank, t.dtype) for t in self.types]:
                    raise self.error(f"a region yields {types}, stated are {list(self.types)}")
            return self.types
        if first != second:
            raise self.error(f"the regions yield {first} and {second}")
        return first


@op("while")
class While(_Structured):
    """Repeat `body` while `condition` yields true; both take the carried values, `body` yields their next ones."""

    inits: tuple[Value, ...]
    condition: Region
    body: Region

    def infer(self) -> Sequence[TensorType]:
        types = [v.type for v in self.inits]
        self._check_arguments(self.condition, types, "the condition")
        self._check_arguments(self.body, types, "the body")
        if yielded_types(self.condition) != [TensorType((), bool_)]:
            raise self.error(f"the condition yields {yielded_types(self.condition)}, expected a scalar bool")
        if yielded_types(self.body) != types:
            raise self.error(f"the body yields {yielded_types(self.body)}, carried are {types}")
        return types


@op("scan")
class Scan(_Structured):
    """Run `body` once for each index of the scanned inputs' first axis, in order (`reverse`: from the end).

    The body takes the carried values, then one slice of each scanned input; it yields the next carried values, then
    one slice of each stacked result. Results: the last carried values, the stacked results [length, ...].
    """

    inits: tuple[Value, ...]
    inputs: tuple[Value, ...]
    length: Dim
    body: Region
    reverse: bool = False

    def infer(self) -> Sequence[TensorType]:
        carried = [v.type for v in self.inits]
        for index, value in enumerate(self.inputs):
            t = value.type
            if not t.rank or (
                isinstance(self.length, int) and isinstance(t.shape[0], int) and t.shape[0] != self.length
            ):
                raise self.error(f"scanned input {index} is {t}, length is {self.length}")
        slices = [v.type.with_shape(v.type.shape[1:]) for v in self.inputs]
        self._check_arguments(self.body, [*carried, *slices], "the body")
        out = yielded_types(self.body)
        if out[: len(carried)] != carried:
            raise self.error(f"the body yields {out}, carried are {carried}")
        return [*carried, *(t.with_shape((self.length, *t.shape)) for t in out[len(carried) :])]

    def cost(self) -> Cost:
        once = super().cost()
        return Cost(once.flops * self.length, once.read * self.length, once.written * self.length)


@op("fusion")
class Fusion(_Structured):
    """Operations that one kernel computes. `strategy` names its schedule (``loop``, ``matmul``, ``conv`` …)."""

    inputs: tuple[Value, ...]
    body: Region
    strategy: str
    is_isolated = True

    def infer(self) -> Sequence[TensorType]:
        self._check_arguments(self.body, [v.type for v in self.inputs], "the body")
        return yielded_types(self.body)


@op("composite")
class Composite(_Structured):
    """A well-known function kept whole (``softmax``, ``attention`` …): `body` is its meaning in primitives,
    `callee` its name, `options` its parameters for back ends that know it."""

    inputs: tuple[Value, ...]
    body: Region
    callee: str
    options: tuple[tuple[str, Any], ...] = ()
    is_isolated = True

    def infer(self) -> Sequence[TensorType]:
        self._check_arguments(self.body, [v.type for v in self.inputs], "the body")
        return yielded_types(self.body)


@op("call")
class Call(_Structured):
    """Call the module's function `callee`; `types` are its result types."""

    inputs: tuple[Value, ...]
    callee: str
    types: tuple[TensorType, ...]

    def infer(self) -> Sequence[TensorType]:
        return self.types
