"""Where windows lie: strides, dilations and padding of convolutions and pooling, also for sizes known at run time."""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.frontends.onnx.node import Node
from ds_compiler.ir import Dim
from ds_compiler.ir.dims import ceildiv, floordiv, maximum, minimum, mod

AUTO_PAD = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Windows:
    """Window geometry over the spatial axes.

    Attributes:
        low, high: padding in front of and behind the tensor, as the node states it.
        beyond: what ``ceil_mode`` adds behind `high`, so that the last window, which starts on the tensor or the
            padding in front of it, fits (negative where stated padding is not reached by any window).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    beyond: tuple[Dim, ...]

    @property
    def reach(self) -> tuple[Dim, ...]:
        """Padding behind the tensor, `beyond` included."""
        return tuple(a + b for a, b in zip(self.high, self.beyond, strict=True))


def read_windows(n: Node, spatial: tuple[Dim, ...], kernel: tuple[int, ...]) -> Windows:
    """The geometry that the node's attributes give over `spatial` sizes.

    Raises:
        CompileError: an attribute has the wrong number of entries, or a value out of range.
    """
    rank = len(spatial)
    strides, dilations = per_axis(n, "strides", rank), per_axis(n, "dilations", rank)
    if len(kernel) != rank:
        n.fail(f"the kernel {list(kernel)} does not fit {rank} spatial axes")
    if min((*kernel, *strides, *dilations), default=1) < 1:
        n.fail("kernel sizes, strides and dilations must be positive")
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    mode = n.choice("auto_pad", "NOTSET", AUTO_PAD)
    zeros = (0,) * rank
    if mode == "VALID":
        return Windows(kernel, strides, dilations, zeros, zeros, zeros)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        low: list[Dim] = []
        high: list[Dim] = []
        for size, span, stride in zip(spatial, spans, strides, strict=True):
            total = same_padding(size, span, stride)
            less = floordiv(total, 2)
            low.append(less if mode == "SAME_UPPER" else total - less)
            high.append(total - less if mode == "SAME_UPPER" else less)
        return Windows(kernel, strides, dilations, tuple(low), tuple(high), zeros)
    pads = explicit_pads(n, rank)
    before, behind = pads[:rank], pads[rank:]
    beyond: tuple[Dim, ...] = zeros
    if n.int("ceil_mode", 0):
        beyond = tuple(map(_beyond, spatial, spans, strides, before, behind))
    return Windows(kernel, strides, dilations, before, behind, beyond)


def per_axis(n: Node, name: str, rank: int) -> tuple[int, ...]:
    """An attribute with an entry for each spatial axis, ones where it is missing."""
    values = n.ints(name, (1,) * rank)
    if len(values) != rank:
        n.fail(f"attribute {name}={list(values)} does not fit {rank} spatial axes")
    return values


def explicit_pads(n: Node, rank: int) -> tuple[int, ...]:
    """The attribute ``pads``: all lows, then all highs."""
    pads = n.ints("pads", (0,) * (2 * rank))
    if len(pads) != 2 * rank or min(pads, default=0) < 0:
        n.fail(f"attribute pads={list(pads)} must have {2 * rank} entries, none negative")
    return pads


def same_padding(size: Dim, span: int, stride: int) -> Dim:
    """Padding with which there are ⌈size / stride⌉ windows, the last one ending with the padding."""
    missing = span - 1 - mod(size - 1, stride)
    return missing if span >= stride else maximum(missing, 0)


def _beyond(size: Dim, span: int, stride: int, low: int, high: int) -> Dim:
    free = size + low + high - span
    if high < span - stride + 1:  # a window that starts inside the padding behind the tensor cannot occur
        return mod(-free, stride)
    count = minimum(ceildiv(free, stride) + 1, ceildiv(size + low, stride))
    return maximum((count - 1) * stride + span - size - low, 0) - high
