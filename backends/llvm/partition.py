"""The tasks' shares of a loop nest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ds_compiler.backends.llvm.body import Body
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.loops.ir import Axis


def task_range(fb: FunctionBuilder, items: V, task: V, tasks: V) -> tuple[V, V]:
    """This task's share [first, last) of `items`."""
    if items.ref == "1":  # task 0 does it
        mine = fb.cast("zext", fb.icmp("eq", task, fb.i64(0)), "i64")
        return fb.i64(0), mine
    first = fb.sdiv(fb.mul(items, task), tasks)
    last = fb.sdiv(fb.mul(items, fb.add(task, fb.i64(1))), tasks)
    return first, last


def each_point(body: Body, axes: Sequence[Axis], extra: V, task: V, tasks: V, visit: Callable[[V], None]) -> None:
    """Loop over this task's points of `axes`; `extra` more units a point, the unit's number going to `visit`."""
    fb = body.fb
    extents = [body.size(a.extent) for a in axes] + [extra]
    total = fb.i64(1)
    for extent in extents:
        total = fb.mul(total, extent)
    first, last = task_range(fb, total, task, tasks)
    if total.ref == "1":
        with fb.loop(first, last), body.scope():
            for axis in axes:
                body.axes[axis] = fb.i64(0)
            visit(fb.i64(0))
        return
    # Positions advance like an odometer: no division inside the loop.
    start: list[V] = []
    rest = first
    for extent in reversed(extents):
        safe = extent if extent.ref.lstrip("-").isdigit() and extent.ref != "0" else fb.smax(extent, fb.i64(1))
        start.append(fb.srem(rest, safe))
        rest = fb.sdiv(rest, safe)
    start.reverse()
    moving = [n for n, e in enumerate(extents) if e.ref != "1"]
    with fb.loop(first, last, carried=[start[n] for n in moving]) as loop, body.scope():
        now = dict(zip(moving, loop.carried))
        for n, axis in enumerate(axes):
            body.axes[axis] = now.get(n, fb.i64(0))
        visit(now.get(len(axes), fb.i64(0)))
        following: list[V] = []
        carry: V | None = None
        for n in reversed(moving):
            step = fb.i64(1) if carry is None else carry
            moved = fb.add(now[n], step)
            wraps = fb.icmp("eq", moved, extents[n])
            following.append(fb.select(wraps, fb.i64(0), moved))
            carry = fb.cast("zext", wraps, "i64")
        loop.carry(*reversed(following))
