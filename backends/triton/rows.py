"""Nests with inner axes: reductions, softmax, layer norm, running sums.

*Whole*: the inner axes fit into one block, so that every element is loaded once and all steps work on registers.
*Looped*: each step runs over the inner axes in blocks; reductions combine blocks and finish at the end.
A tile has several outer points where inner blocks are short, or where memory runs along the outer axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ds_compiler.backends.loops.collapse import contiguity, indices_of
from ds_compiler.backends.loops.ir import Axis, Nest, Reduction, Running, Store, step_nodes
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.body import Block, Buffer
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.tile import Grid, TileDim, cover, enter, power_of_two, warps_for
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import DType
from ds_compiler.ops.reduction import identity

_WHOLE = 16384  # elements of the longest row that is kept in registers (16 warps, 32 a thread)
_TILE = 2048  # elements of a tile
_LOOPED = 2048  # elements of one step over a longer row
_COLUMNS = 64  # outer points side by side where memory runs along them

_COMBINE = {
    "sum": "add", "mean": "add", "prod": "multiply", "max": "maximum", "min": "minimum", "any": "maximum",
    "all": "minimum",
}  # fmt: skip


def emit_rows(writer: Writer, buffers: Sequence[Buffer], nest: Nest, *, wide: bool) -> Grid:
    """Write the body of the kernel that computes a nest with inner axes.

    Raises:
        CompileError: a step has no schedule.
    """
    return _Rows(writer, buffers, nest, wide=wide).run()


def row_tile(nest: Nest) -> tuple[list[TileDim], int]:
    """Outer dimensions of a nest's tile, and the inner block."""
    inner = nest.inner or [Axis("one", 1)]
    extent = product(tuple(a.extent for a in inner))
    known = power_of_two(max(extent, 1)) if isinstance(extent, int) else None
    if not nest.outer:
        return [], min(known or _LOOPED, _WHOLE)
    indices = indices_of(nest)
    if contiguity(indices, inner[-1]) >= contiguity(indices, nest.outer[-1]):
        block = known if known is not None and known <= _WHOLE else _LOOPED
        rows = min(max(_TILE // (2 * block), 1), 32)
        return [TileDim("row", tuple(nest.outer), rows)], max(block, 2)
    last = nest.outer[-1].extent
    columns = min(_COLUMNS, power_of_two(last)) if isinstance(last, int) else _COLUMNS
    block = known if known is not None and known * columns <= 2 * _TILE else max(2 * _TILE // columns, 2)
    outer = [TileDim("column", (nest.outer[-1],), columns)]
    if nest.outer[:-1]:
        outer.insert(0, TileDim("row", tuple(nest.outer[:-1]), 1))
    return outer, max(block, 2)


class _Rows:
    def __init__(self, writer: Writer, buffers: Sequence[Buffer], nest: Nest, *, wide: bool) -> None:
        self.writer, self.nest = writer, nest
        self.inner = nest.inner or [Axis("one", 1)]
        self.extent = product(tuple(a.extent for a in self.inner))
        outer, self.block = row_tile(nest)
        self.body, self.programs = enter(writer, buffers, outer, [self.block], wide=wide)
        self.along = len(self.body.shape) - 1  # the inner dimension of the tile
        self.whole = isinstance(self.extent, int) and self.extent <= self.block
        # Running combinations and exact positions need the axis itself, not what is left of a block.
        self.elements = self.block * max(1, product_of(d.block for d in outer))

    def run(self) -> Grid:
        if self.whole:
            self._place("")
        for step in self.nest.steps:
            match step:
                case Reduction(argument=True):
                    self.body.reduced[step.number] = self._argument(step)
                case Reduction():
                    self.body.reduced[step.number] = self._reduce(step)
                case Store(inner=True):
                    with self._each(step):
                        self.body.store(step)
                case Store():
                    self.body.store(step)
                case Running():
                    self._running(step)
        return Grid(self.programs, warps_for(self.elements))

    # -- the inner axes ------------------------------------------------------------------------
    def _place(self, start: str) -> Block:
        """Put the inner axes at the block that begins at `start`."""
        flat = self.body.positions(self.along, start, "col")
        cover(self.body, self.along, flat, self.extent, self.block)
        self.body.place(self.inner, flat)
        return flat

    @contextmanager
    def _each(self, step: Reduction | Store | Running) -> Iterator[None]:
        """Inside, the inner axes are at every block in turn."""
        if self.whole:
            yield
            return
        self.body.hoist(step_nodes(step), frozenset(self.inner))
        start = self.writer.fresh("start")
        with self.writer.block(f"for {start} in range(0, {size_text(self.extent)}, {self.block})"), self.body.scope():
            self._place(start)
            yield

    @property
    def _everything(self) -> frozenset[int]:
        return frozenset(range(len(self.body.shape)))

    def _valid(self, value: Block, neutral: str, dtype: DType) -> Block:
        """`value` as a block that varies along the inner dimension, with `neutral` where no position exists."""
        body = self.body
        dims = value.dims | {self.along}
        value = body.materialised(value, dtype)
        mask = body.mask(dims)
        if mask is not None:
            return Block(self.writer.assign("valid", f"tl.where({mask.text}, {value.text}, {neutral})"), dims)
        if self.along in value.dims:
            return value
        zeros = f"tl.zeros({body.shape_text(dims)}, {_register(dtype)})"
        return Block(self.writer.assign("spread", f"{value.text} + {zeros}"), dims)

    # -- reductions ----------------------------------------------------------------------------
    def _reduce(self, step: Reduction) -> Block:
        body, dtype = self.body, step.value.dtype
        neutral = _neutral(step.how, dtype)
        if self.whole:
            value = self._number(body.emit(step.value), dtype)
            return self._finish(step, self._valid(value, neutral, dtype))
        shape = body.shape_text(self._everything)
        total = self.writer.assign(step.how, f"tl.full({shape}, {neutral}, {_register(dtype)})")
        with self._each(step):
            value = self._valid(self._number(body.emit(step.value), dtype), neutral, dtype)
            self.writer.line(f"{total} = {_combined(step.how, total, value.text, dtype)}")
        return self._finish(step, Block(total, self._everything))

    def _number(self, value: Block, dtype: DType) -> Block:
        """Truth values as integers, which reductions take."""
        if dtype.kind != "b":
            return value
        value = self.body.materialised(value, dtype)
        return Block(self.writer.assign("flag", f"{value.text}.to(tl.int32)"), value.dims)

    def _finish(self, step: Reduction, value: Block) -> Block:
        """Combine a block along the inner dimension."""
        dtype, function = step.value.dtype, _COMBINE[step.how]
        keep = ", keep_dims=True" if len(self.body.shape) > 1 else ""
        if function == "add":
            text = f"tl.sum({value.text}, axis={self.along}{keep})"
            if dtype.is_integer:
                text += f".to({scalars.triton_type(dtype)})"  # Triton sums narrow integers as 32-bit ones
        else:
            text = f"tl.reduce({value.text}, {self.along}, library.{function}{keep})"
        if dtype.kind == "b":
            text += " != 0"
        return Block(self.writer.assign(step.how, text), value.dims - {self.along})

    def _argument(self, step: Reduction) -> Block:
        """The position of an extremum."""
        body, dtype = self.body, step.value.dtype
        assert step.position is not None
        neutral = _neutral(step.how, dtype)
        better = f"library.{step.how}_{'last' if step.last else 'first'}"
        outside = "-1" if step.last else "9223372036854775807"

        def pair() -> tuple[Block, Block]:
            value = self._valid(body.emit(step.value), neutral, dtype)
            assert step.position is not None
            found = body.index(step.position)
            position = Block(self.writer.assign("position", f"({found.text}).to(tl.int64)"), found.dims)
            mask = body.mask(frozenset([self.along]))
            if mask is not None:
                text = f"tl.where({mask.text}, {position.text}, {outside})"
                position = Block(self.writer.assign("position", text), position.dims)
            if value.dims != position.dims:
                zeros = f"tl.zeros({body.shape_text(value.dims)}, tl.int64)"
                position = Block(self.writer.assign("position", f"{position.text} + {zeros}"), value.dims)
            return value, position

        if self.whole:
            value, position = pair()
        else:
            shape = body.shape_text(self._everything)
            best = self.writer.assign("best", f"tl.full({shape}, {neutral}, {_register(dtype)})")
            where = self.writer.assign("where", f"tl.full({shape}, {outside}, tl.int64)")
            with self._each(step):
                value, position = pair()
                self.writer.line(f"{best}, {where} = {better}({best}, {where}, {value.text}, {position.text})")
            value, position = Block(best, self._everything), Block(where, self._everything)
        name = self.writer.fresh("position")
        keep = ", keep_dims=True" if len(body.shape) > 1 else ""
        self.writer.line(f"_, {name} = tl.reduce(({value.text}, {position.text}), {self.along}, {better}{keep})")
        return Block(name, value.dims - {self.along})

    # -- running combinations ------------------------------------------------------------------
    def _running(self, step: Running) -> None:
        """Scan block after block, with what came before carried along."""
        body, dtype = self.body, step.value.dtype
        neutral, function = _neutral(step.how, dtype), _COMBINE[step.how]
        (axis,) = self.inner
        carried = ""
        if not self.whole:
            shape = body.shape_text(self._everything - {self.along})
            if len(body.shape) == 1:
                shape = "[]"
            carried = self.writer.assign("carried", f"tl.full({shape}, {neutral}, {_register(dtype)})")
        with self._each(step):
            flat = body.axes[axis]
            if step.reverse:
                text = f"{size_text(self.extent)} - 1 - {flat.text}"
                body.axes[axis] = Block(self.writer.assign("from_end", text), flat.dims)
            at = body.axes[axis]
            value = self._valid(body.emit(step.value), neutral, dtype)
            scanned = self.writer.assign(
                "running", f"tl.associative_scan({value.text}, {self.along}, library.{function})"
            )
            if carried:
                scanned = self.writer.assign("running", _combined(step.how, scanned, carried, dtype))
            dims = value.dims
            if step.exclusive:
                self._store_exclusive(step, Block(scanned, dims), at, flat, neutral)
            else:
                body.store(self._given(step, Block(scanned, dims)))
            if carried:
                keep = ", keep_dims=True" if len(body.shape) > 1 else ""
                total = f"tl.reduce({value.text}, {self.along}, library.{function}{keep})"
                self.writer.line(f"{carried} = {_combined(step.how, carried, total, dtype)}")
            body.axes[axis] = flat

    def _given(self, step: Running, value: Block) -> Store:
        self.body.given[step.value] = value
        return Store(step.buffer, step.index, step.value, inner=True)

    def _store_exclusive(self, step: Running, scanned: Block, at: Block, flat: Block, neutral: str) -> None:
        """Each running value goes to the position that follows; the first position gets the neutral element."""
        body = self.body
        (axis,) = self.inner
        mask = body.masks.get(self.along)
        body.masks[self.along] = self.writer.assign("follows", f"{flat.text} + 1 < {size_text(self.extent)}")
        body.axes[axis] = Block(f"({at.text} {'-' if step.reverse else '+'} 1)", at.dims)
        body.store(self._given(step, scanned))
        body.masks[self.along] = self.writer.assign("first", f"{flat.text} == 0")
        body.axes[axis] = at
        shape = body.shape_text(scanned.dims)
        start = self.writer.assign("neutral", f"tl.full({shape}, {neutral}, {_register(step.value.dtype)})")
        body.store(self._given(step, Block(start, scanned.dims)))
        del body.given[step.value]
        if mask is None:
            del body.masks[self.along]
        else:
            body.masks[self.along] = mask


def _combined(how: str, a: str, b: str, dtype: DType) -> str:
    """Two values combined."""
    function = _COMBINE[how]
    if function == "add":
        return f"{a} + {b}"
    if function == "multiply":
        return f"{a} * {b}"
    return f"library.{function}({a}, {b})" if dtype.is_float else f"tl.{function}({a}, {b})"


def _register(dtype: DType) -> str:
    return "tl.int32" if dtype.kind == "b" else scalars.compute_type(dtype)


def _neutral(how: str, dtype: DType) -> str:
    if dtype.kind == "b":
        return str(int(how == "all"))
    value: Any = np.asarray(identity(how, np.dtype(np.float32) if scalars.widens(dtype) else dtype.numpy))
    return scalars.literal(value.item(), dtype)


def product_of(values: Iterator[int] | Any) -> int:
    """The product of numbers."""
    return int(np.prod(list(values), dtype=np.int64))
