"""Layers on images [batch, channels, height, width]."""

from __future__ import annotations

from typing import Any

import numpy as np

from ds_compiler.frontends.trace.array import ArrayLike
from ds_compiler.nn import init, spatial
from ds_compiler.nn.model import Model, Parameter
from ds_compiler.nn.spatial import Pair, pair


class Conv2d(Model):
    """Cross-correlation; the weight is [out_channels, in_channels/groups, *kernel_size].

    Raises:
        ValueError: channels do not divide into `groups`.
    """

    weight: Any
    bias: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        key: init.Key = None,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding = padding if isinstance(padding, str) else pair("padding", padding)
        self.dilation, self.groups = pair("dilation", dilation), groups
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        fan_in, numbers = int(np.prod(shape[1:])), init.generator(key)
        self.weight = Parameter(init.fan_in_uniform(shape, fan_in, dtype, numbers))
        self.bias = Parameter(init.fan_in_uniform((out_channels,), fan_in, dtype, numbers)) if bias else None

    def forward(self, x: ArrayLike) -> Any:
        """[batch, in_channels, height, width] → [batch, out_channels, ...]."""
        return spatial.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaxPool2d(Model):
    """The largest element of each window."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        super().__init__()
        self.kernel_size, self.padding = pair("kernel_size", kernel_size), pair("padding", padding)
        self.stride = self.kernel_size if stride is None else pair("stride", stride)

    def forward(self, x: ArrayLike) -> Any:
        return spatial.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(Model):
    """The mean of each window."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding = pair("kernel_size", kernel_size), pair("padding", padding)
        self.stride = self.kernel_size if stride is None else pair("stride", stride)
        self.count_include_pad = count_include_pad

    def forward(self, x: ArrayLike) -> Any:
        return spatial.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.count_include_pad)


class AdaptiveAvgPool2d(Model):
    """Means of equal parts, as many as `output_size` says; the sizes must divide."""

    def __init__(self, output_size: Pair) -> None:
        super().__init__()
        self.output_size = pair("output_size", output_size)

    def forward(self, x: ArrayLike) -> Any:
        return spatial.adaptive_avg_pool2d(x, self.output_size)
