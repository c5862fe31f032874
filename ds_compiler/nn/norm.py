"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import ArrayLike
from ds_compiler.frontends.trace.frame import located
from ds_compiler.nn import functional
from ds_compiler.nn.model import Model, Parameter


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


class LayerNorm(Model):
    """Mean 0 and variance 1 over the last axes, then ``* weight + bias``."""

    weight: Any
    bias: Any

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.normalized_shape, self.eps = _sizes(normalized_shape), eps
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: ArrayLike) -> Any:
        """The same shape."""
        return functional.layer_norm(x, len(self.normalized_shape), self.weight, self.bias, self.eps)


class RMSNorm(Model):
    """Root mean square 1 over the last axes, then ``* weight``."""

    weight: Any

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.normalized_shape = _sizes(normalized_shape)
        self.eps = float(np.finfo(np.float32).eps) if eps is None else eps
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None

    def forward(self, x: ArrayLike) -> Any:
        """The same shape."""
        return functional.rms_norm(x, len(self.normalized_shape), self.weight, self.eps)


class BatchNorm2d(Model):
    """Mean 0 and variance 1 of each channel (Ioffe & Szegedy 2015), then ``* weight + bias``.

    In training the statistics are the batch's, and `running_mean` and `running_var` move towards them by `momentum`;
    `forward` assigns the new ones. In evaluation the running statistics are used.
    """

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        if track_running_stats:
            self.register_buffer("running_mean", np.zeros(num_features, dtype))
            self.register_buffer("running_var", np.ones(num_features, dtype))
            self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def forward(self, x: ArrayLike) -> Any:
        """[batch, channels, height, width] → the same.

        Raises:
            CompileError: it has another number of axes or channels.
        """
        x = xp.asarray(x)
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise located(f"BatchNorm2d: takes [batch, {self.num_features}, height, width], got {x.shape}")
        if not self.training and self.track_running_stats:
            mean, variance = self.running_mean, self.running_var
            centred = x - xp.reshape(mean, (-1, 1, 1))
        else:
            mean = xp.mean(x, axis=(0, 2, 3))
            centred = x - xp.reshape(mean, (-1, 1, 1))
            variance = xp.mean(centred * centred, axis=(0, 2, 3))
            if self.track_running_stats:
                self._track(x, mean, variance)
        scale = xp.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        y = centred * xp.reshape(scale, (-1, 1, 1))
        return y if self.bias is None else y + xp.reshape(self.bias, (-1, 1, 1))

    def _track(self, x: Any, mean: Any, variance: Any) -> None:
        """Move the running statistics; the variance that they estimate is the unbiased one."""
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if isinstance(count, int):
            unbiased = variance * (count / max(count - 1, 1))
        else:
            total = xp.asarray(count, dtype=variance.dtype)
            unbiased = variance * (total / xp.maximum(total - 1, 1))
        self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
        self.running_var = (1 - self.momentum) * self.running_var + self.momentum * unbiased
        self.num_batches_tracked = self.num_batches_tracked + 1
