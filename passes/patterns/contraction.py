"""Canonical forms of matrix products, convolutions and pooling: no transpose or pad that they could do themselves."""

from __future__ import annotations

import math

from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dims import product
from ds_compiler.ops import Constant, Conv, DotGeneral, Pad, ReduceWindow, Reshape, Transpose
from ds_compiler.passes.matching import constant, defined_by, is_splat, reshaped, walks_as_one
from ds_compiler.passes.patterns.canonical import pattern
from ds_compiler.passes.rewriter import Rewrite


@pattern(DotGeneral)
def transposed_operand(op: DotGeneral, builder: Builder) -> Rewrite:
    """A transposed operand is read in place, unless that would reorder the result's axes or take contracted axes
    apart: schedules of matrix products want them adjacent (batch and positions in a convolution's weight gradient).
    """
    lhs, lhs_batch, lhs_contract = _through_transpose(op.lhs, op.lhs_batch, op.lhs_contract, op.lhs_free)
    rhs, rhs_batch, rhs_contract = _through_transpose(op.rhs, op.rhs_batch, op.rhs_contract, op.rhs_free)
    if lhs is op.lhs and rhs is op.rhs:
        return None
    return builder.emit(DotGeneral(lhs, rhs, lhs_batch, rhs_batch, lhs_contract, rhs_contract))


def _through_transpose(
    value: Value, batch: tuple[int, ...], contract: tuple[int, ...], free: tuple[int, ...]
) -> tuple[Value, tuple[int, ...], tuple[int, ...]]:
    inner = defined_by(value, Transpose)
    if inner is None:
        return value, batch, contract
    read = [inner.permutation[a] for a in free]
    summed = tuple(inner.permutation[a] for a in contract)
    if read != sorted(read) or (walks_as_one(contract) and not walks_as_one(summed)):
        return value, batch, contract
    return inner.operand, tuple(inner.permutation[a] for a in batch), summed


@pattern(Transpose)
def transposed_product(op: Transpose, builder: Builder) -> Rewrite:
    """``(A·B)ᵀ`` → ``Bᵀ·Aᵀ``, read in place: a weight's gradient comes out in the weight's own layout, in which
    the optimizer's update reads it. Not for a constant B, which is packed ahead as a right operand only.
    """
    dot = defined_by(op.operand, DotGeneral)
    if dot is None or op.permutation != (1, 0) or len(op.operand.uses) != 1 or constant(dot.rhs) is not None:
        return None
    return builder.emit(DotGeneral(dot.rhs, dot.lhs, (), (), dot.rhs_contract, dot.lhs_contract))


@pattern(DotGeneral)
def regrouped_rows(op: DotGeneral, builder: Builder) -> Rewrite:
    """``reshape(x, [b*s, k])·W`` → ``reshape(x·W)``: regrouped free axes of the left operand sink below the product."""
    reshape = defined_by(op.lhs, Reshape)
    if reshape is None or op.lhs_batch or len(op.lhs_free) != 1 or len(op.lhs_contract) != 1:
        return None
    source = reshape.operand.type.shape
    rows, depth = (op.lhs.type.shape[a] for a in (*op.lhs_free, *op.lhs_contract))
    split = next((n for n in range(2, len(source)) if product(source[n:]) == depth), None)
    if op.lhs_contract != (1,) or split is None or product(source[:split]) != rows:
        return None
    lhs = reshaped(builder, reshape.operand, (*source[:split], depth))
    regrouped = builder.emit(DotGeneral(lhs, op.rhs, (), (), (split,), op.rhs_contract))
    return reshaped(builder, regrouped, op.result.type.shape)


@pattern(DotGeneral)
def constant_matrix_as_k_by_n(op: DotGeneral, builder: Builder) -> Rewrite:
    """A constant right-hand matrix is stored [K, N]: batch axes, then contracting ones, then free ones."""
    array = constant(op.rhs)
    if array is None:
        return None
    order = (*op.rhs_batch, *op.rhs_contract, *op.rhs_free)
    if order == tuple(range(len(order))):
        return None
    batch, depth = len(op.rhs_batch), len(op.rhs_contract)
    rhs = builder.emit(Constant(array.transpose(order)))  # a view: nothing is copied
    contract = tuple(range(batch, batch + depth))
    return builder.emit(DotGeneral(op.lhs, rhs, op.lhs_batch, tuple(range(batch)), op.lhs_contract, contract))


@pattern(Conv)
def padded_convolution(op: Conv, builder: Builder) -> Rewrite:
    """Zero padding of spatial axes becomes the convolution's own."""
    pad = defined_by(op.input, Pad)
    if pad is None or not is_splat(pad.value, 0):
        return None
    first = 2 if op.layout == "nchw" else 1
    spatial = range(first, first + op.spatial_rank)
    if any(w != 0 for a, w in enumerate((*pad.low, *pad.high)) if a % len(pad.low) not in spatial):
        return None
    low = tuple(a + pad.low[axis] for a, axis in zip(op.low, spatial, strict=True))
    high = tuple(a + pad.high[axis] for a, axis in zip(op.high, spatial, strict=True))
    return builder.emit(Conv(pad.operand, op.weight, op.strides, low, high, op.dilations, op.groups, op.layout))


@pattern(ReduceWindow)
def padded_pooling(op: ReduceWindow, builder: Builder) -> Rewrite:
    """Padding by the neutral element becomes the pooling's own (never for ``mean_valid``, which would count it)."""
    pad = defined_by(op.operand, Pad)
    if pad is None or op.how == "mean_valid":
        return None
    if not is_splat(pad.value, -math.inf if op.how == "max" else 0):
        return None
    if any(pad.low[a] != 0 or pad.high[a] != 0 for a in range(len(pad.low)) if a not in op.axes):
        return None
    low = tuple(a + pad.low[axis] for a, axis in zip(op.low, op.axes, strict=True))
    high = tuple(a + pad.high[axis] for a, axis in zip(op.high, op.axes, strict=True))
    return builder.emit(ReduceWindow(pad.operand, op.axes, op.window, op.strides, low, high, op.dilations, op.how))


@pattern(ReduceWindow)
def trivial_window(op: ReduceWindow, builder: Builder) -> Rewrite:
    """A window of one element, moved by one, without padding, is nothing."""
    still = all(w == 1 for w in op.window) and all(s == 1 for s in op.strides)
    return op.operand if still and all(p == 0 for p in (*op.low, *op.high)) else None
