"""Sequences and optionals at import: their structure is known, so that no operation on them stays in the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ds_compiler.ir import Value


@dataclass(frozen=True, eq=False)
class Listed:
    """A sequence of tensors; or, if `optional`, an optional that holds nothing (one that does is what it holds)."""

    elements: tuple[Value, ...]
    optional: bool = False

    def __str__(self) -> str:
        return "an empty optional" if self.optional else f"a sequence of {len(self.elements)}"


Entry: TypeAlias = "Value | Listed"
"""What a name stands for."""
