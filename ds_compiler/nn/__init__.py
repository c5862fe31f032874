"""Networks as classes, their layers, and functions of networks; names and definitions are PyTorch's.

In:   NumPy arrays (called directly) or traced arrays (in functions under `ds_compiler.compile`).
Out:  arrays; `Model`s are structures of arrays, which traced functions take, differentiate and return.
Read: `model`, `call`, then `layers`.
"""

from ds_compiler.nn import init
from ds_compiler.nn.attention import MultiHeadAttention, rotary, scaled_dot_product_attention
from ds_compiler.nn.call import CompiledModule
from ds_compiler.nn.functional import (
    dropout,
    embedding,
    gelu,
    layer_norm,
    linear,
    log_softmax,
    relu,
    rms_norm,
    silu,
    softmax,
    softplus,
)
from ds_compiler.nn.images import AdaptiveAvgPool2d, AvgPool2d, Conv2d, MaxPool2d
from ds_compiler.nn.init import seed
from ds_compiler.nn.layers import (
    GELU,
    Dropout,
    Embedding,
    Flatten,
    Identity,
    Linear,
    ModuleList,
    ReLU,
    Sequential,
    SiLU,
    Tanh,
)
from ds_compiler.nn.losses import (
    bce_with_logits,
    binary_cross_entropy_with_logits,
    cross_entropy,
    l1_loss,
    mse_loss,
    nll_loss,
)
from ds_compiler.nn.model import Model, Parameter
from ds_compiler.nn.norm import BatchNorm2d, LayerNorm, RMSNorm
from ds_compiler.nn.spatial import adaptive_avg_pool2d, avg_pool2d, conv2d, max_pool2d

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "CompiledModule",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Model",
    "ModuleList",
    "MultiHeadAttention",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Tanh",
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "bce_with_logits",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "init",
    "l1_loss",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "rms_norm",
    "rotary",
    "scaled_dot_product_attention",
    "seed",
    "silu",
    "softmax",
    "softplus",
]
