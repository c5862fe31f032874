"""Layers that act on the last axis or on each element, and containers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import ArrayLike
from ds_compiler.frontends.trace.frame import located
from ds_compiler.nn import functional, init
from ds_compiler.nn.model import Model, Parameter


class Linear(Model):
    """``x @ weight.T + bias``; the weight is [out_features, in_features]."""

    weight: Any
    bias: Any

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32, key: init.Key = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        numbers = init.generator(key)
        self.weight = Parameter(init.fan_in_uniform((out_features, in_features), in_features, dtype, numbers))
        self.bias = Parameter(init.fan_in_uniform((out_features,), in_features, dtype, numbers)) if bias else None

    def forward(self, x: ArrayLike) -> Any:
        """[..., in_features] → [..., out_features]."""
        return functional.linear(x, self.weight, self.bias)


class Embedding(Model):
    """A row of `weight` [num_embeddings, embedding_dim] for each integer."""

    weight: Any

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: Any = np.float32, key: init.Key = None
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(init.normal((num_embeddings, embedding_dim), 1.0, dtype, key))

    def forward(self, ids: ArrayLike) -> Any:
        """Integers [...] → [..., embedding_dim]."""
        return functional.embedding(ids, self.weight)


class Dropout(Model):
    """In training, zeros with probability `p` and scales the rest by 1/(1-p); the key decides which."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability, got {p}")
        self.p = p

    def forward(self, x: ArrayLike, key: Any = None) -> Any:
        """The same shape.

        Raises:
            CompileError: in training without a key.
        """
        if not self.training or self.p == 0:
            return x
        if key is None:
            raise located(
                "Dropout in training needs a key",
                help="pass key=ds.random.key(seed), a new one at each step (fold_in the step's number), or call eval()",
            )
        return functional.dropout(x, self.p, key)


class ReLU(Model):
    """max(x, 0)."""

    def forward(self, x: ArrayLike) -> Any:
        return functional.relu(x)


class GELU(Model):
    """x times the normal distribution function, exactly or (``tanh``) approximately."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate is 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: ArrayLike) -> Any:
        return functional.gelu(x, self.approximate)


class SiLU(Model):
    """x * sigmoid(x)."""

    def forward(self, x: ArrayLike) -> Any:
        return functional.silu(x)


class Tanh(Model):
    """tanh(x)."""

    def forward(self, x: ArrayLike) -> Any:
        return xp.tanh(x)


class Identity(Model):
    """x."""

    def forward(self, x: ArrayLike) -> Any:
        return x


class Flatten(Model):
    """All axes from `start_dim` on as one."""

    def __init__(self, start_dim: int = 1) -> None:
        super().__init__()
        self.start_dim = start_dim

    def forward(self, x: ArrayLike) -> Any:
        x = xp.asarray(x)
        return xp.reshape(x, (*x.shape[: self.start_dim], -1))


class ModuleList(Model):
    """Models by number; it has no ``forward``."""

    def __init__(self, models: Iterable[Model] = ()) -> None:
        super().__init__()
        for model in models:
            self.append(model)

    def append(self, model: Model) -> None:
        """Add a model at the end.

        Raises:
            TypeError: it is none.
        """
        if not isinstance(model, Model):
            raise TypeError(f"{type(self).__name__} holds models, got {type(model).__name__}")
        setattr(self, str(len(self)), model)

    def __len__(self) -> int:
        return sum(1 for _ in self.named_children())

    def __iter__(self) -> Iterator[Model]:
        return (child for _, child in self.named_children())

    def __getitem__(self, index: int) -> Model:
        return list(self)[index]


class Sequential(ModuleList):
    """Models that are applied one after the other."""

    def __init__(self, *models: Model) -> None:
        super().__init__(models)

    def forward(self, x: Any, key: Any = None) -> Any:
        """The last model's result; parts that take a key (`Dropout`) get one each, made from `key`."""
        for index, model in enumerate(self):
            if key is not None and "key" in inspect.signature(model.forward).parameters:
                from ds_compiler import random

                x = model(x, key=random.fold_in(key, index))
            else:
                x = model(x)
        return x
