"""3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): 36 products where the direct sum takes 144.

The outputs of a 4x4 tile are ``A^T [(G g G^T) * (B^T d B)] A`` with the 6x6 input d under the tile and the kernel g;
summed over input channels, the elementwise product becomes 36 matrix products, one a position of the 6x6 tile.
Interpolation points are 0, +-sqrt(1/2), +-sqrt(2) and infinity, whose products are powers of two. That keeps the error
within twice that of the direct sum. Measured on normal data, as root mean square (largest) error over the
standard deviation of the output:

    input channels     64              128             256             512
    Winograd           8.0e-7 (7e-6)   1.1e-6 (9e-6)   1.5e-6 (1e-5)   2.1e-6 (1.3e-5)
    direct             4.3e-7 (3e-6)   6.0e-7 (5e-6)   8.2e-7 (7e-6)   1.2e-6 (1.0e-5)

With the usual points 0, +-1, +-2 and infinity the largest errors are four times as large.

An infinity or NaN in the input spreads to the whole 4x4 tile, not only to the outputs whose window has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, vector_of
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.tile import accumulate, tile_shape, zero_tile
from ds_compiler.backends.llvm.window import ConvShape, Epilogue, ceil_div, index, share

_OUT, _IN = 4, 6  # outputs and inputs of a tile, along each axis
_POSITIONS = _IN * _IN
_A, _B = math.sqrt(0.5), math.sqrt(2.0)  # the points
# Elements between the blocks of two positions beyond their size, so that 36 stores do not meet in one cache set.
_SKEW = 16
_BLOCK_BYTES = 384 << 10
_LEAST_BLOCK, _MOST_BLOCK = 24, 96


@dataclass(frozen=True)
class WinogradPlan:
    """Register tile (mr, nv), lanes, tiles of a block (a multiple of mr), and padded input channels."""

    mr: int
    nv: int
    lanes: int
    block: int
    depth: int

    @property
    def width(self) -> int:
        """Output channels of a weight panel."""
        return self.nv * self.lanes

    @property
    def input_step(self) -> int:
        """Elements from one position's transformed inputs to the next."""
        return self.block * self.depth + _SKEW

    @property
    def product_step(self) -> int:
        """Elements from one position's products to the next."""
        return self.block * self.width + _SKEW


def winograd_plan(shape: ConvShape, target: Target) -> WinogradPlan:
    """The tiling of `shape` on `target`."""
    lanes = target.lanes("float")
    mr, nv = tile_shape(target)
    depth = -(-shape.ci // lanes) * lanes
    block = _BLOCK_BYTES // (_POSITIONS * depth * 4) // mr * mr
    return WinogradPlan(mr, nv, lanes, max(_LEAST_BLOCK // mr * mr, min(_MOST_BLOCK // mr * mr, block)), depth)


def winograd_pays(shape: ConvShape, target: Target) -> bool:
    """Whether Winograd applies to `shape` and is expected to be faster than the direct sum.

    An estimate in cycles: products at the registers' rate, transforms, and the weights from memory at 4 bytes a cycle
    (here four times as many as for the direct sum, and once for each block). Unknown sizes count as large ones.
    """
    if (shape.kernel, shape.stride, shape.dilation, shape.groups) != ((3, 3), (1, 1), (1, 1), 1):
        return False
    if shape.ci < 16 or shape.co < 16:
        return False
    plan = winograd_plan(shape, target)
    defaults = ((shape.n, 1), (shape.oh, 64), (shape.ow, 64))
    n, oh, ow = (int(v.ref) if v.ref.isdigit() else default for v, default in defaults)
    pixels, tiles = n * oh * ow, n * math.ceil(oh / _OUT) * math.ceil(ow / _OUT)
    rounded = math.ceil(tiles / plan.mr) * plan.mr
    rate = 2 * plan.lanes
    products = _POSITIONS * rounded * shape.ci * shape.co / rate
    transforms = tiles * 160 * (shape.ci + shape.co) / plan.lanes
    weights = math.ceil(tiles / plan.block) * _POSITIONS * shape.ci * shape.co
    direct = (pixels / rate + 1) * 9 * shape.ci * shape.co
    return 1.1 * (products + transforms + weights) < direct


def pack_winograd_weight(w: NDArray[np.generic], shape: ConvShape, target: Target) -> NDArray[np.generic]:
    """Transform ``[co, ci, 3, 3]`` to ``[panels, 36, ci, nv * lanes]``, computed in double precision.

    Raises:
        ValueError: the weight's shape is not the one that `shape` says.
    """
    expected = (shape.co, shape.ci, 3, 3)
    if w.shape != expected:
        raise ValueError(f"Winograd weight: expected {list(expected)}, got {list(w.shape)}")
    points = [0.0, _A, -_A, _B, -_B]
    g = np.zeros((_IN, 3))
    for i, point in enumerate(points):
        g[i] = np.power(point, range(3)) / math.prod(point - other for other in points if other != point)
    g[-1, 2] = 1.0
    # Small products, one an input channel: larger ones would be split over the BLAS's threads, whose waiting for each
    # other takes ten times as long when other work runs.
    width = winograd_plan(shape, target).width
    both = np.kron(g, g)  # [36, 9]
    packed = np.zeros((-(-shape.co // width), _POSITIONS, shape.ci, width), np.float32)
    for panel, first in zip(packed, range(0, shape.co, width), strict=True):
        taps = w[first : first + width].reshape(-1, shape.ci, 9).transpose(1, 2, 0).astype(np.float64)
        panel[:, :, : taps.shape[2]] = (both @ taps).transpose(1, 0, 2)
    return packed


def winograd_scratch_bytes(shape: ConvShape, target: Target) -> int:
    """Bytes of scratch that each task needs; independent of the run-time sizes."""
    return sum(_parts(winograd_plan(shape, target)))


def _parts(plan: WinogradPlan) -> tuple[int, int, int]:
    """Bytes of positions, transformed inputs and products (multiples of 64)."""
    positions = -(-plan.block * 3 * 8 // 64) * 64
    return positions, _POSITIONS * plan.input_step * 4, _POSITIONS * plan.product_step * 4


def emit_winograd(
    fb: FunctionBuilder,
    target: Target,
    *,
    shape: ConvShape,
    x: V,
    w: V,
    task: V,
    tasks: V,
    scratch: V,
    epilogue: Epilogue,
) -> None:
    """Emit a 3x3 convolution of ``x: [n, h, w, ci]`` floats; `w` is from `pack_winograd_weight`.

    Epilogue and tasks as for `conv.emit_conv`; `scratch` is this task's own `winograd_scratch_bytes`, aligned to 64.

    Raises:
        ValueError: the kernel is not 3x3 with stride and dilation 1 in one group.
    """
    if (shape.kernel, shape.stride, shape.dilation, shape.groups) != ((3, 3), (1, 1), (1, 1), 1):
        raise ValueError("Winograd convolution: the kernel must be 3x3 with stride and dilation 1, in one group")
    _Winograd(fb, winograd_plan(shape, target), shape, x, w, scratch, epilogue).run(task, tasks)


class _Winograd:
    def __init__(
        self, fb: FunctionBuilder, plan: WinogradPlan, shape: ConvShape, x: V, w: V, scratch: V, epilogue: Epilogue
    ) -> None:
        self.fb, self.plan, self.shape, self.x, self.w, self.epilogue = fb, plan, shape, x, w, epilogue
        self.vector = vector_of("float", plan.lanes)
        positions, inputs, _ = _parts(plan)
        self.positions = scratch
        self.inputs = fb.gep("i8", scratch, fb.i64(positions))
        self.products = fb.gep("i8", scratch, fb.i64(positions + inputs))
        self.table = fb.alloca("ptr", _POSITIONS)
        definition = f"internal constant [{plan.depth} x float] zeroinitializer, align 64"
        self.zeros = fb.module.global_(f"zeros.float.{plan.depth}", definition)
        self.rows, self.columns = ceil_div(fb, shape.oh, _OUT), ceil_div(fb, shape.ow, _OUT)
        self.tiles = fb.mul(fb.mul(shape.n, self.rows), self.columns)

    def run(self, task: V, tasks: V) -> None:
        """Split the work by tiles, or by channels when there are few tiles; then blocks of tiles."""
        fb, plan = self.fb, self.plan
        zero, one = fb.i64(0), fb.i64(1)
        panels = -(-self.shape.co // plan.width)
        few = fb.icmp("slt", self.tiles, fb.mul(tasks, fb.i64(4 * plan.mr)))
        enough = fb.icmp("sge", fb.i64(panels), fb.mul(tasks, fb.i64(2)))
        by_channel = fb.binary("and", few, enough)
        first, stop = share(fb, self.tiles, fb.select(by_channel, zero, task), fb.select(by_channel, one, tasks))
        panel_range = share(fb, fb.i64(panels), fb.select(by_channel, task, zero), fb.select(by_channel, tasks, one))
        count = fb.sub(stop, first)
        blocks = fb.smax(ceil_div(fb, count, plan.block), one)
        mr = fb.i64(plan.mr)
        size = fb.mul(fb.smax(ceil_div(fb, ceil_div(fb, count, blocks), mr), one), mr)
        with fb.loop(first, stop, size, hint="block") as block:
            tiles = fb.smin(size, fb.sub(stop, block.index))
            self.transform_inputs(block.index, tiles)
            full, tail = divmod(self.shape.co, plan.width)
            if full:
                with fb.loop(panel_range[0], fb.smin(panel_range[1], fb.i64(full)), hint="panel") as panel:
                    self.panel(panel.index, tiles, plan.width)
            if tail:
                with fb.if_(fb.icmp("sgt", panel_range[1], fb.i64(full)), hint="tail"):
                    self.panel(fb.i64(full), tiles, tail)

    # -- inputs -------------------------------------------------------------------------------
    def transform_inputs(self, first: V, tiles: V) -> None:
        """B^T d B of each tile and channel, and the tile's place in the output."""
        fb, shape, zero = self.fb, self.shape, self.fb.i64(0)
        per_image = fb.mul(self.rows, self.columns)
        inside = fb.srem(first, per_image)
        place = (fb.sdiv(first, per_image), fb.sdiv(inside, self.columns), fb.srem(inside, self.columns))
        with fb.loop(zero, tiles, carried=place, hint="input") as loop:
            image, i, j = loop.carried
            oh, ow = fb.mul(i, fb.i64(_OUT)), fb.mul(j, fb.i64(_OUT))
            at = fb.gep("i64", self.positions, fb.mul(loop.index, fb.i64(3)))
            for slot, value in enumerate((image, oh, ow)):
                fb.store(value, fb.gep("i64", at, fb.i64(slot)))
            self.fill_table(image, fb.sub(oh, index(shape.pads[0])), fb.sub(ow, index(shape.pads[1])))
            to = fb.gep("float", self.inputs, fb.mul(loop.index, fb.i64(self.plan.depth)))
            lanes = self.plan.lanes
            full, rest = divmod(shape.ci, lanes)
            if full:
                with fb.loop(zero, fb.i64(full * lanes), lanes, hint="channels") as channels:
                    self.transform_input(to, channels.index, None)
            if rest:
                self.transform_input(to, fb.i64(full * lanes), fb.lane_mask(fb.i64(rest), lanes))
            one = fb.i64(1)
            wraps = fb.icmp("sge", fb.add(j, one), self.columns)
            next_i = fb.add(i, fb.cast("zext", wraps, "i64"))
            next_j = fb.select(wraps, zero, fb.add(j, one))
            wraps = fb.icmp("sge", next_i, self.rows)
            loop.carry(fb.add(image, fb.cast("zext", wraps, "i64")), fb.select(wraps, zero, next_i), next_j)

    def fill_table(self, image: V, ih: V, iw: V) -> None:
        """Addresses of the 36 input pixels under a tile; zeros stand for those outside of the image."""
        fb, shape = self.fb, self.shape
        origin = fb.add(fb.mul(fb.add(fb.mul(image, shape.h), ih), shape.w), iw)
        at = fb.gep("float", self.x, fb.mul(origin, fb.i64(shape.ci)))
        # Unsigned: a negative index is a very large one.
        rows = [fb.icmp("ult", fb.add(ih, fb.i64(i)), shape.h) for i in range(_IN)]
        columns = [fb.icmp("ult", fb.add(iw, fb.i64(j)), shape.w) for j in range(_IN)]
        for i in range(_IN):
            for j in range(_IN):
                offset = fb.mul(fb.add(fb.mul(fb.i64(i), shape.w), fb.i64(j)), fb.i64(shape.ci))
                inside = fb.binary("and", rows[i], columns[j])
                address = fb.select(inside, fb.gep("float", at, offset), self.zeros)
                fb.store(address, fb.gep("ptr", self.table, fb.i64(i * _IN + j)))

    def transform_input(self, to: V, channel: V, mask: V | None) -> None:
        fb = self.fb
        columns = []
        for j in range(_IN):
            column = []
            for i in range(_IN):
                pixel = fb.load("ptr", fb.gep("ptr", self.table, fb.i64(i * _IN + j)))
                at = fb.gep("float", pixel, channel)
                column.append(fb.load(self.vector, at) if mask is None else fb.masked_load(self.vector, at, mask))
            columns.append(self.input_line(column))
        to = fb.gep("float", to, channel)
        for i in range(_IN):
            for j, value in enumerate(self.input_line([column[i] for column in columns])):
                fb.store(value, fb.gep("float", to, fb.i64((i * _IN + j) * self.plan.input_step)))

    def multiple(self, value: V, factor: float, plus: V) -> V:
        """``value * factor + plus``."""
        return self.fb.intrinsic("fmuladd", value, self.fb.const(self.vector, factor), plus)

    def input_line(self, d: list[V]) -> list[V]:
        """B^T times six values; the rows of a pair of points +-p share their even and odd parts."""
        fb, both = self.fb, _A * _A + _B * _B
        result = [self.multiple(d[2], -both, fb.fadd(d[0], d[4]))]
        for point, other in ((_A, _B), (_B, _A)):
            even = self.multiple(d[2], -other * other, d[4])
            odd = self.multiple(d[1], -other * other, d[3])
            result += [self.multiple(odd, point, even), self.multiple(odd, -point, even)]
        return [*result, self.multiple(d[3], -both, fb.fadd(d[1], d[5]))]

    # -- products and outputs -----------------------------------------------------------------
    def panel(self, panel: V, tiles: V, channels: int) -> None:
        """One weight panel: the products of all positions and tiles, then the tiles' outputs."""
        fb, plan, zero = self.fb, self.plan, self.fb.i64(0)
        size = self.shape.ci * plan.width
        vectors = -(-channels // plan.lanes)
        w = fb.gep("float", self.w, fb.mul(panel, fb.i64(_POSITIONS * size)))
        with fb.loop(zero, fb.i64(_POSITIONS), hint="position") as position:
            b = fb.gep("float", w, fb.mul(position.index, fb.i64(size)))
            a = fb.gep("float", self.inputs, fb.mul(position.index, fb.i64(plan.input_step)))
            c = fb.gep("float", self.products, fb.mul(position.index, fb.i64(plan.product_step)))
            # Whole register tiles: the block has room, and products of missing tiles are never read.
            with fb.loop(zero, tiles, plan.mr, hint="tile") as tile:
                rows = [
                    fb.gep("float", a, fb.mul(fb.add(tile.index, fb.i64(i)), fb.i64(plan.depth)))
                    for i in range(plan.mr)
                ]
                acc = zero_tile(fb, "float", plan.mr, vectors, plan.lanes)
                acc = accumulate(fb, acc, rows, 1, b, plan.width, fb.i64(self.shape.ci), lanes=plan.lanes)
                at = fb.gep("float", c, fb.mul(tile.index, fb.i64(plan.width)))
                for i in range(plan.mr):
                    for j in range(vectors):
                        fb.store(acc[i][j], fb.gep("float", at, fb.i64(i * plan.width + j * plan.lanes)))
        channel = fb.mul(panel, fb.i64(plan.width))
        full, rest = divmod(channels, plan.lanes)
        with fb.loop(zero, tiles, hint="output") as output:
            at = fb.gep("i64", self.positions, fb.mul(output.index, fb.i64(3)))
            image, oh, ow = (fb.load("i64", fb.gep("i64", at, fb.i64(slot))) for slot in range(3))
            source = fb.gep("float", self.products, fb.mul(output.index, fb.i64(plan.width)))
            if full:
                with fb.loop(zero, fb.i64(full * plan.lanes), plan.lanes, hint="vector") as vector:
                    at = fb.gep("float", source, vector.index)
                    self.outputs(at, image, oh, ow, fb.add(channel, vector.index), None)
            if rest:
                mask = fb.lane_mask(fb.i64(rest), plan.lanes)
                offset = fb.i64(full * plan.lanes)
                self.outputs(fb.gep("float", source, offset), image, oh, ow, fb.add(channel, offset), mask)

    def outputs(self, source: V, image: V, oh: V, ow: V, channel: V, mask: V | None) -> None:
        """A^T m A of one tile and vector; the epilogue takes the pixels that exist."""
        fb = self.fb
        columns = []
        for j in range(_IN):
            steps = [(i * _IN + j) * self.plan.product_step for i in range(_IN)]
            columns.append(self.output_line([fb.load(self.vector, fb.gep("float", source, fb.i64(s))) for s in steps]))
        pixel = fb.add(fb.mul(oh, self.shape.ow), ow)
        for i in range(_OUT):
            values = self.output_line([column[i] for column in columns])
            row_exists = fb.icmp("slt", fb.add(oh, fb.i64(i)), self.shape.oh)
            for j, value in enumerate(values):
                exists = fb.binary("and", row_exists, fb.icmp("slt", fb.add(ow, fb.i64(j)), self.shape.ow))
                with fb.if_(exists, hint="exists"):
                    at = fb.add(pixel, fb.add(fb.mul(fb.i64(i), self.shape.ow), fb.i64(j)))
                    self.epilogue(fb, image, at, channel, self.plan.lanes, mask, value)

    def output_line(self, m: list[V]) -> list[V]:
        """A^T times six values."""
        fb = self.fb
        (sum_a, difference_a), (sum_b, difference_b) = (
            (fb.fadd(m[i], m[i + 1]), fb.fsub(m[i], m[i + 1])) for i in (1, 3)
        )

        def combine(power: int, a: V, b: V) -> V:
            return self.multiple(b, _B**power, fb.fmul(a, fb.const(self.vector, _A**power)))

        return [
            fb.fadd(m[0], fb.fadd(sum_a, sum_b)),
            combine(1, difference_a, difference_b),
            combine(2, sum_a, sum_b),
            fb.fadd(combine(3, difference_a, difference_b), m[5]),
        ]
