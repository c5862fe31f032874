"""Tensors made from numbers: constants, ranges, diagonals."""

from __future__ import annotations

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import Extent, as_size, as_value, entries
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node, attribute_value
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import ceildiv, maximum
from ds_compiler.ir.dtypes import f32, f64, i64
from ds_compiler.ops import Iota


@onnx_op("Constant")
def constant(e: Emitter, n: Node) -> Value:
    for attribute in n.proto.attribute:
        match attribute.name:
            case "value":
                array = n.importer.tensor(attribute.t, "attribute 'value'")
                if array.dtype.kind in "OUS":
                    n.fail("strings are not supported")
                return e.constant(array)
            case "sparse_value":
                return e.constant(n.importer.dense(attribute.sparse_tensor))
            case "value_float" | "value_floats":
                return e.constant(attribute_value(attribute), f32)
            case "value_int" | "value_ints":
                return e.constant(attribute_value(attribute), i64)
            case "value_string" | "value_strings":
                n.fail("strings are not supported")
    n.fail("it has no value")


@onnx_op("ConstantOfShape", since=9)
def constant_of_shape(e: Emitter, n: Node) -> Value:
    dims = [as_size(e, d) for d in entries(e, n, n.input(0), "the shape")]
    if any(isinstance(d, int) and d < 0 for d in dims):
        n.fail(f"the shape {dims} has a negative size")
    value = np.asarray(n.attribute("value", np.zeros(1, np.float32)))
    if value.size != 1:
        n.fail(f"the value has {value.size} elements")
    return e.broadcast_to(e.constant(value.reshape(())), dims)


@onnx_op("Range", since=11)
def arange(e: Emitter, n: Node) -> Value:
    start, limit, delta = (e.reshape(n.input(i), ()) for i in range(3))
    dtype = start.type.dtype
    numbers = [e.array(v) for v in (start, limit, delta)]
    if dtype.is_integer and numbers[2] is not None and (step := int(numbers[2])):
        first, last = e.dims(start), e.dims(limit)
        if first is not None and last is not None:  # a number of elements in symbols
            span = last[0] - first[0] if step > 0 else first[0] - last[0]
            return _progression(e, start, delta, maximum(ceildiv(span, abs(step)), 0))
    if numbers[2] is not None and numbers[2] == 0:
        n.fail("delta is 0")
    wide = i64 if dtype.is_integer else f64
    span_value = e.binary("sub", e.cast(limit, wide), e.cast(start, wide))
    step_value = e.cast(delta, wide)
    if dtype.is_integer:  # ⌈a / b⌉ = -⌊-a / b⌋, and mod has the divisor's sign
        negative = e.unary("neg", span_value)
        floor = e.binary("div", e.binary("sub", negative, e.binary("mod", negative, step_value)), step_value)
        count = e.unary("neg", floor)
    else:
        count = e.cast(e.unary("ceil", e.binary("div", span_value, step_value)), i64)
    return _progression(e, start, delta, maximum(as_size(e, count, "count"), 0))


def _progression(e: Emitter, start: Value, delta: Value, count: Dim) -> Value:
    """``start + i * delta``; floats narrower than 32 bits are computed in f32."""
    dtype = start.type.dtype
    start, delta = e.wide(start), e.wide(delta)
    result = e.emit(Iota((count,), 0, start.type.dtype))
    if not _is(e, delta, 1):
        result = e.binary("mul", result, delta)
    if not _is(e, start, 0):
        result = e.binary("add", result, start)
    return e.cast(result, dtype)


def _is(e: Emitter, scalar: Value, number: int) -> bool:
    known = e.array(scalar)
    return known is not None and bool(known == number)


def diagonal_offsets(e: Emitter, rows: Dim, columns: Dim) -> Value:
    """[rows, columns] of i64: on which diagonal each place lies (0: the main one, above it positive)."""
    shape = (rows, columns)
    return e.binary("sub", e.emit(Iota(shape, 1, i64)), e.emit(Iota(shape, 0, i64)))


@onnx_op("EyeLike", since=9)
def eye_like(e: Emitter, n: Node) -> Value:
    like = n.input(0).type
    if like.rank != 2:
        n.fail(f"takes a matrix, got {like}")
    dtype = element_type(n.int("dtype", 0), "the result") if n.has("dtype") else like.dtype
    return e.cast(e.compare("eq", diagonal_offsets(e, *like.shape), n.int("k", 0)), dtype)


@onnx_op("Trilu", since=14)
def trilu(e: Emitter, n: Node) -> Value:
    x, k = n.input(0), n.optional(1)
    if x.type.rank < 2:
        n.fail(f"takes matrices, got {x.type}")
    bound = e.size(0) if k is None else e.cast(e.reshape(k, ()), i64)
    offsets = diagonal_offsets(e, *x.type.shape[-2:])
    kept = e.compare("ge" if n.int("upper", 1) else "le", offsets, bound)
    return e.select(kept, x, e.scalar(0, x.type.dtype))


@onnx_op("OneHot", since=9)
def one_hot(e: Emitter, n: Node) -> Value:
    """Indices out of range give nothing but the off value."""
    indices, values = n.input(0), n.input(2)
    depth: Extent = _scalar(e, n, n.input(1))
    size = as_size(e, depth, "depth")
    reason = f"the values are {values.type}, expected [off, on]"
    if values.type.rank != 1 or (isinstance(values.type.shape[0], int) and values.type.shape[0] != 2):
        n.fail(reason)
    e.assume(values.type.shape[0], 2, f"{n.op_type}: {reason}")
    values = e.reshape(values, (2,))
    rank = indices.type.rank + 1
    axis = n.axis(n.int("axis", -1), rank)
    position = e.cast(indices, i64)
    position = e.select(e.compare("lt", position, 0), e.binary("add", position, as_value(e, size)), position)
    shape = list(position.type.shape)
    position = e.reshape(position, [*shape[:axis], 1, *shape[axis:]])
    wanted = e.reshape(e.emit(Iota((size,), 0, i64)), [size if a == axis else 1 for a in range(rank)])
    off, on = (e.reshape(e.slice(values, 0, i, i + 1), ()) for i in (0, 1))
    return e.select(e.compare("eq", position, wanted), on, off)


def _scalar(e: Emitter, n: Node, value: Value) -> Extent:
    if value.type.elements != 1:
        n.fail(f"the depth is {value.type}, expected a scalar")
    return entries(e, n, e.cast(e.reshape(value, ()), i64), "the depth")[0]
