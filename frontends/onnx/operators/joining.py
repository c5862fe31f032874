"""Tensors joined and taken apart along an axis."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import as_size, entries
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import ceildiv, floordiv


@onnx_op("Concat", since=4)
def concat(e: Emitter, n: Node) -> Value:
    values = n.present()
    axis = n.axis(int(n.required("axis")), values[0].type.rank)
    if any(v.type.rank != values[0].type.rank for v in values):
        n.fail(f"ranks differ: {', '.join(str(v.type) for v in values)}")
    if len(values) > 1:  # where one size is written in several ways, the operands take the plainest
        common = list(values[0].type.shape)
        for other, dim in enumerate(common):
            if other != axis:
                sizes = [v.type.shape[other] for v in values]
                common[other] = min(sizes, key=lambda d: (not isinstance(d, int), len(str(d)), str(d)), default=dim)
        known = [tuple(v.type.shape[axis] if a == axis else d for a, d in enumerate(common)) for v in values]
        if not any(_differ(v, shape) for v, shape in zip(values, known, strict=True)):
            values = [e.reshape(v, shape) for v, shape in zip(values, known, strict=True)]
    return e.concat(values, axis)


def _differ(value: Value, shape: tuple[Dim, ...]) -> bool:
    """Whether two known sizes contradict one another, which the operation's own check reports."""
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(value.type.shape, shape))


@onnx_op("Split", since=2)
def split_attribute(e: Emitter, n: Node) -> list[Value | None]:
    x = n.input(0)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    sizes = n.ints("split") if n.has("split") else _equal_parts(n, x.type.shape[axis], len(n.proto.output))
    return _parts(e, n, x, axis, list(sizes))


@onnx_op("Split", since=13)
def split_input(e: Emitter, n: Node) -> list[Value | None]:
    x, given = n.input(0), n.optional(1)
    axis = n.axis(n.int("axis", 0), x.type.rank)
    if given is not None:
        sizes = [as_size(e, s, "part") for s in entries(e, n, given, "the list of sizes")]
    elif n.has("num_outputs"):
        sizes = _nearly_equal_parts(n, x.type.shape[axis], n.int("num_outputs", 0))
    else:
        sizes = _equal_parts(n, x.type.shape[axis], len(n.proto.output))
    return _parts(e, n, x, axis, sizes)


def _equal_parts(n: Node, size: Dim, count: int) -> list[Dim]:
    if isinstance(size, int) and size % count:
        n.fail(f"size {size} does not divide into {count} equal parts")
    part = floordiv(size, count)
    return [*[part] * (count - 1), size - part * (count - 1)]


def _nearly_equal_parts(n: Node, size: Dim, count: int) -> list[Dim]:
    """Equal ones and a last one that may be smaller."""
    if count < 1:
        n.fail(f"num_outputs is {count}")
    part = ceildiv(size, count)
    last = size - part * (count - 1)
    if isinstance(last, int) and last < 0:
        n.fail(f"size {size} does not divide into {count} parts of {part}")
    return [*[part] * (count - 1), last]


def _parts(e: Emitter, n: Node, x: Value, axis: int, sizes: list[Dim]) -> list[Value | None]:
    if len(sizes) < n.output_count:
        n.fail(f"{len(sizes)} sizes for {n.output_count} outputs")
    extent = x.type.shape[axis]
    total = sum(sizes, 0)
    if isinstance(total, int) and isinstance(extent, int) and total != extent:
        n.fail(f"the sizes {sizes} do not add up to {extent}")
    start: Dim = 0
    results: list[Value | None] = []
    for size in sizes:
        results.append(e.slice(x, axis, start, start + size))
        start = start + size
    return results
