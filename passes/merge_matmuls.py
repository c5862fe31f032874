"""One wide product for several that share their left operand: the Q, K and V projections of attention.

    %q = dot_general %x, %wq; add %bq              %p = dot_general %x, [%wq | %wk | %wv]; add [%bq | %bk | %bv]
    %k = dot_general %x, %wk; add %bk         →    %a = composite(%p) callee=attention { slices of %p, … }
    %v = dot_general %x, %wv; add %bv
    %a = composite(%q, %k, %v) callee=attention

Only where the slices cost nothing: an attention kernel reads Q, K and V through any view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ds_compiler.ir import Block, Builder, Module, Region, Value
from ds_compiler.ops import Binary, Broadcast, Composite, Constant, DotGeneral, Fusion, Reshape, Slice, Yield
from ds_compiler.passes import remarks
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant, defined_by, reshaped, splat


@register("merge-matmuls")
def merge_matmuls(module: Module) -> None:
    """Compute the projections that one attention reads in one product.

    %q = dot_general %x, %wq
    %k = dot_general %x, %wk         →    %p = dot_general %x, [%wq | %wk]
    %a = composite(%q, %k, …)             %a = composite(%p, …)
    """
    for function in module.functions.values():
        _visit(function.block)
    eliminate_dead_code(module)


def _visit(block: Block) -> None:
    for op in list(block):
        if isinstance(op, Composite) and op.callee == "attention":
            _merge(op)
        elif not isinstance(op, Fusion | Composite):
            for region in op.regions:
                _visit(region.block)


@dataclass(frozen=True)
class _Projection:
    """`value` = `product` (+ `bias` along the last axis), of [rows…, width]; `index`: the attention's input it is."""

    index: int
    value: Value
    product: DotGeneral
    bias: np.ndarray | None

    @property
    def width(self) -> int:
        width = self.value.type.shape[-1]
        assert isinstance(width, int)
        return width


def _merge(attention: Composite) -> None:
    found = [p for n, v in enumerate(attention.inputs) if (p := _projection(n, v)) is not None]
    for first in found:
        together = [p for p in found if p.product.lhs is first.product.lhs and _alike(p.product, first.product)]
        if first is together[0] and len(together) > 1:
            _replace(attention, together)
            remarks.count("merge-matmuls.merged")
            return


def _projection(index: int, value: Value) -> _Projection | None:
    """The projection behind an input of attention, if nobody else reads it."""
    while len(value.uses) == 1 and (reshape := defined_by(value, Reshape)) is not None:
        value = reshape.operand
    if len(value.uses) != 1:
        return None
    bias: np.ndarray | None = None
    product = defined_by(value, DotGeneral)
    added = defined_by(value, Binary)
    if added is not None and added.kind == "add":
        product = defined_by(added.lhs, DotGeneral)
        bias = _along_last(added.rhs)
        if bias is None or product is None or len(product.result.uses) != 1:
            return None
    if product is None or product.lhs_batch or product.rhs_contract != (0,) or product.rhs.type.rank != 2:
        return None
    return _Projection(index, value, product, bias) if constant(product.rhs) is not None else None


def _along_last(value: Value) -> np.ndarray | None:
    """A constant that varies along the last axis alone, as a vector."""
    width = value.type.shape[-1]
    number = splat(value)
    if number is not None and isinstance(width, int):
        return np.full(width, number)
    broadcast = defined_by(value, Broadcast)
    array = None if broadcast is None else constant(broadcast.operand)
    return array if array is not None and broadcast is not None and broadcast.axes == (value.type.rank - 1,) else None


def _alike(a: DotGeneral, b: DotGeneral) -> bool:
    return a.lhs_contract == b.lhs_contract and a.parent is b.parent


def _replace(attention: Composite, projections: list[_Projection]) -> None:
    """Let `attention` read all projections from one product."""
    first = projections[0]
    # The earliest of them stands behind the shared operand, and so do all readers.
    builder = Builder(before=attention, location=first.product.location)
    weights = np.concatenate([constant(p.product.rhs) for p in projections], axis=1)
    rhs = builder.emit(Constant(weights))
    merged: Value = builder.emit(DotGeneral(first.product.lhs, rhs, (), (), first.product.lhs_contract, (0,)))
    if any(p.bias is not None for p in projections):
        parts = [np.zeros(p.width, weights.dtype) if p.bias is None else p.bias for p in projections]
        bias = builder.emit(Constant(np.concatenate(parts).astype(weights.dtype)))
        shape = merged.type.shape
        merged = builder.emit(Binary(merged, builder.emit(Broadcast(bias, shape, (len(shape) - 1,))), "add"))
    inner = attention.body.block
    kept = [n for n in range(len(attention.inputs)) if n not in {p.index for p in projections}]
    inputs = [merged, *(attention.inputs[n] for n in kept)]
    block = Block([v.type for v in inputs], [v.hint for v in inputs])
    body = Builder(block, location=attention.location)
    mapping: dict[Value, Value] = {inner.arguments[n]: block.arguments[1 + i] for i, n in enumerate(kept)}
    start = 0
    rank = merged.type.rank
    for p in projections:
        starts, sizes = (*(0,) * (rank - 1), start), (*merged.type.shape[:-1], p.width)
        part = body.emit(Slice(block.arguments[0], starts, sizes, (1,) * rank))
        mapping[inner.arguments[p.index]] = reshaped(body, part, inner.arguments[p.index].type.shape)
        start += p.width
    for op in inner:
        if not op.is_terminator:
            body.insert(op.clone(mapping))
    body.insert(Yield(tuple(mapping[v] for v in inner.terminator.operands)))
    outer = Builder(before=attention, location=attention.location)
    replacement = outer.insert(Composite(tuple(inputs), Region(block), attention.callee, attention.options))
    attention.replace_with(*replacement.results)
