"""Shapes read and changed: the same elements under another shape, in another order, or repeated."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import Extent, as_size, as_value, entries, known_numbers, quotient
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Expr, Value
from ds_compiler.ir.dims import floordiv, product


@onnx_op("Shape")
def shape(e: Emitter, n: Node) -> Value:
    dims = n.input(0).type.shape
    start, end, _ = slice(n.int("start", 0), n.int("end", len(dims))).indices(len(dims))
    return e.sizes(dims[start:end])


@onnx_op("Size")
def size(e: Emitter, n: Node) -> Value:
    return e.size(n.input(0).type.elements)


@onnx_op("Reshape", since=5)
def reshape(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    target = entries(e, n, n.input(1), "the shape")
    return e.reshape(x, reshaped(e, n, x.type.shape, target, bool(n.int("allowzero", 0))))


def reshaped(e: Emitter, n: Node, source: Sequence[Dim], target: Sequence[Extent], allow_zero: bool) -> list[Dim]:
    """`target` with 0 (copy the size of this axis) and -1 (what is left) replaced.

    Raises:
        CompileError: several -1, a 0 without an axis to copy, a size below -1.
    """
    inferred = [i for i, t in enumerate(target) if isinstance(t, int) and t == -1]
    if len(inferred) > 1:
        n.fail(f"the shape {list(target)} has several -1")
    found: list[Extent] = []
    for axis, entry in enumerate(target):
        if isinstance(entry, int) and entry < -1:
            n.fail(f"the shape {list(target)} has a negative size")
        if allow_zero or (isinstance(entry, Value) and axis >= len(source)):
            found.append(entry)
        elif isinstance(entry, Value):
            found.append(e.select(e.compare("eq", entry, 0), e.size(source[axis]), entry))
        elif isinstance(entry, int) and entry == 0:
            if axis >= len(source):
                n.fail(f"entry {axis} of the shape is 0, the operand has rank {len(source)}")
            found.append(source[axis])
        else:
            found.append(entry)
    if not inferred and any(isinstance(x, Value) for x in found):
        found = _infer_at_run_time(e, source, found)
    dims = [as_size(e, x) for x in found]
    for axis in inferred:
        others = dims[:axis] + dims[axis + 1 :]
        dims[axis] = quotient(source, others)
        whole, part = product(tuple(source)), product(tuple(others))
        if isinstance(whole, int) and isinstance(part, int) and part and whole % part:
            n.fail(f"the {whole} elements of {list(source)} have no shape {list(target)}: {part} does not divide them")
    return dims


def _infer_at_run_time(e: Emitter, source: Sequence[Dim], found: Sequence[Extent]) -> list[Extent]:
    """One of the run-time entries may turn out to be -1."""
    others: Value = e.size(1)
    for entry in found:
        factor = as_value(e, entry)
        if isinstance(entry, Value):
            factor = e.select(e.compare("eq", entry, -1), e.size(1), entry)
        others = e.binary("mul", others, factor)
    left = e.binary("div", e.size(product(tuple(source))), others)
    return [e.select(e.compare("eq", x, -1), left, x) if isinstance(x, Value) else x for x in found]


@onnx_op("Flatten")
def flatten(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    axis, rank = n.int("axis", 1), x.type.rank
    if not -rank <= axis <= rank:
        n.fail(f"axis {axis} is out of range for rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return e.reshape(x, (product(x.type.shape[:axis]), product(x.type.shape[axis:])))


@onnx_op("Squeeze")
def squeeze_attribute(e: Emitter, n: Node) -> Value:
    return squeeze(e, n, n.input(0), n.ints("axes") if n.has("axes") else None)


@onnx_op("Squeeze", since=13)
def squeeze_input(e: Emitter, n: Node) -> Value:
    axes = n.optional(1)
    return squeeze(e, n, n.input(0), None if axes is None else known_numbers(e, n, axes, "the list of axes"))


def squeeze(e: Emitter, n: Node, x: Value, axes: Sequence[int] | None) -> Value:
    """Without axes of size 1: `axes`, or all of them."""
    dims = x.type.shape
    if axes is None:
        for axis, dim in enumerate(dims):
            if isinstance(dim, Expr):
                bound = e.binding(dim)
                if bound is not None:
                    n.needed(e, bound, f"whether size '{dim}' of axis {axis} is 1, which decides the rank,")
                n.fail(
                    f"without axes, the rank depends on whether size '{dim}' of axis {axis} is 1",
                    help="fix this dimension, or give the axes",
                )
        axes = [i for i, d in enumerate(dims) if d == 1]
    dropped = n.axes(axes, len(dims))
    for axis in dropped:
        if isinstance(dims[axis], int) and dims[axis] != 1:
            n.fail(f"axis {axis} of {x.type} is not of size 1")
    return e.reshape(x, [d for i, d in enumerate(dims) if i not in dropped])


@onnx_op("Unsqueeze")
def unsqueeze_attribute(e: Emitter, n: Node) -> Value:
    return unsqueeze(e, n, n.input(0), n.ints("axes"))


@onnx_op("Unsqueeze", since=13)
def unsqueeze_input(e: Emitter, n: Node) -> Value:
    return unsqueeze(e, n, n.input(0), known_numbers(e, n, n.input(1), "the list of axes"))


def unsqueeze(e: Emitter, n: Node, x: Value, axes: Sequence[int]) -> Value:
    """With new axes of size 1 at positions `axes` of the result."""
    added = n.axes(axes, x.type.rank + len(axes))
    dims = iter(x.type.shape)
    return e.reshape(x, [1 if i in added else next(dims) for i in range(x.type.rank + len(axes))])


@onnx_op("Transpose")
def transpose(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    permutation = n.ints("perm", tuple(range(x.type.rank))[::-1])
    return e.transpose(x, [n.axis(a, x.type.rank) for a in permutation])


@onnx_op("Expand", since=8)
def expand(e: Emitter, n: Node) -> Value:
    """Broadcasting goes both ways: a size of 1 in the shape keeps the operand's."""
    x = n.input(0)
    target = entries(e, n, n.input(1), "the shape")
    source = [1] * (len(target) - x.type.rank) + list(x.type.shape)
    target = [1] * (x.type.rank - len(target)) + target
    dims: list[Dim] = []
    for have, wanted in zip(source, target, strict=True):
        if not isinstance(wanted, Value):
            dims.append(e.common_shape([(have,), (wanted,)])[0])
        elif isinstance(have, int) and have != 1:
            dims.append(have)
        else:
            dims.append(as_size(e, e.select(e.compare("eq", wanted, 1), e.size(have), wanted)))
    return e.broadcast_to(x, dims)


@onnx_op("Tile", since=6)
def tile(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    repeats = [as_size(e, r, "repeats") for r in entries(e, n, n.input(1), "the list of repeats")]
    if len(repeats) != x.type.rank:
        n.fail(f"{len(repeats)} repeats for {x.type}")
    split: list[Dim] = []
    axes = []
    for repeat, dim in zip(repeats, x.type.shape, strict=True):
        if repeat != 1:
            split.append(repeat)
        axes.append(len(split))
        split.append(dim)
    result = e.broadcast(x, split, axes)
    return e.reshape(result, [r * d for r, d in zip(repeats, x.type.shape, strict=True)])


@onnx_op("DepthToSpace")
def depth_to_space(e: Emitter, n: Node) -> Value:
    x, block = n.input(0), int(n.required("blocksize"))
    mode = n.choice("mode", "DCR", ("DCR", "CRD"))
    batch, channels, height, width = _image(n, x)
    if block < 1 or (isinstance(channels, int) and channels % (block * block)):
        n.fail(f"{channels} channels do not divide into blocks of {block} x {block}")
    depth = floordiv(channels, block * block)
    if mode == "DCR":
        x = e.reshape(x, (batch, block, block, depth, height, width))
        x = e.transpose(x, (0, 3, 4, 1, 5, 2))
    else:
        x = e.reshape(x, (batch, depth, block, block, height, width))
        x = e.transpose(x, (0, 1, 4, 2, 5, 3))
    return e.reshape(x, (batch, depth, height * block, width * block))


@onnx_op("SpaceToDepth")
def space_to_depth(e: Emitter, n: Node) -> Value:
    x, block = n.input(0), int(n.required("blocksize"))
    mode = n.choice("mode", "DCR", ("DCR", "CRD"))
    batch, channels, height, width = _image(n, x)
    if block < 1 or any(isinstance(d, int) and d % block for d in (height, width)):
        n.fail(f"{height} x {width} does not divide into blocks of {block} x {block}")
    rows, columns = floordiv(height, block), floordiv(width, block)
    x = e.reshape(x, (batch, channels, rows, block, columns, block))
    x = e.transpose(x, (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return e.reshape(x, (batch, channels * (block * block), rows, columns))


def _image(n: Node, x: Value) -> tuple[Dim, Dim, Dim, Dim]:
    if x.type.rank != 4:
        n.fail(f"takes [batch, channels, height, width], got {x.type}")
    batch, channels, height, width = x.type.shape
    return batch, channels, height, width
