"""Where an operation comes from: an ONNX node, or a line of Python."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """One or more source places.

    Attributes:
        names: ONNX node names or ``file.py:12`` places, first the most specific; fused operations have several.
        kind: the operator or function at that place (``Conv``), empty when not known.
    """

    names: tuple[str, ...] = ()
    kind: str = ""

    def __bool__(self) -> bool:
        return bool(self.names)

    def __str__(self) -> str:
        return ", ".join(self.names)

    def merge(self, other: Location) -> Location:
        """Both places, without repeats."""
        if not other.names:
            return self
        if not self.names:
            return other
        kind = self.kind if self.kind == other.kind else ""
        return Location(tuple(dict.fromkeys((*self.names, *other.names))), kind)


UNKNOWN = Location()
