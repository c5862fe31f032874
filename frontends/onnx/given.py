"""What a program takes as given about a model's inputs, where their types alone do not make one program of the model.

A sequence's length, whether an optional holds something, a rank that the model leaves open, or a value that decides
which program it is (axes, the position in a sequence) is given from outside; the program holds for that only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ds_compiler.ir import CompileError, Location
from ds_compiler.ir.dtypes import dtype
from ds_compiler.ir.location import UNKNOWN

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fixed:
    """A tensor's contents; `data` is its bytes in row-major order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def array(self) -> Array:
        return np.frombuffer(self.data, dtype(self.dtype).numpy).reshape(self.shape)


@dataclass(frozen=True)
class Ranked:
    """A tensor whose sizes stay open."""

    dtype: str
    rank: int


@dataclass(frozen=True)
class Items:
    """A sequence's elements."""

    elements: tuple[Ranked, ...]


@dataclass(frozen=True)
class Absent:
    """An optional that holds nothing."""


Given: TypeAlias = "Fixed | Ranked | Items | Absent"


class NotOneProgram(CompileError):
    """A program for all calls, and for all of the model, cannot be made; one for what is given about the inputs can.

    Attributes:
        value_of: the input whose contents must be given; None if it is the structure of inputs.
        host: the reason is a part of the model that no program computes.
    """

    def __init__(
        self,
        what: str,
        value_of: str | None = None,
        *,
        host: bool = False,
        location: Location = UNKNOWN,
        help: str = "",
    ) -> None:
        super().__init__(what, location=location, help=help)
        self.value_of, self.host = value_of, host
