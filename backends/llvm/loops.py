"""Loop nests as LLVM code: task split, loop order, vector axis, reductions.

Two schedules here. *Row*: the vector axis is the innermost inner axis, reductions keep several vector accumulators and
finish horizontally (softmax over the last axis). *Column*: the vector axis is the innermost outer axis, so every lane
is an outer point of its own (an elementwise kernel, or a reduction over leading axes). A kernel that reads along
another axis than it writes is left to `transposed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds_compiler.backends.llvm import scalars
from ds_compiler.backends.llvm.body import Body
from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, vector_of
from ds_compiler.backends.llvm.interleaved import emit_interleaved, find_interleaving
from ds_compiler.backends.llvm.partition import each_point
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.transposed import emit_transposed
from ds_compiler.backends.loops.collapse import contiguity, indices_of
from ds_compiler.backends.loops.ir import Axis, Index, Nest, Node, Reduction, Running, Step, Store, step_nodes, walk
from ds_compiler.backends.loops.tiling import find_tiling
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import DType
from ds_compiler.ops.elementwise import BINARY, UNARY
from ds_compiler.ops.reduction import identity

_CHUNK = 4096  # elements of the vector axis that are one unit of work, for a kernel without reductions
_UNROLL = 4  # vectors in flight in a reduction of cheap values
_COLUMN_UNROLL = 8  # measured on sums over 1024 rows of 1024: 4 vectors 13, 8 vectors 21, 16 vectors 26 GB/s
_BLOCK = 256
"""Most additions to one accumulator: rounding errors of a long sum grow with its parts' lengths, not its own (Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2)."""
_COSTLY_FLOPS = 8  # an element from which on one vector has enough independent instructions, and several spill


@dataclass(frozen=True)
class _Partial:
    """What a part of a sum starts with, and how it is added to others."""

    start: Sequence[V]
    add: Callable[[Sequence[V], Sequence[V]], list[V]]


def emit_nest(body: Body, nest: Nest, target: Target, task: V, tasks: V) -> None:
    """Emit this task's share of a nest."""
    emitter = _Emitter(body, nest, target)
    tiling, interleaving = find_tiling(nest), find_interleaving(nest)
    if interleaving is not None:
        emit_interleaved(body, nest, interleaving, target, task, tasks)
    elif tiling is not None:
        emit_transposed(body, nest, tiling, target, task, tasks)
    elif any(isinstance(s, Running) for s in nest.steps):
        emitter.scalar(task, tasks)
    elif nest.serial:
        # In order, on task 0 alone; along the last axis lanes do not meet if they lie side by side.
        emit = emitter.columns if emitter.stores_run_along_last() else emitter.scalar
        emit(task, body.fb.i64(1))
    elif emitter.row_major():
        emitter.rows(task, tasks)
    else:
        emitter.columns(task, tasks)


def stores_together(nest: Nest) -> bool:
    """Whether all values of a point are computed before the first is stored: the results of elementwise work share what
    they have in common, and any of them may overwrite an operand of the others."""
    plain = all(isinstance(s, Store) and s.mode == "set" for s in nest.steps) and not nest.inner and not nest.serial
    return plain and find_tiling(nest) is None and find_interleaving(nest) is None


class _Emitter:
    def __init__(self, body: Body, nest: Nest, target: Target) -> None:
        self.body, self.nest, self.fb = body, nest, body.fb
        self.together = stores_together(nest)
        self.lanes = target.lanes("float")
        self.indices = indices_of(nest)

    # -- choices -------------------------------------------------------------------------------
    def row_major(self) -> bool:
        """Whether to vectorise along the inner axes."""
        nest = self.nest
        if not nest.inner:
            return False
        if any(isinstance(s, Reduction) and s.argument for s in nest.steps) or not nest.outer:
            return not nest.outer or self._contiguity(nest.inner[-1]) >= self._contiguity(nest.outer[-1])
        return self._contiguity(nest.inner[-1]) >= self._contiguity(nest.outer[-1])

    def stores_run_along_last(self) -> bool:
        """Whether adjacent points of the last outer axis are stored to adjacent elements, wherever those are."""
        if not self.nest.outer or self.nest.inner:
            return False
        axis = self.nest.outer[-1]
        stores = [step for step in self.nest.steps if isinstance(step, Store)]
        fixed = (not any(axis in a.axes for a, _ in s.index.terms if not isinstance(a, Axis)) for s in stores)
        return all(s.index.coefficient(axis) == 1 for s in stores) and all(fixed)

    def _contiguity(self, axis: Axis) -> int:
        score = contiguity(self.indices, axis)
        if isinstance(axis.extent, int) and axis.extent < self.lanes:
            score -= 2
        return score

    # -- loops over inner points ---------------------------------------------------------------
    def _nested(
        self,
        axes: Sequence[Axis],
        carried: Sequence[V],
        innermost: Callable[[Sequence[V]], Sequence[V]],
        partial: _Partial | None = None,
    ) -> list[V]:
        """Loops over `axes`, threading loop-carried values through them to `innermost`; their final values.

        Args:
            partial: the values are sums, in which a loop starts anew and adds to what came before it.
        """
        if not axes:
            return list(innermost(carried))
        fb, body, axis = self.fb, self.body, axes[0]

        def walk_axis(first: V, last: V, start: Sequence[V]) -> list[V]:
            with fb.loop(first, last, carried=start, hint="inner") as loop, body.scope():
                body.axes[axis] = loop.index
                if partial is not None and axes[1:]:
                    inner = self._nested(axes[1:], partial.start, innermost, partial)
                    loop.carry(*partial.add(loop.carried, inner))
                else:
                    loop.carry(*self._nested(axes[1:], loop.carried, innermost, partial))
            return loop.results

        return self._in_blocks(body.size(axis.extent), axis.extent, 1, carried, partial, walk_axis)

    def _in_blocks(
        self,
        count: V,
        extent: Dim,
        step: int,
        carried: Sequence[V],
        partial: _Partial | None,
        walk_range: Callable[[V, V, Sequence[V]], list[V]],
    ) -> list[V]:
        """``walk_range(first, last, carried)`` over [0, count), in blocks that are summed apart if that is long."""
        fb, block = self.fb, _BLOCK * step
        if partial is None or (isinstance(extent, int) and extent <= block):
            return walk_range(fb.i64(0), count, carried)
        with fb.loop(fb.i64(0), count, block, carried=carried, hint="block") as loop:
            last = fb.smin(fb.add(loop.index, fb.i64(block)), count)
            loop.carry(*partial.add(loop.carried, walk_range(loop.index, last, partial.start)))
        return loop.results

    def _partial(self, step: Reduction, start: Sequence[V]) -> _Partial | None:
        """How to sum in parts, for a sum of floats."""
        if step.how != "sum" or step.argument or not step.value.dtype.is_float:
            return None
        fb, dtype = self.fb, step.value.dtype
        return _Partial(
            start, lambda a, b: [scalars.combine(fb, "sum", x, y, dtype) for x, y in zip(a, b, strict=True)]
        )

    # -- column schedule -----------------------------------------------------------------------
    def columns(self, task: V, tasks: V) -> None:
        """Lanes are consecutive points of the innermost outer axis."""
        fb, body, nest = self.fb, self.body, self.nest
        if not nest.outer:
            each_point(self.body, [], fb.i64(1), task, tasks, lambda _: self._point(None, fb.i64(0), 0, None))
            return
        axis = nest.outer[-1]
        extent = body.size(axis.extent)
        unroll = self._column_unroll(axis.extent) if nest.inner else 1
        chunk = self.lanes * unroll if nest.inner else _CHUNK
        chunks = fb.sdiv(fb.add(extent, fb.i64(chunk - 1)), fb.i64(chunk))
        varying = frozenset([axis, *nest.inner])

        def visit(unit: V) -> None:
            first = fb.mul(unit, fb.i64(chunk))
            last = fb.smin(fb.add(first, fb.i64(chunk)), extent)
            self._hoist(nest.steps, varying)
            step = self.lanes * unroll
            at = first
            if unroll > 1:
                at = self._vector_loop(axis, at, last, step, unroll)
            at = self._vector_loop(axis, at, last, self.lanes, 1)
            if not self._divides(axis.extent):
                left = fb.sub(last, at)
                with fb.if_(fb.icmp("sgt", left, fb.i64(0))), body.scope():
                    self._point(axis, at, 1, fb.lane_mask(left, self.lanes))

        each_point(self.body, nest.outer[:-1], chunks, task, tasks, visit)

    def _column_unroll(self, extent: Dim) -> int:
        """Vectors side by side in a reduction: wide rows of memory at a time, but work for two tasks at least."""
        if not isinstance(extent, int):
            return _COLUMN_UNROLL
        return next((u for u in (_COLUMN_UNROLL, 4, 2) if extent >= 2 * u * self.lanes), 1)

    def _divides(self, extent: Dim) -> bool:
        return isinstance(extent, int) and extent % self.lanes == 0

    def _vector_loop(self, axis: Axis, first: V, last: V, step: int, unroll: int) -> V:
        """Whole steps of [first, last); returns where the rest begins."""
        fb = self.fb
        count = fb.sdiv(fb.sub(last, first), fb.i64(step))
        end = fb.add(first, fb.mul(count, fb.i64(step)))
        with fb.loop(first, end, step, hint="vector") as loop, self.body.scope():
            self._point(axis, loop.index, unroll, None)
        return end

    def _point(self, axis: Axis | None, at: V, groups: int, mask: V | None) -> None:
        """All steps for `groups` adjacent vectors of outer points (axis None: one scalar outer point)."""
        fb, body, nest = self.fb, self.body, self.nest
        positions = [at] if axis is None else [fb.add(at, fb.i64(g * self.lanes)) for g in range(groups)]
        lanes = 0 if axis is None else self.lanes
        results: list[dict[int, V]] = [{} for _ in positions]

        def each(visit: Callable[[int], None]) -> None:
            for g, position in enumerate(positions):
                body.reduced = results[g]
                if axis is None:
                    with body.scope():
                        visit(g)
                else:
                    with body.lanes_at(axis, position, lanes, mask):
                        visit(g)

        def write_all(_: int) -> None:
            stores = [step for step in nest.steps if isinstance(step, Store)]
            for store in stores:
                body.emit(store.value)
            for store in stores:
                body.store(store)

        if self.together:
            each(write_all)
            return
        for step in nest.steps:
            match step:
                case Reduction():
                    self._reduce_columns(step, each, len(positions), lanes, results)
                case Store():

                    def write(_: Sequence[V], step: Store = step) -> Sequence[V]:
                        each(lambda _: body.store(step))
                        return ()

                    self._nested(nest.inner if step.inner else [], (), write)

    def _reduce_columns(
        self,
        step: Reduction,
        each: Callable[[Callable[[int], None]], None],
        groups: int,
        lanes: int,
        results: list[dict[int, V]],
    ) -> None:
        fb, body = self.fb, self.body
        dtype = step.value.dtype
        neutral = _neutral(step.how, dtype, lanes)
        start = [neutral] * groups
        if step.argument:
            start += [constant(vector_of("i64", lanes), -1)] * groups

        def accumulate(current: Sequence[V]) -> Sequence[V]:
            following = list(current)

            def visit(g: int) -> None:
                value = body.emit(step.value)
                value = fb.splat(value, lanes) if lanes and not value.lanes else value
                if step.argument:
                    assert step.position is not None
                    position = body.index_value(step.position)
                    position = fb.splat(position, lanes) if lanes and not position.lanes else position
                    pair = _better(fb, step, value, position, current[g], current[groups + g], dtype)
                    following[g], following[groups + g] = pair
                else:
                    following[g] = scalars.combine(fb, step.how, current[g], value, dtype)
                if step.keep is not None:
                    body.store(step.keep)

            each(visit)
            return following

        final = self._nested(self.nest.inner, start, accumulate, self._partial(step, start))
        for g in range(groups):
            results[g][step.number] = final[groups + g] if step.argument else final[g]

    # -- row schedule --------------------------------------------------------------------------
    def rows(self, task: V, tasks: V) -> None:
        """Lanes are consecutive points of the innermost inner axis."""
        fb, body, nest = self.fb, self.body, self.nest
        inner = frozenset(nest.inner)

        def visit(_: V) -> None:
            body.reduced = {}
            for step in nest.steps:
                self._hoist([step], inner)
                match step:
                    case Reduction():
                        body.reduced[step.number] = self._reduce_row(step)
                    case Store(inner=True):
                        self._store_row(step)
                    case Store():
                        body.store(step)

        each_point(self.body, nest.outer, fb.i64(1), task, tasks, visit)

    def _store_row(self, step: Store) -> None:
        fb, body, nest = self.fb, self.body, self.nest
        axis = nest.inner[-1]
        extent = body.size(axis.extent)

        def write(_: Sequence[V]) -> Sequence[V]:
            self._hoist([step], frozenset([axis]))
            whole = fb.mul(fb.sdiv(extent, fb.i64(self.lanes)), fb.i64(self.lanes))
            with (
                fb.loop(fb.i64(0), whole, self.lanes, hint="vector") as loop,
                body.lanes_at(axis, loop.index, self.lanes),
            ):
                body.store(step)
            if not self._divides(axis.extent):
                left = fb.sub(extent, whole)
                with (
                    fb.if_(fb.icmp("sgt", left, fb.i64(0))),
                    body.lanes_at(axis, whole, self.lanes, fb.lane_mask(left, self.lanes)),
                ):
                    body.store(step)
            return ()

        self._nested(nest.inner[:-1], (), write)

    def _reduce_row(self, step: Reduction) -> V:
        fb, body, nest = self.fb, self.body, self.nest
        axis, dtype = nest.inner[-1], step.value.dtype
        if step.argument:
            return self._argument_row(step)
        extent = body.size(axis.extent)
        lanes = self.lanes
        unroll = self._row_unroll(step, axis.extent)
        start = [_neutral(step.how, dtype, lanes)] * unroll
        partial = self._partial(step, start)

        def accumulate(current: Sequence[V]) -> Sequence[V]:
            self._hoist([step], frozenset([axis]))
            block = lanes * unroll
            whole = fb.mul(fb.sdiv(extent, fb.i64(block)), fb.i64(block))

            def blocks(first: V, last: V, start: Sequence[V]) -> list[V]:
                with fb.loop(first, last, block, carried=start, hint="vector") as loop:
                    loop.carry(*(take(fb.add(loop.index, fb.i64(g * lanes)), loop.carried[g]) for g in range(unroll)))
                return loop.results

            acc = self._in_blocks(whole, axis.extent, block, current, partial, blocks)
            singles = fb.mul(fb.sdiv(extent, fb.i64(lanes)), fb.i64(lanes))
            if unroll > 1 and not (isinstance(axis.extent, int) and axis.extent % block == 0):
                with fb.loop(whole, singles, lanes, carried=acc[:1], hint="vector") as loop:
                    loop.carry(take(loop.index, loop.carried[0]))
                acc[0] = loop.results[0]
            if not self._divides(axis.extent):
                left = fb.sub(extent, singles)
                branches = fb.if_else(fb.icmp("sgt", left, fb.i64(0)))
                with branches.then():
                    branches.give(take(singles, acc[0], fb.lane_mask(left, lanes)))
                with branches.otherwise():
                    branches.give(acc[0])
                (acc[0],) = branches.results()
            return acc

        def take(at: V, so_far: V, mask: V | None = None) -> V:
            with body.lanes_at(axis, at, lanes, mask):
                value = body.vectorised(body.emit(step.value))
                if step.keep is not None:
                    body.store(step.keep)
                if mask is not None:
                    value = fb.select(mask, value, start[0])
                return scalars.combine(fb, step.how, so_far, value, dtype)

        acc = self._nested(nest.inner[:-1], start, accumulate, partial)
        while len(acc) > 1:
            acc = [scalars.combine(fb, step.how, a, b, dtype) for a, b in zip(acc[::2], acc[1::2], strict=True)]
        return horizontal(fb, step.how, acc[0], dtype)

    def _row_unroll(self, step: Reduction, extent: Dim) -> int:
        """Accumulators of a reduction along a row: several hide the latency of a cheap one over a long row."""
        short = isinstance(extent, int) and extent < 2 * _UNROLL * self.lanes
        return 1 if short or _flops(step.value) >= _COSTLY_FLOPS else _UNROLL

    def _argument_row(self, step: Reduction) -> V:
        """Position of an extremum along a row, one element at a time."""
        fb, body = self.fb, self.body
        dtype = step.value.dtype
        start = [_neutral(step.how, dtype, 0), fb.i64(-1)]
        position_of = step.position
        assert position_of is not None

        def compare(current: Sequence[V]) -> Sequence[V]:
            value, position = body.emit(step.value), body.index_value(position_of)
            return _better(fb, step, value, position, current[0], current[1], dtype)

        return self._nested(self.nest.inner, start, compare)[1]

    # -- one element at a time -----------------------------------------------------------------
    def scalar(self, task: V, tasks: V) -> None:
        """Running sums, and scatters to elements that are apart."""
        fb, body, nest = self.fb, self.body, self.nest

        def visit(_: V) -> None:
            for step in nest.steps:
                match step:
                    case Running():
                        self._running(step)
                    case Store():
                        body.store(step)
                    case Reduction():
                        raise ValueError("a reduction in a serial nest")

        each_point(self.body, nest.outer, fb.i64(1), task, tasks, visit)

    def _running(self, step: Running) -> None:
        fb, body = self.fb, self.body
        dtype = step.value.dtype
        if not self.nest.inner:
            value = _neutral(step.how, dtype, 0) if step.exclusive else body.emit(step.value)
            self._write(step, value)
            return
        (axis,) = self.nest.inner
        extent = body.size(axis.extent)
        with fb.loop(fb.i64(0), extent, carried=[_neutral(step.how, dtype, 0)]) as loop, body.scope():
            body.axes[axis] = fb.sub(fb.sub(extent, fb.i64(1)), loop.index) if step.reverse else loop.index
            following = scalars.combine(fb, step.how, loop.carried[0], body.emit(step.value), dtype)
            self._write(step, loop.carried[0] if step.exclusive else following)
            loop.carry(following)

    def _write(self, step: Running, value: V) -> None:
        node = Node("given", (), step.value.dtype, frozenset())
        self.body.given[node] = value
        self.body.store(Store(step.buffer, step.index, node, inner=False))

    def _hoist(self, steps: Sequence[Step], varying: frozenset[Axis]) -> None:
        for step in steps:
            known = [n for n in step_nodes(step) if self._ready(n)]
            own = step.position if isinstance(step, Reduction) else step.index
            indices: list[Index] = [own] if own is not None else []
            if isinstance(step, Reduction) and step.keep is not None:
                indices.append(step.keep.index)
            self.body.hoist(known, indices, varying)

    def _ready(self, node: Node) -> bool:
        """Every reduction below `node` has run (those of later steps have not)."""
        return all(n.payload in self.body.reduced for n in walk([node]) if n.op == "reduced")


def _flops(root: Node) -> int:
    """What the cost model counts for one element of a value."""
    return sum((UNARY.get(n.op) or BINARY[n.op]).flops for n in walk([root]) if n.op in UNARY or n.op in BINARY)


def _neutral(how: str, dtype: DType, lanes: int) -> V:
    return constant(vector_of(scalars.compute_type(dtype), lanes), identity(how, dtype.numpy))


def _better(fb: FunctionBuilder, step: Reduction, value: V, position: V, best: V, at: V, dtype: DType) -> tuple[V, V]:
    """The better of (value, position) and the best so far; NaN wins and stays."""
    kind = ("ge" if step.last else "gt") if step.how == "max" else ("le" if step.last else "lt")
    wins = scalars.compare(fb, kind, value, best, dtype)
    none_yet = fb.icmp("eq", at, constant(at.type, -1))
    wins = fb.binary("or", wins, none_yet)
    if dtype.is_float:
        best_nan, value_nan = fb.fcmp("uno", best, best), fb.fcmp("uno", value, value)
        best_number = fb.binary("xor", best_nan, constant(best_nan.type, True))
        allowed = value_nan if step.last else fb.binary("and", value_nan, best_number)
        wins = fb.binary("or", fb.binary("and", wins, best_number), allowed)
    return fb.select(wins, value, best), fb.select(wins, position, at)


def horizontal(fb: FunctionBuilder, how: str, vector: V, dtype: DType) -> V:
    """Combine the lanes of a vector, halving it each time."""
    while vector.lanes > 1:
        half = vector.lanes // 2
        low = fb.shuffle(vector, vector, list(range(half)))
        high = fb.shuffle(vector, vector, list(range(half, 2 * half)))
        vector = scalars.combine(fb, how, low, high, dtype)
    return fb.extract(vector, 0)
