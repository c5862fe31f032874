"""Sums of products: general matrix multiplication and convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ds_compiler.ir import Operation, Value, op
from ds_compiler.ir.cost import Cost, traffic
from ds_compiler.ir.dims import Dim, evaluate, floordiv, product
from ds_compiler.ir.dtypes import i16, i32
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.widening import wide

Array = np.ndarray[Any, Any]
Sizes = Mapping[str, int]


@op("dot_general")
class DotGeneral(Operation):
    """Multiply and sum over contracting axes; batch axes are shared.

    Result axes: the batch axes, the other axes of `lhs`, the other axes of `rhs`. Products are accumulated in
    the element type (narrow floats in f32; integers wrap).
    """

    lhs: Value
    rhs: Value
    lhs_batch: tuple[int, ...]
    rhs_batch: tuple[int, ...]
    lhs_contract: tuple[int, ...]
    rhs_contract: tuple[int, ...]

    @property
    def lhs_free(self) -> tuple[int, ...]:
        return tuple(a for a in range(self.lhs.type.rank) if a not in (*self.lhs_batch, *self.lhs_contract))

    @property
    def rhs_free(self) -> tuple[int, ...]:
        return tuple(a for a in range(self.rhs.type.rank) if a not in (*self.rhs_batch, *self.rhs_contract))

    def infer(self) -> TensorType:
        a, b = self.lhs.type, self.rhs.type
        if a.dtype != b.dtype:
            raise self.error(f"lhs is {a}, rhs is {b}: element types differ")
        if a.dtype.kind not in "fiu":
            raise self.error(f"does not take element type {a.dtype}")
        for side, axes in ((a, (*self.lhs_batch, *self.lhs_contract)), (b, (*self.rhs_batch, *self.rhs_contract))):
            if len(set(axes)) != len(axes) or any(not 0 <= x < side.rank for x in axes):
                raise self.error(f"axes {axes} do not fit {side}")
        if len(self.lhs_batch) != len(self.rhs_batch) or len(self.lhs_contract) != len(self.rhs_contract):
            raise self.error("lhs and rhs name different numbers of axes")
        for x, y in zip((*self.lhs_batch, *self.lhs_contract), (*self.rhs_batch, *self.rhs_contract), strict=True):
            if isinstance(a.shape[x], int) and isinstance(b.shape[y], int) and a.shape[x] != b.shape[y]:
                raise self.error(f"axis {x} of lhs {a} and axis {y} of rhs {b} differ")
        return a.with_shape(
            [a.shape[x] for x in (*self.lhs_batch, *self.lhs_free)] + [b.shape[x] for x in self.rhs_free]
        )

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        a, b = operands
        a = a.transpose(*self.lhs_batch, *self.lhs_free, *self.lhs_contract)
        b = b.transpose(*self.rhs_batch, *self.rhs_contract, *self.rhs_free)
        nb, nc = len(self.lhs_batch), len(self.lhs_contract)
        batch, contract = a.shape[:nb], a.shape[a.ndim - nc :]
        rows, columns = a.shape[nb : a.ndim - nc], b.shape[nb + nc :]
        k = int(np.prod(contract, dtype=int))
        m, n = int(np.prod(rows, dtype=int)), int(np.prod(columns, dtype=int))
        result = wide(a.reshape(*batch, m, k)) @ wide(b.reshape(*batch, k, n))
        return result.reshape((*batch, *rows, *columns)).astype(self.result.type.dtype.numpy)

    def cost(self) -> Cost:
        depth = product(tuple(self.lhs.type.shape[a] for a in self.lhs_contract))
        return traffic(self, 2 * self.result.type.elements * depth)


@op("dot_integer")
class DotInteger(Operation):
    """``lhs [..., k]`` times ``rhs [k, n]``, both i16, with products and sums in i32: exact where these fit.

    What a product of 8-bit integers becomes once their zero points are taken off.
    """

    lhs: Value
    rhs: Value

    lhs_batch: ClassVar[tuple[int, ...]] = ()
    rhs_batch: ClassVar[tuple[int, ...]] = ()
    rhs_contract: ClassVar[tuple[int, ...]] = (0,)
    rhs_free: ClassVar[tuple[int, ...]] = (1,)

    @property
    def lhs_contract(self) -> tuple[int, ...]:
        return (self.lhs.type.rank - 1,)

    @property
    def lhs_free(self) -> tuple[int, ...]:
        return tuple(range(self.lhs.type.rank - 1))

    def infer(self) -> TensorType:
        a, b = self.lhs.type, self.rhs.type
        if a.dtype != i16 or b.dtype != i16 or not a.rank or b.rank != 2:
            raise self.error(f"lhs is {a}, rhs is {b}: expected [..., k] and [k, n] of i16")
        if isinstance(a.shape[-1], int) and isinstance(b.shape[0], int) and a.shape[-1] != b.shape[0]:
            raise self.error(f"the depths of lhs {a} and rhs {b} differ")
        return TensorType((*a.shape[:-1], b.shape[1]), i32)

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        a, b = (x.astype(np.int64) for x in operands)
        return np.asarray(a @ b).astype(np.int32)

    def cost(self) -> Cost:
        return traffic(self, 2 * self.result.type.elements * self.lhs.type.shape[-1])


class _Convolution(Operation):
    """The fields and checks that a convolution and its transpose share."""

    input: Value
    weight: Value
    strides: tuple[int, ...]
    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    dilations: tuple[int, ...]
    groups: int
    layout: str = "nchw"

    @property
    def spatial_rank(self) -> int:
        return self.weight.type.rank - 2

    def _checked(self) -> tuple[TensorType, TensorType]:
        """Types of input and weight, whose ranks and attributes fit."""
        x, w = self.input.type, self.weight.type
        n = self.spatial_rank
        if x.rank != w.rank or n < 1 or x.dtype != w.dtype or not x.dtype.is_float:
            raise self.error(f"input is {x}, weight is {w}")
        if not len(self.strides) == len(self.low) == len(self.high) == len(self.dilations) == n:
            raise self.error(f"strides, padding and dilations need {n} entries each")
        if self.layout not in ("nchw", "nhwc"):
            raise self.error(f"unknown layout '{self.layout}'")
        if min((*self.strides, *self.dilations, self.groups)) < 1:
            raise self.error("strides, dilations and groups must be positive")
        return x, w


@op("conv")
class Conv(_Convolution):
    """Cross-correlation with `groups` over any number of spatial axes.

    ``layout="nchw"``: input [N, C, *spatial], result [N, O, *spatial]; ``"nhwc"``: channels last in both.
    The weight is [O, C/groups, *kernel] in either layout. `low` and `high` are zero padding, one a spatial axis.
    """

    def infer(self) -> TensorType:
        x, w = self._checked()
        channels, spatial = _split(x, self.layout)
        per_group, out = w.shape[1], w.shape[0]
        if isinstance(channels, int) and isinstance(per_group, int) and channels != per_group * self.groups:
            raise self.error(
                f"weight has {per_group} input channels in each of {self.groups} groups, input has {channels}",
                help="is the input channels-first (NCHW)?",
            )
        if isinstance(out, int) and out % self.groups:
            raise self.error(f"{out} output channels do not divide into {self.groups} groups")
        window = window_sizes(spatial, w.shape[2:], self.strides, self.low, self.high, self.dilations)
        if any(isinstance(d, int) and d < 0 for d in window):
            raise self.error(f"the kernel {w.shape[2:]} is larger than the padded input {x}")
        return x.with_shape(_join(x.shape[0], out, window, self.layout))

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, w = operands
        n = self.spatial_rank
        if self.layout == "nhwc":
            x = np.moveaxis(x, -1, 1)
        padding = [(evaluate(a, sizes), evaluate(b, sizes)) for a, b in zip(self.low, self.high, strict=True)]
        x = wide(np.pad(x, [(0, 0), (0, 0), *padding]))
        spans = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], self.dilations, strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + n)))
        steps = (1, 1, *self.strides, *self.dilations)
        view = view[tuple(slice(None, None, step) for step in steps)]
        batch, out_spatial = x.shape[0], view.shape[2 : 2 + n]
        g, og = self.groups, w.shape[0] // self.groups
        view = view.reshape(batch, g, x.shape[1] // g, *view.shape[2:])
        # [batch, g, spatial..., c, kernel...] x [g, o, c, kernel...]
        positions, depth = int(np.prod(out_spatial, dtype=int)), int(np.prod(w.shape[1:], dtype=int))
        columns = np.moveaxis(view, 2, 2 + n).reshape(batch, g, positions, depth)
        result = columns @ wide(w).reshape(g, og, depth).transpose(0, 2, 1)
        result = result.transpose(0, 1, 3, 2).reshape(batch, g * og, *out_spatial)
        if self.layout == "nhwc":
            result = np.moveaxis(result, 1, -1)
        return result.astype(self.result.type.dtype.numpy)

    def cost(self) -> Cost:
        return traffic(self, 2 * self.result.type.elements * product(self.weight.type.shape[1:]))


@op("conv_transpose")
class ConvTranspose(_Convolution):
    """The transpose of `Conv` with respect to its input (ONNX ConvTranspose).

    Layouts as in `Conv`; the weight is [C, O/groups, *kernel]. Result spatial size:
    ``(size-1)*stride + (kernel-1)*dilation + 1 - low - high``.
    """

    def infer(self) -> TensorType:
        x, w = self._checked()
        channels, spatial = _split(x, self.layout)
        if isinstance(channels, int) and isinstance(w.shape[0], int) and channels != w.shape[0]:
            raise self.error(f"weight has {w.shape[0]} input channels, input has {channels}")
        window = tuple(
            (size - 1) * s + (k - 1) * d + 1 - a - b
            for size, k, s, a, b, d in zip(
                spatial, w.shape[2:], self.strides, self.low, self.high, self.dilations, strict=True
            )
        )
        return x.with_shape(_join(x.shape[0], w.shape[1] * self.groups, window, self.layout))

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, w = operands
        n = self.spatial_rank
        if self.layout == "nhwc":
            x = np.moveaxis(x, -1, 1)
        g, og = self.groups, w.shape[1]
        spatial, kernel = x.shape[2:], w.shape[2:]
        full = [
            (size - 1) * s + (k - 1) * d + 1
            for size, k, s, d in zip(spatial, kernel, self.strides, self.dilations, strict=True)
        ]
        result = np.zeros((x.shape[0], g, og, *full))
        xs = wide(x).reshape(x.shape[0], g, x.shape[1] // g, *spatial)
        ws = wide(w).reshape(g, x.shape[1] // g, og, *kernel)
        for tap in np.ndindex(*kernel):
            at = (slice(None), slice(None), slice(None), *tap)
            part = np.einsum("ngc...,gco->ngo...", xs, ws[at])
            place = tuple(
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, s, size in zip(tap, self.dilations, self.strides, spatial, strict=True)
            )
            result[(slice(None), slice(None), slice(None), *place)] += part
        crop = tuple(
            slice(evaluate(a, sizes), extent - evaluate(b, sizes))
            for a, b, extent in zip(self.low, self.high, full, strict=True)
        )
        result = result.reshape(x.shape[0], g * og, *full)[(slice(None), slice(None), *crop)]
        if self.layout == "nhwc":
            result = np.moveaxis(result, 1, -1)
        assert result.ndim == n + 2
        return result.astype(self.result.type.dtype.numpy)

    def cost(self) -> Cost:
        return traffic(self, 2 * self.input.type.elements * product(self.weight.type.shape[1:]))


@op("conv_weight_gradient")
class ConvWeightGradient(Operation):
    """The transpose of `Conv` with respect to its weight.

    `input` is what the windows slide over, `gradient` has one element a window, in the same `layout` (see `Conv`). The
    result is [channels of gradient, channels of input / groups, *kernel]: for each element of the kernel, the sum over
    batch and windows of the products of what it met. A `ConvTranspose`, whose windows slide over its result, passes the
    result's cotangent as `input`, and its input as `gradient`.
    """

    input: Value
    gradient: Value
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    dilations: tuple[int, ...]
    groups: int
    layout: str = "nchw"

    @property
    def spatial_rank(self) -> int:
        return len(self.kernel)

    def infer(self) -> TensorType:
        x, g = self.input.type, self.gradient.type
        n = self.spatial_rank
        if x.rank != n + 2 or g.rank != n + 2 or n < 1 or x.dtype != g.dtype or not x.dtype.is_float:
            raise self.error(f"input is {x}, gradient is {g}, kernel is {self.kernel}")
        if not len(self.strides) == len(self.low) == len(self.high) == len(self.dilations) == n:
            raise self.error(f"strides, padding and dilations need {n} entries each")
        if self.layout not in ("nchw", "nhwc"):
            raise self.error(f"unknown layout '{self.layout}'")
        if min((*self.strides, *self.dilations, *self.kernel, self.groups)) < 1:
            raise self.error("kernel, strides, dilations and groups must be positive")
        (channels, spatial), (out, windows) = _split(x, self.layout), _split(g, self.layout)
        for what, count in (("input", channels), ("gradient", out)):
            if isinstance(count, int) and count % self.groups:
                raise self.error(f"the {count} channels of {what} do not divide into {self.groups} groups")
        fitting = window_sizes(spatial, self.kernel, self.strides, self.low, self.high, self.dilations)
        for have, want in zip((g.shape[0], *windows), (x.shape[0], *fitting), strict=True):
            if isinstance(have, int) and isinstance(want, int) and have != want:
                raise self.error(f"gradient is {g}, but the input {x} has windows {fitting}")
        return x.with_shape((out, floordiv(channels, self.groups), *self.kernel))

    def evaluate(self, sizes: Sizes, *operands: Array) -> Array:
        x, g = (np.moveaxis(a, -1, 1) if self.layout == "nhwc" else a for a in operands)
        groups = self.groups
        padding = [(evaluate(a, sizes), evaluate(b, sizes)) for a, b in zip(self.low, self.high, strict=True)]
        x = wide(np.pad(x, [(0, 0), (0, 0), *padding]))
        counts = g.shape[2:]
        g = wide(g).reshape(g.shape[0], groups, g.shape[1] // groups, int(np.prod(counts, dtype=int)))
        x = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        result = np.empty((groups, g.shape[2], x.shape[2], *self.kernel))
        for tap in np.ndindex(*self.kernel):
            met = tuple(
                slice(t * d, t * d + (count - 1) * s + 1, s) if count else slice(0)
                for t, d, s, count in zip(tap, self.dilations, self.strides, counts, strict=True)
            )
            seen = x[(slice(None),) * 3 + met].reshape(*x.shape[:3], g.shape[3])
            result[(slice(None),) * 3 + tap] = np.einsum("ngop,ngcp->goc", g, seen)
        return result.reshape(-1, x.shape[2], *self.kernel).astype(self.result.type.dtype.numpy)

    def cost(self) -> Cost:
        return traffic(self, 2 * self.gradient.type.elements * product(self.result.type.shape[1:]))


def window_sizes(
    spatial: tuple[Dim, ...],
    kernel: tuple[Dim, ...],
    strides: tuple[int, ...],
    low: tuple[Dim, ...],
    high: tuple[Dim, ...],
    dilations: tuple[int, ...],
) -> tuple[Dim, ...]:
    """Number of window positions along each axis."""
    return tuple(
        floordiv(size + a + b - ((k - 1) * d + 1), s) + 1
        for size, k, s, a, b, d in zip(spatial, kernel, strides, low, high, dilations, strict=True)
    )


def _split(t: TensorType, layout: str) -> tuple[Dim, tuple[Dim, ...]]:
    """(channels, spatial sizes)."""
    return (t.shape[1], t.shape[2:]) if layout == "nchw" else (t.shape[-1], t.shape[1:-1])


def _join(batch: Dim, channels: Dim, spatial: tuple[Dim, ...], layout: str) -> tuple[Dim, ...]:
    return (batch, channels, *spatial) if layout == "nchw" else (batch, *spatial, channels)
