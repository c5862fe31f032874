"""The k largest or smallest elements of each row, in order, with their positions.

A heap of the k best elements so far stands in the result's own row, the worst of them at its root: each element of
the row is compared with the root and replaces it if it is better; at the end the heap is sorted in place. O(n log k),
and for k much smaller than n mostly one comparison an element. The order is total (ties by position, NaN above all
numbers), so the result does not depend on how the heap moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.llvm import scalars
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.contraction import root_of
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.partition import task_range
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import DType
from ds_compiler.ops import TopK


def emit_top_k(frame: KernelFrame) -> KernelInfo:
    """A ``top_k`` fusion: results are the elements and their i64 positions."""
    op = root_of(frame, TopK)
    assert isinstance(op, TopK)
    fb, source = frame.fb, op.operand.type
    n, k = frame.size(source.shape[-1]), frame.size(op.k)
    rows = frame.size(product(source.shape[:-1]))
    order = _Order(source.dtype, op.largest)
    sift = _define_sift(fb, order)
    count = len(frame.pointers)
    x, values, positions = frame.pointer(op.operand), frame.pointers[count - 2], frame.pointers[count - 1]
    zero, one = fb.i64(0), fb.i64(1)
    first, last = task_range(fb, rows, frame.task, frame.tasks)
    filled = fb.icmp("sgt", k, zero)
    with fb.if_(filled), fb.loop(first, last, hint="row") as row:
        element = scalars.memory_type(source.dtype)
        at = fb.gep(element, x, fb.mul(row.index, n))
        heap = _Heap(
            fb, order, *(fb.gep(t, p, fb.mul(row.index, k)) for t, p in ((element, values), ("i64", positions)))
        )
        with fb.loop(zero, k, hint="fill") as fill:
            heap.put(fill.index, fb.load(element, fb.gep(element, at, fill.index)), fill.index)
        half = fb.sdiv(k, fb.i64(2))
        with fb.loop(zero, half, hint="heapify") as step:
            heap.sift(sift, fb.sub(fb.sub(half, one), step.index), k)
        with fb.loop(k, n, hint="scan") as scan:
            candidate = fb.load(element, fb.gep(element, at, scan.index))
            with fb.if_(order.before(fb, (candidate, scan.index), heap.get(zero)), hint="better"):
                heap.put(zero, candidate, scan.index)
                heap.sift(sift, zero, k)
        with fb.loop(zero, fb.sub(k, one), hint="sort") as done:
            end = fb.sub(fb.sub(k, one), done.index)
            heap.swap(zero, end)
            heap.sift(sift, zero, end)
    return KernelInfo()


@dataclass(frozen=True)
class _Order:
    """Which of two (element as in memory, position) comes first in the result."""

    dtype: DType
    largest: bool

    def before(self, fb: FunctionBuilder, a: tuple[V, V], b: tuple[V, V]) -> V:
        x, y = (scalars.from_memory(fb, value, self.dtype) for value, _ in (a, b))
        if self.dtype.kind == "b":
            x, y = fb.cast("zext", x, "i8"), fb.cast("zext", y, "i8")
        ahead = scalars.compare(fb, "gt" if self.largest else "lt", x, y, self.dtype)
        equal = scalars.compare(fb, "eq", x, y, self.dtype)
        if self.dtype.is_float:
            nan_x, nan_y = fb.fcmp("uno", x, x), fb.fcmp("uno", y, y)
            top, other = (nan_x, nan_y) if self.largest else (nan_y, nan_x)
            number = fb.binary("xor", other, V("i1", "true"))
            ahead = fb.binary("or", ahead, fb.binary("and", top, number))
            equal = fb.binary("or", equal, fb.binary("and", nan_x, nan_y))
        earlier = fb.icmp("slt", a[1], b[1])
        return fb.binary("or", ahead, fb.binary("and", equal, earlier))


@dataclass(frozen=True)
class _Heap:
    """A row of values and one of positions; the parent of entry i is (i - 1) / 2 and never comes before i."""

    fb: FunctionBuilder
    order: _Order
    values: V
    positions: V

    @property
    def element(self) -> str:
        return scalars.memory_type(self.order.dtype)

    def get(self, at: V) -> tuple[V, V]:
        fb, element = self.fb, self.element
        return fb.load(element, fb.gep(element, self.values, at)), fb.load("i64", fb.gep("i64", self.positions, at))

    def put(self, at: V, value: V, position: V) -> None:
        fb = self.fb
        fb.store(value, fb.gep(self.element, self.values, at))
        fb.store(position, fb.gep("i64", self.positions, at))

    def swap(self, a: V, b: V) -> None:
        x, y = self.get(a), self.get(b)
        self.put(a, *y)
        self.put(b, *x)

    def sift(self, function: str, start: V, count: V) -> None:
        """Move entry `start` down to its place among the first `count`."""
        self.fb.call(function, "void", self.values, self.positions, start, count)


def _define_sift(kernel: FunctionBuilder, order: _Order) -> str:
    """``void sift(ptr values, ptr positions, i64 start, i64 count)``; its name."""
    name = f"dsc_sift_{order.dtype}_{'largest' if order.largest else 'smallest'}"
    if name in kernel.module.functions:
        return name
    parameters = [("ptr", "values"), ("ptr", "positions"), ("i64", "start"), ("i64", "count")]
    fb = kernel.module.function(name, parameters, internal=True)
    values, positions, start, count = fb.args
    heap = _Heap(fb, order, values, positions)
    here = fb.alloca("i64", 1, align=8)
    fb.store(start, here)
    head, body, down, done = (fb.label(hint) for hint in ("head", "body", "down", "done"))
    fb.void(f"br label %{head}")
    fb.place(head)
    parent = fb.load("i64", here)
    left = fb.add(fb.mul(parent, fb.i64(2)), fb.i64(1))
    fb.void(f"br i1 {fb.icmp('slt', left, count).ref}, label %{body}, label %{done}")
    fb.place(body)
    # The worse child; the right one may not exist, then it stands for the left one.
    right = fb.smin(fb.add(left, fb.i64(1)), fb.sub(count, fb.i64(1)))
    child = fb.select(order.before(fb, heap.get(left), heap.get(right)), right, left)
    fb.void(f"br i1 {order.before(fb, heap.get(parent), heap.get(child)).ref}, label %{down}, label %{done}")
    fb.place(down)
    heap.swap(parent, child)
    fb.store(child, here)
    fb.void(f"br label %{head}")
    fb.place(done)
    fb.ret()
    fb.finish()
    return name
