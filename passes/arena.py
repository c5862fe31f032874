"""Packing buffers with known lifetimes into one block of memory.

Static sizes: several greedy orders are tried and the lowest result kept (the problem is NP-hard; on real models the
best of these is mostly at the lower bound, the largest sum of sizes alive at one time).

Symbolic sizes: buffers whose sizes are multiples of one expression (``3072*seq``, ``768*seq``) are packed as static
ones in units of it. The packed groups then share *slots*: groups that are never alive together lie at the same
place, whose size is the maximum of theirs. Offsets and the total are formulas in the symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ds_compiler.ir.dims import Dim, Expr, ceildiv, evaluate, maximum, symbols_of

ALIGNMENT = 64

# Stands for every symbol where sizes must be compared to choose between layouts that are all correct.
_NOMINAL = 128


@dataclass(frozen=True, slots=True)
class Interval:
    """A buffer of `size` bytes that is alive from time `first` to time `last`, both included."""

    size: Dim
    first: int
    last: int

    def meets(self, other: Interval) -> bool:
        """Whether both are alive at one time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Layout:
    """Where each buffer lies, in the order given, and the size of the whole (all in bytes, multiples of 64)."""

    offsets: tuple[Dim, ...]
    size: Dim


def pack(intervals: Sequence[Interval]) -> Layout:
    """A layout in which buffers that are alive together do not overlap."""
    groups: dict[Dim, list[int]] = {}
    for index, interval in enumerate(intervals):
        groups.setdefault(_primitive(interval.size)[1], []).append(index)
    parts = [part for unit, members in groups.items() for part in _parts(intervals, members, unit)]
    offsets: list[Dim] = [0] * len(intervals)
    total: Dim = 0
    for slot in _slots(parts):
        size: Dim = 0
        for part in slot:
            for index, offset in zip(part.members, part.offsets, strict=True):
                offsets[index] = total + offset
            size = maximum(size, part.size)
        total = total + size
    return Layout(tuple(offsets), total)


def aligned(size: Dim) -> Dim:
    """`size` rounded up to a multiple of 64."""
    return ceildiv(size, ALIGNMENT) * ALIGNMENT


def lower_bound(intervals: Sequence[Interval]) -> Dim:
    """The largest number of bytes alive at one time; no layout is smaller (symbolic: an expression)."""
    alive: dict[tuple[int, ...], Dim] = {}
    for time in sorted({i.first for i in intervals}):
        members = tuple(index for index, i in enumerate(intervals) if i.first <= time <= i.last)
        total: Dim = 0
        for index in members:
            total = total + aligned(intervals[index].size)
        alive[members] = total
    result: Dim = 0
    totals = sorted(set(alive.values()), key=nominal, reverse=True)
    for total in totals[:8]:  # further ones are smaller at the nominal sizes, and would only lengthen the expression
        result = maximum(result, total)
    return result


def nominal(size: Dim) -> int:
    """`size` with every symbol at a middling value, for choosing between layouts."""
    return evaluate(size, dict.fromkeys(symbols_of(size), _NOMINAL))


def overlaps(intervals: Sequence[Interval], layout: Layout, values: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of buffers that are alive together and share memory when the symbols have these values (none if right)."""
    spans = []
    for interval, offset in zip(intervals, layout.offsets, strict=True):
        start = evaluate(offset, values)
        spans.append((start, start + evaluate(interval.size, values)))
    return [
        (a, b)
        for a in range(len(spans))
        for b in range(a + 1, len(spans))
        if intervals[a].meets(intervals[b]) and spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]
    ]


# -- symbolic sizes ---------------------------------------------------------------------------
def _primitive(size: Dim) -> tuple[int, Dim]:
    """(c, unit) with size = c * unit and no common factor left in the unit; a static size has unit 1."""
    if not isinstance(size, Expr):
        return size, 1
    common = math.gcd(*(c for _, c in size.terms))
    return common, Expr({m: c // common for m, c in size.terms})


@dataclass
class _Part:
    """Buffers of one unit whose lifetimes hang together, packed relative to the part's start."""

    members: list[int]
    offsets: list[Dim]
    size: Dim
    first: int
    last: int


def _parts(intervals: Sequence[Interval], members: Sequence[int], unit: Dim) -> list[_Part]:
    if isinstance(unit, int):
        step: Dim = ALIGNMENT
        counts = {m: -(-_static(intervals[m].size) // ALIGNMENT) for m in members}
    else:
        # One step is a common divisor of all sizes, rounded up to the alignment once, so that every offset is aligned.
        factors = {m: _primitive(intervals[m].size)[0] for m in members}
        common = math.gcd(*factors.values())
        step = aligned(unit * common)
        counts = {m: factor // common for m, factor in factors.items()}
    parts = []
    for cluster in [list(members)] if isinstance(unit, int) else _clusters(intervals, members):
        places, height = _pack_static([(counts[m], intervals[m].first, intervals[m].last) for m in cluster])
        first, last = min(intervals[m].first for m in cluster), max(intervals[m].last for m in cluster)
        parts.append(_Part(cluster, [place * step for place in places], height * step, first, last))
    return parts


def _static(size: Dim) -> int:
    assert isinstance(size, int)
    return size


def _clusters(intervals: Sequence[Interval], members: Sequence[int]) -> list[list[int]]:
    """Split where no member is alive."""
    clusters: list[list[int]] = []
    end = -1
    for member in sorted(members, key=lambda m: intervals[m].first):
        if not clusters or intervals[member].first > end:
            clusters.append([])
        clusters[-1].append(member)
        end = max(end, intervals[member].last)
    return clusters


def _slots(parts: list[_Part]) -> list[list[_Part]]:
    """Parts that are never alive together share a slot; the largest parts choose first, the closest size wins."""
    slots: list[list[_Part]] = []
    for part in sorted(parts, key=lambda p: (-nominal(p.size), p.first)):
        free = [s for s in slots if all(p.last < part.first or part.last < p.first for p in s)]
        if free:
            # Slots are filled in descending size, so the smallest that is large enough is the last one found.
            min(free, key=lambda s: nominal(s[0].size)).append(part)
        else:
            slots.append([part])
    return slots


# -- static sizes -----------------------------------------------------------------------------
_Static = tuple[int, int, int]  # size, first, last


def _pack_static(buffers: Sequence[_Static]) -> tuple[list[int], int]:
    """Offsets and height: the best of several greedy orders."""
    neighbours = _neighbours(buffers)
    # Sums are largest at a birth: those born before or with buffer i that are alive when it is born.
    born = [
        sum(buffers[n][0] for n in (i, *near) if buffers[n][1] <= buffers[i][1]) for i, near in enumerate(neighbours)
    ]
    bound = max(born, default=0)
    best: tuple[list[int], int] | None = None
    for order, best_fit in _ORDERS:
        placed = _place(buffers, neighbours, sorted(range(len(buffers)), key=lambda i: order(buffers[i])), best_fit)
        if best is None or placed[1] < best[1]:
            best = placed
        if best[1] <= bound:
            break
    return best or ([], 0)


_ORDERS: tuple[tuple[Callable[[_Static], tuple[int, ...]], bool], ...] = (
    (lambda b: (-b[0], b[1]), True),  # large first
    (lambda b: (b[1], -b[0]), True),  # in the order of birth
    (lambda b: (-b[0] * (b[2] - b[1] + 1), b[1]), True),  # large and long first
    (lambda b: (-b[0], b[1]), False),
    (lambda b: (b[1], -b[0]), False),
    (lambda b: (-(b[2] - b[1]), -b[0]), True),  # long-lived first
    (lambda b: (-b[2], -b[0]), True),  # backwards in time
)


def _neighbours(buffers: Sequence[_Static]) -> list[list[int]]:
    """For each buffer those alive together with it."""
    result: list[list[int]] = [[] for _ in buffers]
    alive: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda i: buffers[i][1]):
        alive = [a for a in alive if buffers[a][2] >= buffers[index][1]]
        for other in alive:
            result[other].append(index)
            result[index].append(other)
        alive.append(index)
    return result


def _place(
    buffers: Sequence[_Static], neighbours: Sequence[Sequence[int]], order: Sequence[int], best_fit: bool
) -> tuple[list[int], int]:
    """Put each buffer, in `order`, into the smallest (`best_fit`) or lowest gap between those it lives with."""
    offsets = [-1] * len(buffers)
    height = 0
    for index in order:
        size = buffers[index][0]
        taken = sorted((offsets[n], offsets[n] + buffers[n][0]) for n in neighbours[index] if offsets[n] >= 0)
        end, chosen, smallest = 0, -1, math.inf
        for start, stop in taken:
            gap = start - end
            if gap >= size and gap < smallest:
                chosen, smallest = end, gap
                if not best_fit:
                    break
            end = max(end, stop)
        offsets[index] = chosen if chosen >= 0 else end
        height = max(height, offsets[index] + size)
    return offsets, height
