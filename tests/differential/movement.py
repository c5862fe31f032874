"""Operators that move, select and index elements, and arithmetic on shapes."""

from __future__ import annotations

import numpy as np

from tests.differential.graph import Graph, Stop

_MOVABLE = "ffffdhijsub"


def transpose(g: Graph) -> None:
    x = g.pick(_MOVABLE, 1)
    g.node("Transpose", [x], perm=g.permutation(x.rank))


def reshape(g: Graph) -> None:
    x = g.pick(_MOVABLE)
    if x.rank and x.size(0) is None:
        keep = g.choose(0, -1)
        rest = int(np.prod(x.like()[1:], dtype=int))
        if any(x.size(a) is None for a in range(1, x.rank)) or not rest:
            g.node("Reshape", [x, g.ints(*([0] * g.number(0, x.rank - 1)), -1)])
            return
        first = g.choose(*(d for d in range(1, rest + 1) if rest % d == 0))
        g.node("Reshape", [x, g.ints(keep, first, rest // first)])
    else:
        match g.choose("flat", "flatten", "squeeze", "unsqueeze"):
            case "flat":
                g.node("Reshape", [x, g.ints(-1)])
            case "flatten":
                g.node("Flatten", [x], axis=g.number(-x.rank, x.rank))
            case "squeeze":
                ones = [a for a in range(x.rank) if x.size(a) == 1]
                if not ones:
                    raise Stop
                g.node("Squeeze", [x, g.ints(g.choose(*ones))])
            case "unsqueeze":
                places = sorted({g.number(0, x.rank) for _ in range(g.number(1, 2))})
                g.node("Unsqueeze", [x, g.ints(*places)])


def reshape_by_sizes(g: Graph) -> None:
    """As exporters write it: sizes taken from shapes, put together again."""
    x = g.pick("ffd", 2)
    (shape,) = g.node("Shape", [x])
    axis = g.number(0, x.rank - 1)
    (size,) = g.node("Gather", [shape, g.ints(axis)])
    match g.number(0, 3):
        case 0:
            (target,) = g.node("Concat", [size, g.ints(-1)], axis=0)
            g.node("Reshape", [x, target])
        case 1:
            (target,) = g.node("Concat", [g.ints(1, 2), shape], axis=0)
            g.node("Expand", [x, target])
        case 2:
            (zeros,) = g.node("ConstantOfShape", [shape])
            g.node("Add", [x, zeros] if x.dtype == np.float32 else [zeros, zeros])
        case 3:
            (scalar,) = g.node("Squeeze", [size])
            (steps,) = g.node("Range", [g.constant(np.int64(0)), scalar, g.constant(np.int64(1))])
            g.node("Gather", [x, steps], axis=axis)


def expand(g: Graph) -> None:
    x = g.pick(_MOVABLE)
    if g.flag():
        target = [x.size(a) if x.size(a) is not None and x.size(a) != 1 and g.flag() else 1 for a in range(x.rank)]
        target = [g.choose(1, 2, 3) if s == 1 and x.size(a) == 1 else s for a, s in enumerate(target)]
        g.node("Expand", [x, g.ints(*([g.number(1, 2)] if g.flag() else []), *(s or 1 for s in target))])
    else:
        if not x.rank:
            raise Stop
        g.node("Tile", [x, g.ints(*(g.choose(1, 1, 2, 3) for _ in range(x.rank)))])


def concat(g: Graph) -> None:
    x = g.pick(_MOVABLE, 1)
    axis = g.axis(x)

    def fits(y: object) -> bool:
        other = y.shapes  # type: ignore[attr-defined]
        at = axis % x.rank
        pairs = zip(x.shapes, other, strict=True)
        return (
            y.dtype == x.dtype
            and all(  # type: ignore[attr-defined]
                len(a) == len(b) and a[:at] + a[at + 1 :] == b[:at] + b[at + 1 :] for a, b in pairs
            )
        )

    g.node("Concat", [x, *(g.pick(_MOVABLE, 1, fits) for _ in range(g.number(1, 2)))], axis=axis)


def split(g: Graph) -> None:
    x = g.pick(_MOVABLE, 1, lambda v: any(v.size(a) is not None for a in range(v.rank)))
    axis = g.choose(*(a for a in range(x.rank) if x.size(a) is not None))
    size = x.size(axis) or 0
    if g.flag() and size > 1:
        parts = g.number(2, min(3, size))
        if (parts - 1) * -(-size // parts) < size:
            g.node("Split", [x], parts, axis=axis, num_outputs=parts)
    else:
        first = g.number(0, size)
        g.node("Split", [x, g.ints(first, size - first)], 2, axis=axis)


def slice_(g: Graph) -> None:
    x = g.pick(_MOVABLE, 1)
    axes = g.draw_axes(x)
    steps = [g.choose(1, 1, 2, 3, -1, -2) for _ in axes]
    starts = [g.number(-4, 4) if s > 0 else g.choose(-1, 3, 2**31 - 1) for s in steps]
    stops = [g.choose(2**63 - 1, -1, 2, 5) if s > 0 else g.choose(-(2**63), -3, 0) for s in steps]
    g.node("Slice", [x, *(g.ints(*v) for v in (starts, stops, axes, steps))])


def pad(g: Graph) -> None:
    x = g.pick("fffdi", 1)
    mode = g.choose("constant", "constant", "edge", "reflect", "wrap")
    low = -1 if mode == "constant" else 0
    pads = g.ints(*(g.choose(0, 0, 1, 2, low) for _ in range(2 * x.rank)))
    g.node(
        "Pad", [x, pads] + ([g.constant(g.choose(0, 2), x.dtype)] if mode == "constant" and g.flag() else []), mode=mode
    )


def rearrange(g: Graph) -> None:
    x = g.pick("f", 2)
    match g.choose("Trilu", "DepthToSpace", "SpaceToDepth", "ReverseSequence", "EyeLike", "CenterCropPad", "Size"):
        case "Trilu":
            g.node("Trilu", [x, g.constant(np.int64(g.number(-2, 2)))], upper=g.flag())
        case "DepthToSpace":
            if x.rank != 4 or (x.size(1) or 1) % 4:
                raise Stop
            g.node("DepthToSpace", [x], blocksize=2, mode=g.choose("DCR", "CRD"))
        case "SpaceToDepth":
            if x.rank != 4 or any((x.size(a) or 1) % 2 for a in (2, 3)):
                raise Stop
            g.node("SpaceToDepth", [x], blocksize=2)
        case "ReverseSequence":
            rows, batch = x.size(0), x.size(1)
            if not rows or not batch:
                raise Stop
            lengths = g.ints(*(g.number(1, rows) for _ in range(batch)))
            g.node("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1)
        case "EyeLike":
            if x.rank != 2:
                raise Stop
            g.node("EyeLike", [x], k=g.number(-1, 1))
        case "CenterCropPad":
            axes = g.draw_axes(x)
            g.node("CenterCropPad", [x, g.ints(*(g.number(1, 6) for _ in axes))], axes=axes)
        case "Size":
            (count,) = g.node("Size", [x])
            (count,) = g.node("Cast", [count], to=1)
            g.node("Div", [x, count])


def gather(g: Graph) -> None:
    x = g.pick(_MOVABLE, 1)
    axis = g.axis(x)
    size = min(s[axis] for s in x.shapes)
    if not size:
        raise Stop
    shape = g.choose((), (1,), (3,), (2, 2), (0,))
    rows = g.constant(
        np.array([g.number(-size, size - 1) for _ in range(int(np.prod(shape)))], np.int64).reshape(shape)
    )
    g.node("Gather", [x, rows], axis=axis)


def gather_elements(g: Graph) -> None:
    x = g.pick("ffi", 1)
    axis = g.axis(x)
    size = min(s[axis] for s in x.shapes)
    shape = [x.size(a) or 1 for a in range(x.rank)]
    shape[axis] = g.number(1, 4)
    if not size:
        raise Stop
    rng = np.random.default_rng(g.number(0, 99))
    if g.flag():
        rows = rng.integers(-size, size, shape)
        g.node("GatherElements", [x, g.constant(rows)], axis=axis)
    else:
        shape[axis] = min(shape[axis], size)
        rows = np.argsort(rng.uniform(size=[*shape[: axis % x.rank], size, *shape[axis % x.rank + 1 :]]), axis)
        rows = np.take(rows, range(shape[axis]), axis)
        how = {} if g.flag() else {"reduction": g.choose("add", "mul", "max", "min")}
        updates = g.weights(*shape, like=x.dtype)
        g.node("ScatterElements", [x, g.constant(rows), updates], axis=axis, **how)


def gather_nd(g: Graph) -> None:
    x = g.pick("ffi", 1)
    depth = g.number(1, x.rank)
    least = [min(s[a] for s in x.shapes) for a in range(depth)]
    if 0 in least:
        raise Stop
    count = g.number(1, 3)
    places = [[g.number(-n, n - 1) for n in least] for _ in range(count)]
    if g.flag():
        g.node("GatherND", [x, g.constant(np.array(places, np.int64))])
        return
    sizes = [x.size(a) for a in range(depth, x.rank)]
    if None in sizes:
        raise Stop
    how = {"reduction": g.choose("add", "mul", "max", "min")}
    if len({tuple(p % n for p, n in zip(place, least, strict=True)) for place in places}) == count and g.flag():
        how = {}
    if any(s != min(z) for s, z in zip(least, zip(*(s[:depth] for s in x.shapes), strict=True), strict=True)):
        raise Stop
    places = [[p if p >= 0 else p % n for p, n in zip(place, least, strict=True)] for place in places]
    updates = g.weights(count, *(s or 0 for s in sizes), like=x.dtype)
    g.node("ScatterND", [x, g.constant(np.array(places, np.int64)), updates], **how)


def decided_by_data(g: Graph) -> None:
    """Results whose sizes depend on contents."""
    match g.choose("NonZero", "Compress", "Unique", "OneHot"):
        case "NonZero":
            x = g.pick("bij", 1)
            (places,) = g.node("NonZero", [x])
            if g.flag():
                (places,) = g.node("Transpose", [places], perm=[1, 0])
                g.node("GatherND", [x, places])
        case "Compress":
            x = g.pick("ffi", 1)
            axis = g.axis(x)
            size = min(s[axis] for s in x.shapes)
            kept = g.constant(np.array([bool(g.flag()) for _ in range(size)], np.bool_))
            g.node("Compress", [x, kept], axis=axis)
        case "Unique":
            x = g.pick("ij", 1)
            g.node("Unique", [x], 4, sorted=1)
        case "OneHot":
            x = g.pick("ij")
            values = g.weights(2)
            g.node("OneHot", [x, g.constant(np.int64(g.number(1, 5))), values], axis=g.number(-x.rank - 1, x.rank))


GROWTH = [
    transpose, transpose, reshape, reshape, reshape_by_sizes, expand, concat, split, slice_, pad, rearrange, gather,
    gather_elements, gather_nd, decided_by_data,
]  # fmt: skip
