"""Common subexpression elimination, through control flow."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from ds_compiler.ir import Block, Module, Operation, Region
from ds_compiler.ir.symbols import mentioned_symbols
from ds_compiler.ops import Binary, Bind, Check, Compare, Constant, Scan, While
from ds_compiler.passes.manager import register

COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"})
_COMPARE_BYTES = 4096  # constants up to this size are compared by content, larger ones by the memory they view


@register("cse")
def eliminate_common_subexpressions(module: Module) -> None:
    """Keep one of several operations that compute the same value.

    %2 = add %0, %1          %2 = add %0, %1
    %3 = add %1, %0    →     %4 = mul %2, %2
    %4 = mul %2, %3
    """
    for function in module.functions.values():
        _Table().visit(function.block, None)


class _Table:
    """Walks blocks; versions tell apart what a symbol means before and after a ``bind`` of it."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def visit(self, block: Block, outer: _Scope | None) -> None:
        known = _Scope(outer)
        for op in block:
            if isinstance(op, Bind):
                self._versions[op.symbol] = self._versions.get(op.symbol, 0) + 1
            elif isinstance(op, Check):
                key: Hashable = (Check, id(op.condition))
                if known.find(key) is not None:
                    op.drop()
                else:
                    known[key] = op
            elif op.regions:
                for region in op.regions:
                    if isinstance(op, Scan | While):  # the first iteration's sizes are not the next one's
                        self._rebind(region)
                    self.visit(region.block, None if op.is_isolated else known)
            elif op.results and not op.has_side_effects:
                key = self._key(op)
                first = known.find(key)
                if first is None:
                    known[key] = op
                elif [r.type for r in first.results] == [r.type for r in op.results]:
                    if not isinstance(op, Constant):
                        first.location = first.location.merge(op.location)
                    op.replace_with(*first.results)

    def _rebind(self, region: Region) -> None:
        for op in region.walk():
            if isinstance(op, Bind):
                self._versions[op.symbol] = self._versions.get(op.symbol, 0) + 1

    def _key(self, op: Operation) -> Hashable:
        if isinstance(op, Constant):
            return _constant_key(op.value)
        operands = tuple(id(v) for v in op.operands)
        if isinstance(op, Binary | Compare) and op.kind in COMMUTATIVE:
            operands = tuple(sorted(operands))
        versions: list[tuple[str, int]] = []
        if self._versions:
            versions = sorted((s, self._versions.get(s, 0)) for s in mentioned_symbols(op))
        return (type(op), operands, tuple(op.attributes.items()), tuple(versions))


class _Scope(dict[Hashable, Operation]):
    """A table that also finds what enclosing code computed."""

    def __init__(self, outer: _Scope | None) -> None:
        super().__init__()
        self._outer = outer

    def find(self, key: Hashable) -> Operation | None:
        found = self.get(key)
        return found if found is not None or self._outer is None else self._outer.find(key)


def _constant_key(value: np.ndarray[Any, Any]) -> Hashable:
    kind = (Constant, value.dtype.str, str(value.dtype), value.shape)
    if value.nbytes <= _COMPARE_BYTES and value.dtype.kind != "O":
        return (*kind, value.tobytes())
    return (*kind, value.__array_interface__["data"][0], value.strides)
