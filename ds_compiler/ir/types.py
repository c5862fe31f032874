"""The type of a value: a tensor's shape and element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds_compiler.ir.dims import Dim, Expr, product, symbols_of
from ds_compiler.ir.dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """``tensor<4x128xf32>``, ``tensor<batch x seq+1 x f32>``; no dimensions for a scalar (``tensor<i64>``)."""

    shape: tuple[Dim, ...]
    dtype: DType

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Every dimension is an integer."""
        return not any(isinstance(d, Expr) for d in self.shape)

    @property
    def elements(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        """Size in memory, in bytes."""
        return self.elements * self.dtype.itemsize

    @property
    def symbols(self) -> frozenset[str]:
        """Symbols that the shape mentions."""
        return frozenset[str]().union(*(symbols_of(d) for d in self.shape))

    def with_shape(self, shape: Sequence[Dim]) -> TensorType:
        return TensorType(tuple(shape), self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def __str__(self) -> str:
        if self.is_static:
            return f"tensor<{''.join(f'{d}x' for d in self.shape)}{self.dtype}>"
        return f"tensor<{' x '.join(str(d) for d in self.shape)} x {self.dtype}>"

    __repr__ = __str__
