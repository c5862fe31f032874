"""Matrix products and Einsum."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ops import DotGeneral


def matmul(e: Emitter, a: Value, b: Value) -> Value:
    """``numpy.matmul``; narrow floats are multiplied as f32, by the schedule of these, and rounded once."""
    if e.wide(a) is not a and a.type.dtype == b.type.dtype:
        return e.cast(matmul(e, e.wide(a), e.wide(b)), a.type.dtype)
    if a.type.rank == 1 or b.type.rank <= 2:
        contract = max(b.type.rank - 2, 0)
        if a.type.rank == 1 and b.type.rank > 2:
            return e.emit(DotGeneral(b, a, (), (), (contract,), (0,)))
        return e.emit(DotGeneral(a, b, (), (), (a.type.rank - 1,), (contract,)))
    batch = e.common_shape([a.type.shape[:-2], b.type.shape[:-2]])
    if all(d == 1 for d in b.type.shape[:-2]) and len(batch) == a.type.rank - 2:
        return matmul(e, a, e.reshape(b, b.type.shape[-2:]))
    a = e.broadcast_to(a, (*batch, *a.type.shape[-2:]))
    b = e.broadcast_to(b, (*batch, *b.type.shape[-2:]))
    axes = tuple(range(len(batch)))
    return e.emit(DotGeneral(a, b, axes, axes, (len(batch) + 1,), (len(batch),)))


@onnx_op("MatMul")
def matmul_node(e: Emitter, n: Node) -> Value:
    a, b = n.input(0), n.input(1)
    if not a.type.rank or not b.type.rank:
        n.fail(f"a scalar has no matrix product: {a.type}, {b.type}")
    return matmul(e, a, b)


@onnx_op("Gemm")
def gemm_node(e: Emitter, n: Node) -> Value:
    return gemm(e, n)


def gemm(e: Emitter, n: Node) -> Value:
    """``alpha * A · B + beta * C`` by the inputs and attributes of a Gemm; narrow floats as f32, rounded once."""
    a, b, c = n.input(0), n.input(1), n.optional(2)
    if a.type.rank != 2 or b.type.rank != 2:
        n.fail(f"takes matrices, got {a.type} and {b.type}")
    if a.type.dtype != b.type.dtype:
        n.fail(f"element types differ: {a.type}, {b.type}")
    axes = (0 if n.int("transA", 0) else 1,), (1 if n.int("transB", 0) else 0,)
    result = e.emit(DotGeneral(e.wide(a), e.wide(b), (), (), *axes))
    alpha, beta = n.float("alpha", 1.0), n.float("beta", 1.0)
    if alpha != 1:
        result = e.binary("mul", result, alpha)
    if c is not None and beta != 0:
        if c.type.dtype != a.type.dtype:
            n.fail(f"element types differ: {a.type}, {c.type}")
        c = e.wide(c)
        result = e.binary("add", result, c if beta == 1 else e.binary("mul", c, beta))
    return e.cast(result, a.type.dtype)
