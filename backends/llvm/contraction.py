"""Kernels around a matrix product: the schedule of `matmul`, the operands' strides, the fused epilogue."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ds_compiler.backends.constants import Packing
from ds_compiler.backends.llvm.body import Body
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.frame import Array, KernelFrame, KernelInfo
from ds_compiler.backends.llvm.matmul import (
    Matrix,
    PackedMatrix,
    emit_matmul,
    matmul_scratch_bytes,
    packed_width,
)
from ds_compiler.backends.llvm.operands import BatchStride
from ds_compiler.backends.llvm.packing import pack_b
from ds_compiler.backends.llvm.scalars import compute_type
from ds_compiler.backends.loops.collapse import indices_of
from ds_compiler.backends.loops.contraction import Epilogue, MatmulForm, in_pairs, lower_epilogue, matmul_form
from ds_compiler.backends.loops.ir import Nest, step_nodes, walk
from ds_compiler.ir import Operation, Value
from ds_compiler.ir.dims import Dim, product
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import DotGeneral, DotInteger


def root_of(frame: KernelFrame, kind: type[Operation] | tuple[type[Operation], ...]) -> Operation:
    """The one operation of class `kind` (or of one of these) in the fusion."""
    for op in frame.fusion.body.block:
        if isinstance(op, kind):
            return op
    raise CompileError(f"a {frame.fusion.strategy} fusion without its root")


class EpilogueEmitter:
    """Runs an epilogue's stores on finished vectors, as the schedules call it."""

    def __init__(self, frame: KernelFrame, epilogue: Epilogue) -> None:
        self.body: Body = frame.body()
        self.epilogue = epilogue
        # Sizes are computed once, in front of all loops.
        varying = frozenset(epilogue.parts) | epilogue.total.axes
        for step in epilogue.stores:
            self.body.hoist(step_nodes(step), [step.index], varying)
        for index in indices_of(Nest([], [], list(epilogue.stores))):
            for _, coefficient in index.terms:
                self.body.size(coefficient)
            self.body.size(index.offset)

    def __call__(self, positions: Sequence[V], lanes: int, mask: V | None, value: V) -> None:
        """`value`: the sums at `positions` (one an axis part), `lanes` adjacent ones along the last."""
        body, parts = self.body, self.epilogue.parts
        body.given = {self.epilogue.total: value}
        with body.scope():
            for axis, position in zip(parts[:-1], positions[:-1], strict=True):
                body.axes[axis] = position
            with body.lanes_at(parts[-1], positions[-1], lanes, mask):
                for step in self.epilogue.stores:
                    body.emit(step.value)  # all of them, as a store may overwrite what another one reads
                for step in self.epilogue.stores:
                    body.store(step)

    def touch(self, positions: Sequence[V]) -> None:
        """Prefetch what a call at `positions` loads and stores, as far as it lies side by side along the last axis."""
        body, parts = self.body, self.epilogue.parts
        with body.scope():
            for axis, position in zip(parts, positions, strict=True):
                body.axes[axis] = position
            places = {(step.buffer, step.index): True for step in self.epilogue.stores}
            for node in walk([n for step in self.epilogue.stores for n in step_nodes(step)]):
                if node.op == "load" and node.index is not None:
                    places.setdefault((node.payload, node.index), False)
            for (buffer, index), write in places.items():
                if index.coefficient(parts[-1]) == 1 and set(parts[-2:]) <= index.axes:
                    address, _, _ = body.address(buffer, index)
                    body.fb.prefetch(address, write=write)

    def inplace(self, forbidden: set[int]) -> dict[int, tuple[int, ...]]:
        """Results that may overwrite an operand of the epilogue (never one of the product's own)."""
        inputs = len(self.body.buffers) - len(self.epilogue.stores)
        loads = [n for step in self.epilogue.stores for n in walk(step_nodes(step)) if n.op == "load"]
        allowed: dict[int, tuple[int, ...]] = {}
        for step in self.epilogue.stores:
            size = self.body.buffers[step.buffer][1].itemsize
            found = tuple(
                number
                for number in range(inputs)
                if number not in forbidden
                and self.body.buffers[number][1].itemsize == size
                and any(n.payload == number for n in loads)
                and all(n.index == step.index for n in loads if n.payload == number)
            )
            if found:
                allowed[step.buffer - inputs] = found
        return allowed


def emit_dot(frame: KernelFrame) -> KernelInfo:
    """A ``matmul`` fusion: one product of two of its inputs, then elementwise operations.

    Integers are multiplied in pairs (`tile.accumulate`): the matrices hold pairs along the depth, half as many.
    """
    op = root_of(frame, (DotGeneral, DotInteger))
    assert isinstance(op, DotGeneral | DotInteger)
    pairs = isinstance(op, DotInteger)
    form = matmul_form(op)
    dtype = op.result.type.dtype
    if form is None or not (pairs or dtype.name in ("f32", "f64")):
        raise CompileError(f"no matrix-product schedule for {op.lhs.type} and {op.rhs.type}", location=op.location)
    if pairs:
        form = in_pairs(form)
    fb, target, element = frame.fb, frame.target, compute_type(dtype)
    m, n, k = (frame.size(d) for d in (form.rows.size, form.columns.size, form.lhs_depth.size))
    epilogue = EpilogueEmitter(frame, lower_epilogue(frame.fusion, op.result, _result_parts(form)))
    lhs = _matrix(frame, op.lhs, form.rows.stride, form.lhs_depth.stride, form, form.lhs_batch, element)
    constant = frame.constant_input(op.rhs)
    packed: dict[int, Packing] = {}
    rhs: Matrix | PackedMatrix
    if constant is not None and all(s == 0 for s in form.rhs_batch):
        nr = packed_width(target, _known(form.columns.size), element)
        axes = (*op.rhs_batch, *op.rhs_contract, *op.rhs_free)
        depth = len(op.rhs_contract)
        name = f"panels {axes} {depth} {nr}" + (" pairs" if pairs else "")
        packed[constant] = Packing(name, lambda w: _pack(w, axes, depth, nr, pairs))
        rhs = PackedMatrix(frame.pointers[constant], nr)
    else:
        rhs = _matrix(frame, op.rhs, form.rhs_depth.stride, form.columns.stride, form, form.rhs_batch, element)
    scratch = matmul_scratch_bytes(
        target,
        m=_known(form.rows.size),
        n=_known(form.columns.size),
        k=_known(form.lhs_depth.size),
        b_layout=rhs.layout,
        a_layout=lhs.layout,
        element=element,
    )

    def finish(fb: FunctionBuilder, batch: V, row: V, column: V, lanes: int, mask: V | None, value: V) -> None:
        epilogue((batch, row, column), lanes, mask, value)

    def touch(fb: FunctionBuilder, batch: V, row: V, column: V) -> None:
        epilogue.touch((batch, row, column))

    emit_matmul(
        fb,
        target,
        batch=frame.size(product(form.batch_extents)),
        m=m,
        n=n,
        k=k,
        a=lhs,
        b=rhs,
        task=frame.task,
        tasks=frame.tasks,
        scratch=frame.scratch,
        epilogue=finish,
        touch=touch,
        element=element,
    )
    own = {frame.fusion.body.block.arguments.index(v) for v in (op.lhs, op.rhs)}  # type: ignore[arg-type]
    return KernelInfo(scratch_bytes=scratch, packed=packed, inplace=epilogue.inplace(own))


def _pack(w: Array, axes: tuple[int, ...], depth: int, nr: int, pairs: bool) -> Array:
    """A constant right operand as panels; `axes` puts the `depth` contracting axes first."""
    moved = w.transpose(axes)
    rows, columns = (int(np.prod(sizes, dtype=int)) for sizes in (moved.shape[:depth], moved.shape[depth:]))
    matrix = moved.reshape(rows, columns)
    if pairs:
        matrix = np.ascontiguousarray(matrix.reshape(rows // 2, 2, columns).transpose(0, 2, 1)).view(np.int32)[..., 0]
    return pack_b(matrix, nr)


def _known(dim: Dim) -> int | None:
    return dim if isinstance(dim, int) else None


def _result_parts(form: MatmulForm) -> list[tuple[int, ...]]:
    return [form.batch_axes, form.row_axes, form.column_axes]


def _matrix(
    frame: KernelFrame,
    value: Value,
    row: Dim | None,
    column: Dim | None,
    form: MatmulForm,
    batch: Sequence[Dim],
    element: str,
) -> Matrix:
    assert row is not None and column is not None
    base = frame.pointer(value)
    return Matrix(
        base, frame.size(row), frame.size(column), batch_stride(frame, base, form.batch_extents, batch, element)
    )


def batch_stride(
    frame: KernelFrame, base: V, extents: Sequence[Dim], strides: Sequence[Dim], element: str
) -> BatchStride:
    """How a flat batch index moves in an operand: one stride if the batch dimensions walk as one, else a function."""
    kept = [(e, s) for e, s in zip(extents, strides, strict=True) if e != 1]
    if not kept or all(s == 0 for _, s in kept):
        return frame.fb.i64(0)
    if all(outer == inner * extent for (_, outer), (extent, inner) in itertools.pairwise(kept)):
        return frame.size(kept[-1][1])
    sizes = [(frame.size(e), frame.size(s)) for e, s in kept]

    def entry(fb: FunctionBuilder, index: V) -> V:
        offset = fb.i64(0)
        for position, (extent, stride) in enumerate(reversed(sizes)):
            last = position == len(sizes) - 1
            offset = fb.add(offset, fb.mul(index if last else fb.srem(index, extent), stride))
            index = index if last else fb.sdiv(index, extent)
        return fb.gep(element, base, offset)

    return entry


__all__ = ["EpilogueEmitter", "batch_stride", "emit_dot", "root_of"]
