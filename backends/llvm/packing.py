"""Panel layouts for B: NumPy packing of constant weights, and emitted packing of run-time operands.

A packed B is a sequence of panels of nr columns; in a panel the nr elements of each row k lie next to
each other, so that the register tile reads memory strictly forwards:

    packed[p, kk, j] = B[kk, p * nr + j]          (zero where p * nr + j >= N)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, vector_of


def pack_b(weights: npt.NDArray[np.generic], nr: int) -> npt.NDArray[np.generic]:
    """Pack a constant B of shape [..., K, N] into panels [..., ceil(N / nr), K, nr], zero-padded, same dtype.

    Raises:
        ValueError: `weights` has fewer than two dimensions.
    """
    if weights.ndim < 2:
        raise ValueError(f"pack_b: B has shape {weights.shape}; need [..., K, N]")
    *lead, k, n = weights.shape
    panels = -(-n // nr)
    packed = np.empty((*lead, panels, k, nr), weights.dtype)
    full, rest = divmod(n, nr)
    for panel in range(full):  # one at a time: a transposed B is then read along its rows
        packed[..., panel, :, :] = weights[..., panel * nr : (panel + 1) * nr]
    if rest:
        packed[..., full, :, :rest] = weights[..., full * nr :]
        packed[..., full, :, rest:] = 0
    return packed


def transpose_registers(fb: FunctionBuilder, rows: Sequence[V]) -> list[V]:
    """Transpose L vectors of L lanes (L a power of two): result[i][j] = rows[j][i]."""
    lanes = len(rows)
    result = list(rows)
    stage = 1
    while stage < lanes:
        # Swap the off-diagonal stage x stage blocks of every 2*stage square.
        low = [lane if not lane & stage else lanes + (lane ^ stage) for lane in range(lanes)]
        high = [lanes + lane if lane & stage else lane ^ stage for lane in range(lanes)]
        for i in range(lanes):
            if not i & stage:
                a, b = result[i], result[i | stage]
                result[i], result[i | stage] = fb.shuffle(a, b, low), fb.shuffle(a, b, high)
        stage *= 2
    return result


def emit_copy_rows(
    fb: FunctionBuilder, element: str, lanes: int, dst: V, dst_row: V, src: V, src_row: V, rows: V, columns: V
) -> None:
    """Emit ``dst[i * dst_row + j] = src[i * src_row + j]`` for i < rows, j < columns (strides in elements)."""
    type_ = vector_of(element, lanes)
    rest = fb.srem(columns, fb.i64(lanes))
    main = fb.sub(columns, rest)
    with fb.loop(fb.i64(0), rows, hint="copy") as row:
        to = fb.gep(element, dst, fb.mul(row.index, dst_row))
        at = fb.gep(element, src, fb.mul(row.index, src_row))
        with fb.loop(fb.i64(0), main, lanes, hint="copy.columns") as column:
            fb.store(fb.load(type_, fb.gep(element, at, column.index)), fb.gep(element, to, column.index))
        if rest.ref != "0":
            mask = fb.lane_mask(rest, lanes)
            fb.masked_store(fb.masked_load(type_, fb.gep(element, at, main), mask), fb.gep(element, to, main), mask)


def emit_transpose(
    fb: FunctionBuilder, element: str, lanes: int, dst: V, dst_row: V, src: V, src_row: V, rows: V, columns: V
) -> None:
    """Emit ``dst[i * dst_row + j] = src[j * src_row + i]`` for i < rows, j < columns (strides in elements).

    Whole squares of lanes x lanes are written: dst must have room for `rows` and `columns` rounded up to `lanes`.
    Rows past the end are zero, columns past the end repeat the last one. Nothing outside src is read.
    """
    type_ = vector_of(element, lanes)
    last = fb.sub(columns, fb.i64(1))
    rest = fb.srem(rows, fb.i64(lanes))
    main = fb.sub(rows, rest)

    with fb.loop(fb.i64(0), columns, lanes, hint="transpose.columns") as column:
        sources = [
            fb.gep(element, src, fb.mul(fb.smin(fb.add(column.index, fb.i64(j)), last), src_row)) for j in range(lanes)
        ]
        to = fb.gep(element, dst, column.index)

        def square(start: V, mask: V | None, sources: Sequence[V] = sources, to: V = to) -> None:
            addresses = [fb.gep(element, source, start) for source in sources]
            loaded = [fb.load(type_, x) if mask is None else fb.masked_load(type_, x, mask) for x in addresses]
            for i, vector in enumerate(transpose_registers(fb, loaded)):
                fb.store(vector, fb.gep(element, to, fb.mul(fb.add(start, fb.i64(i)), dst_row)))

        with fb.loop(fb.i64(0), main, lanes, hint="transpose.rows") as row:
            square(row.index, None)
        if rest.ref.isdigit():
            if rest.ref != "0":
                square(main, fb.lane_mask(rest, lanes))
        else:
            with fb.if_(fb.icmp("ne", rest, fb.i64(0))):
                square(main, fb.lane_mask(rest, lanes))


def emit_pack_b(
    fb: FunctionBuilder,
    element: str,
    lanes: int,
    nv: int,
    dst: V,
    src: V,
    row: V,
    column: V,
    k: V,
    n: V,
    panel_stride: V,
) -> None:
    """Pack a run-time B (k x n elements at `src`, strides `row` and `column`) into panels of nv * lanes columns.

    Args:
        panel_stride: elements between panels in `dst`, at least ``k rounded up to lanes`` times nr.
            Columns past n hold arbitrary finite-or-not values: the product must be masked, not the operand.
        row, column: a constant 1 in either makes the copy vectorised; other strides are copied one by one.
    """
    nr = nv * lanes
    nr_v = fb.i64(nr)
    with fb.loop(fb.i64(0), n, nr, hint="pack") as panel:
        to = fb.gep(element, dst, fb.mul(fb.sdiv(panel.index, nr_v), panel_stride))
        at = fb.gep(element, src, fb.mul(panel.index, column))
        left = fb.smin(fb.sub(n, panel.index), nr_v)
        if column.ref == "1":
            _pack_rows(fb, element, lanes, nv, to, at, row, k, left)
        elif row.ref == "1":
            emit_transpose(fb, element, lanes, to, nr_v, at, column, k, left)
        else:
            with fb.loop(fb.i64(0), k, hint="pack.rows") as kk, fb.loop(fb.i64(0), left, hint="pack.columns") as j:
                source = fb.gep(element, at, fb.add(fb.mul(kk.index, row), fb.mul(j.index, column)))
                target = fb.gep(element, to, fb.add(fb.mul(kk.index, nr_v), j.index))
                fb.store(fb.load(element, source), target)


def _pack_rows(fb: FunctionBuilder, element: str, lanes: int, nv: int, to: V, at: V, row: V, k: V, columns: V) -> None:
    """One panel of a row-major B: `nv` vectors a row, or the first `columns` elements when fewer exist."""
    type_, nr = vector_of(element, lanes), fb.i64(nv * lanes)
    branch = fb.if_else(fb.icmp("eq", columns, nr))
    with branch.then(), fb.loop(fb.i64(0), k, hint="pack.rows") as kk:
        source, target = fb.gep(element, at, fb.mul(kk.index, row)), fb.gep(element, to, fb.mul(kk.index, nr))
        for j in range(nv):
            vector = fb.load(type_, fb.gep(element, source, fb.i64(j * lanes)))
            fb.store(vector, fb.gep(element, target, fb.i64(j * lanes)))
    with branch.otherwise():
        emit_copy_rows(fb, element, lanes, to, nr, at, row, k, columns)
    branch.results()
