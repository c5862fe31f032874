"""Kernels of attention's derivative: what surrounds `attention_backward.emit_attention_backward` in a fused region."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ds_compiler.backends.llvm.attention_backward import BackwardOperands, BackwardPlan, emit_attention_backward
from ds_compiler.backends.llvm.attention_kernel import BatchEntries
from ds_compiler.backends.llvm.builder import V, known
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.scalars import compute_type
from ds_compiler.backends.loops.attention_backward import AttentionBackwardParts
from ds_compiler.ir.errors import CompileError


def emit_fused_attention_backward(frame: KernelFrame) -> KernelInfo:
    """An ``attention_backward`` fusion, as `ds_compiler.ops.derivatives.attention` writes it.

    Raises:
        CompileError: the region is something else, or an operand or result has no strides along the axes that are
            walked.
    """
    parts = AttentionBackwardParts.of(frame.fusion)
    fb = frame.fb
    element = compute_type(parts.s.dtype)
    head_dim, v_dim = parts.depth.extent, parts.width.extent
    assert isinstance(head_dim, int) and isinstance(v_dim, int)
    batch = BatchEntries(frame, parts.batch)
    q_len, kv_len = frame.size(parts.query.extent), frame.size(parts.key.extent)
    plan = BackwardPlan.of(frame.target, head_dim, v_dim, known(q_len), known(kv_len), element)
    inputs = len(frame.fusion.inputs)
    walked = [(parts.query, parts.depth), (parts.key, parts.depth), (parts.key, parts.width)]
    q, k, v = (batch.matrix(load, *axes) for load, axes in zip(parts.operands, walked, strict=True))
    grad = batch.matrix(parts.grad, parts.query, parts.width)
    results = [
        batch.matrix_at(inputs + n, index, *axes)
        for n, (index, axes) in enumerate(zip(parts.results, walked, strict=True))
    ]
    if any(m.col.ref != "1" for m in results):
        raise CompileError("a gradient of attention has rows that are not contiguous", location=frame.fusion.location)
    body = batch.body
    wanted = [parts.weights, parts.cotangents]

    @contextmanager
    def row(query: V) -> Iterator[None]:
        with body.scope():
            body.axes[parts.query] = query
            body.hoist(wanted, [], frozenset({parts.key}))
            yield

    def elements(column: V, mask: V | None, s: V, dp: V) -> tuple[V, V]:
        body.given = {parts.s: s, parts.dp: dp}
        with body.lanes_at(parts.key, column, plan.lanes, mask):
            weights, cotangents = (body.vectorised(body.emit(node)) for node in wanted)
        return weights, cotangents

    with body.scope():
        emit_attention_backward(
            fb,
            plan,
            BackwardOperands(q, k, v, grad, *results),
            batch_heads=batch.size,
            q_len=q_len,
            kv_len=kv_len,
            entry=batch.enter,
            row=row,
            elements=elements,
            causal=parts.causal,
            task=frame.task,
            tasks=frame.tasks,
            scratch=frame.scratch,
        )
    return KernelInfo(scratch_bytes=plan.scratch_bytes)
