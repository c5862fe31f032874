"""Regions of images: boxes chosen by score and overlap, and features read inside of boxes."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import as_size, entries
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.indexing import positions_of_true
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Dim, Region, TensorType, Value
from ds_compiler.ir.dims import maximum, minimum, product
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ops import Gather, GatherElements, Iota, TopK, While, Yield


@onnx_op("NonMaxSuppression", since=10)
def non_max_suppression(e: Emitter, n: Node) -> Value:
    """For each batch entry and class, the best boxes of which none overlaps a better one: [count, 3] of (batch, class,
    box).

    A loop goes through the boxes by falling score, all batch entries and classes at once; each box is compared with
    those kept so far. It ends where no box is left whose score passes.
    """
    boxes, scores = n.input(0), n.input(1)
    if boxes.type.rank != 3 or scores.type.rank != 3:
        n.fail(f"boxes are {boxes.type}, scores {scores.type}, expected [batch, boxes, 4] and [batch, classes, boxes]")
    e.assume(boxes.type.shape[2], 4, f"{n.op_type}: boxes are {boxes.type}, expected [batch, boxes, 4]")
    batch, classes, count = scores.type.shape
    limit = n.optional(2)
    if limit is None:
        return e.full(0, TensorType((0, 3), i64))
    given = as_size(e, entries(e, n, e.reshape(limit, ()), "max_output_boxes_per_class")[0], "most")
    most = minimum(maximum(given, 0), count)
    if most == 0:
        return e.full(0, TensorType((0, 3), i64))
    order = e.insert(TopK(scores, count, True))
    ranked, rank = order
    passing = _passing(e, n, ranked)
    lows, highs = _corners(e, n, e.wide(boxes))
    lanes = (batch, classes, most)
    edges = [e.full(0, TensorType(lanes, lows[0].type.dtype)) for _ in range(4)]
    start = (
        e.constant(0, i64),
        e.full(0, TensorType((batch, classes), i64)),
        e.full(0, TensorType(lanes, i64)),
        *edges,
    )
    last = e.reduce(passing, (0, 1), "max")
    condition = Block([v.type for v in start])
    with e.into(condition):
        e.insert(Yield((e.compare("lt", condition.arguments[0], last),)))
    body = Block([v.type for v in start])
    with e.into(body):
        e.insert(Yield(tuple(_candidate(e, n, body.arguments, rank, passing, (*lows, *highs)))))
    _, kept, chosen, *_ = e.insert(While(start, Region(condition), Region(body)))
    place = e.emit(Iota(lanes, 2, i64))
    held = e.compare("lt", place, e.reshape(kept, (batch, classes, 1)))
    found = positions_of_true(e, e.reshape(held, (product(lanes),)))
    box = e.emit(Gather(e.reshape(chosen, (product(lanes),)), found, 0))
    lane = e.binary("div", found, e.binary("max", e.size(most), 1))
    entry = e.binary("div", lane, e.binary("max", e.size(classes), 1))
    class_ = e.binary("mod", lane, e.binary("max", e.size(classes), 1))
    return e.concat([e.reshape(v, (found.type.shape[0], 1)) for v in (entry, class_, box)], 1)


def _passing(e: Emitter, n: Node, ranked: Value) -> Value:
    """How many scores of each row [batch, classes, boxes], which fall, lie above the threshold."""
    threshold = n.optional(4)
    batch, classes, count = ranked.type.shape
    if threshold is None:
        return e.broadcast_to(e.size(count), (batch, classes))
    above = e.compare("gt", ranked, e.cast(e.reshape(threshold, ()), ranked.type.dtype))
    return e.reduce(e.cast(above, i64), (2,), "sum")


def _corners(e: Emitter, n: Node, boxes: Value) -> tuple[list[Value], list[Value]]:
    """Lower and upper edges along both axes, each [batch, boxes]."""
    batch, count, _ = boxes.type.shape
    a, b, c, d = (e.reshape(e.slice(boxes, 2, i, i + 1), (batch, count)) for i in range(4))
    if n.int("center_point_box", 0):  # x and y of the centre, width, height
        halves = [e.binary("mul", v, 0.5) for v in (c, d)]
        pairs = list(zip((a, b), halves, strict=True))
        return [e.binary("sub", v, h) for v, h in pairs], [e.binary("add", v, h) for v, h in pairs]
    return [e.binary("min", a, c), e.binary("min", b, d)], [e.binary("max", a, c), e.binary("max", b, d)]


def _candidate(
    e: Emitter, n: Node, carried: Sequence[Value], rank: Value, passing: Value, edges: tuple[Value, ...]
) -> list[Value]:
    """One iteration: the box that comes next in each row is kept, or not."""
    step, kept, chosen, *of_kept = carried
    batch, classes, most = chosen.type.shape
    row = (batch, classes)
    at = e.broadcast_to(e.reshape(step, (1, 1, 1)), (batch, classes, 1))
    box = e.reshape(e.emit(GatherElements(rank, at, 2)), row)
    own = [e.emit(GatherElements(v, box, 1)) for v in edges]
    wide = [e.broadcast(v, chosen.type.shape, (0, 1)) for v in own]
    held = e.emit(Iota(chosen.type.shape, 2, i64))
    used = e.compare("lt", held, e.broadcast(kept, chosen.type.shape, (0, 1)))
    threshold = n.optional(3)
    limit = e.scalar(0, f32) if threshold is None else e.reshape(threshold, ())
    overlap = _overlap(e, wide, of_kept)
    hit = e.binary("and", used, e.compare("gt", overlap, e.cast(limit, overlap.type.dtype)))
    free = e.unary("not", e.reduce(hit, (2,), "any"))
    free = e.binary("and", free, e.compare("lt", e.broadcast_to(step, row), passing))
    free = e.binary("and", free, e.compare("lt", kept, e.size(most)))
    here = e.compare("eq", held, e.broadcast(kept, chosen.type.shape, (0, 1)))
    here = e.binary("and", here, e.broadcast(free, chosen.type.shape, (0, 1)))
    return [
        e.binary("add", step, 1),
        e.binary("add", kept, e.cast(free, i64)),
        e.select(here, e.broadcast(box, chosen.type.shape, (0, 1)), chosen),
        *(e.select(here, new, old) for new, old in zip(wide, of_kept, strict=True)),
    ]


def _overlap(e: Emitter, a: list[Value], b: list[Value]) -> Value:
    """Intersection over union of boxes given by two lower and two upper edges; 0 where one of them is empty."""
    zero = e.scalar(0, a[0].type.dtype)
    sides = []
    for axis in (0, 1):
        low, high = e.binary("max", a[axis], b[axis]), e.binary("min", a[axis + 2], b[axis + 2])
        sides.append(e.binary("max", e.binary("sub", high, low), zero))
    common = e.binary("mul", *sides)
    areas = [e.binary("mul", e.binary("sub", box[2], box[0]), e.binary("sub", box[3], box[1])) for box in (a, b)]
    union = e.binary("sub", e.binary("add", *areas), common)
    some = e.binary("and", e.compare("gt", areas[0], 0), e.compare("gt", areas[1], 0))
    some = e.binary("and", some, e.compare("gt", union, 0))
    return e.select(some, e.binary("div", common, union), zero)


@onnx_op("RoiAlign", since=10)
def roi_align(e: Emitter, n: Node) -> Value:
    """Bilinear samples inside of each region's bins, their mean or maximum: [regions, channels, height, width].

    Without ``sampling_ratio`` a bin of each region has as many samples as it is pixels long: the largest such number
    is a size that data decides, and regions that need fewer leave the rest out.
    """
    x, rois, entry = n.input(0), n.input(1), n.input(2)
    if x.type.rank != 4 or rois.type.rank != 2 or entry.type.rank != 1:
        n.fail(f"takes an image, regions [n, 4] and batch indices [n], got {x.type}, {rois.type}, {entry.type}")
    e.assume(rois.type.shape[1], 4, f"{n.op_type}: regions are {rois.type}, expected [n, 4]")
    mode = n.choice("mode", "avg", ("avg", "max"))
    check_indices(e, n, entry, x.type.shape[0], 0, what="batch index", negative=False)
    half = n.choice("coordinate_transformation_mode", "half_pixel" if n.opset >= 16 else "output_half_pixel",
                    ("half_pixel", "output_half_pixel")) == "half_pixel"  # fmt: skip
    out = (n.int("output_height", 1), n.int("output_width", 1))
    ratio = n.int("sampling_ratio", 0)
    regions = rois.type.shape[0]
    scaled = e.binary("mul", e.wide(rois), n.float("spatial_scale", 1.0))
    if half:
        scaled = e.binary("sub", scaled, 0.5)
    x0, y0, x1, y1 = (e.reshape(e.slice(scaled, 1, i, i + 1), (regions,)) for i in range(4))
    bins, grids, samples = [], [], []
    for low, high, cells in ((y0, y1, out[0]), (x0, x1, out[1])):
        extent = e.binary("sub", high, low)
        most: Dim = ratio
        if not half:
            extent = e.binary("max", extent, 1)
        bin_ = e.binary("div", extent, cells)
        if ratio > 0:
            grid = e.full(ratio, bin_.type.with_dtype(i64))
        else:
            grid = e.cast(e.unary("ceil", bin_), i64)
            most = maximum(e.bind(e.binary("max", e.reduce(grid, (0,), "max"), 1), "samples"), 1)
        bins.append(bin_)
        grids.append(grid)
        samples.append(_samples(e, low, bin_, grid, cells, most))
    _, channels, height, width = x.type.shape
    shape = (regions, channels, *samples[0].type.shape[1:], *samples[1].type.shape[1:])
    rows = _taps(e, samples[0], height)
    columns = _taps(e, samples[1], width)
    flat = e.reshape(e.wide(x), (x.type.elements,))
    plane = e.binary("mul", e.broadcast(e.cast(entry, i64), shape[:2], (0,)), e.size(channels))
    plane = e.binary("add", plane, e.emit(Iota(shape[:2], 1, i64)))
    parts = []
    for row, row_weight in rows:
        for column, column_weight in columns:
            at = e.binary("mul", e.broadcast(plane, shape, (0, 1)), e.size(height))
            at = e.binary("mul", e.binary("add", at, e.broadcast(row, shape, (0, 2, 3))), e.size(width))
            at = e.binary("add", at, e.broadcast(column, shape, (0, 4, 5)))
            weights = e.broadcast(row_weight, shape, (0, 2, 3)), e.broadcast(column_weight, shape, (0, 4, 5))
            parts.append(e.binary("mul", e.emit(Gather(flat, at, 0)), e.binary("mul", *weights)))
    taken = _combined(e, parts, "add" if mode == "avg" else "max")
    inside = e.binary(
        "and",
        *(
            e.broadcast(
                e.compare("lt", e.emit(Iota((regions, most), 1, i64)), e.reshape(grid, (regions, 1))), shape, (0, axis)
            )
            for grid, most, axis in ((grids[0], shape[3], 3), (grids[1], shape[5], 5))
        ),
    )
    if mode == "max":
        least = e.scalar(float("-inf"), taken.type.dtype)
        best = e.reduce(e.select(inside, taken, least), (3, 5), "max")
        return e.cast(best, x.type.dtype)
    total = e.reduce(e.select(inside, taken, e.scalar(0, taken.type.dtype)), (3, 5), "sum")
    number = e.cast(e.binary("max", e.binary("mul", *grids), 1), taken.type.dtype)
    return e.cast(e.binary("div", total, e.broadcast(number, total.type.shape, (0,))), x.type.dtype)


def _combined(e: Emitter, parts: list[Value], kind: str) -> Value:
    result = parts[0]
    for part in parts[1:]:
        result = e.binary(kind, result, part)
    return result


def _samples(e: Emitter, low: Value, bin_: Value, grid: Value, cells: int, most: Dim) -> Value:
    """Positions along one axis: [regions, cells, samples of a cell]."""
    shape = (low.type.shape[0], cells, most)
    cell, sample = (e.emit(Iota(shape, axis, low.type.dtype)) for axis in (1, 2))
    count = e.broadcast(e.cast(e.binary("max", grid, 1), low.type.dtype), shape, (0,))
    within = e.binary("div", e.binary("add", sample, 0.5), count)
    place = e.binary("mul", e.binary("add", cell, within), e.broadcast(bin_, shape, (0,)))
    return e.binary("add", place, e.broadcast(low, shape, (0,)))


def _taps(e: Emitter, place: Value, extent: Dim) -> list[tuple[Value, Value]]:
    """(index, weight) of the two pixels beside each position; more than a pixel outside nothing is read."""
    dtype = place.type.dtype
    size = e.cast(e.size(extent), dtype)
    inside = e.binary("and", e.compare("ge", place, -1), e.compare("le", place, size))
    place = e.binary("min", e.binary("max", place, 0), e.binary("sub", size, 1))
    first = e.unary("floor", place)
    fraction = e.binary("sub", place, first)
    low = e.cast(first, i64)
    high = e.binary("min", e.binary("add", low, 1), e.size(extent - 1))
    zero = e.scalar(0, dtype)
    rest = e.binary("sub", e.full(1, fraction.type), fraction)
    return [(low, e.select(inside, rest, zero)), (high, e.select(inside, fraction, zero))]
