"""What each ATen operator means, a family a file; importing the package registers all."""

from ds_compiler.frontends.torch.operators import (
    attention,
    contraction,
    convolution,
    creation,
    elementwise,
    indexing,
    movement,
    normalization,
    pooling,
    random,
    reduction,
    sorting,
)

__all__ = [
    "attention",
    "contraction",
    "convolution",
    "creation",
    "elementwise",
    "indexing",
    "movement",
    "normalization",
    "pooling",
    "random",
    "reduction",
    "sorting",
]
