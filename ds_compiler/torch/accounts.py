"""What the backend has compiled in this process, and what it left to PyTorch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GraphReport:
    """One graph that Dynamo handed over.

    Attributes:
        kind: ``forward``, ``backward`` or ``inference``.
        operators: how many operators it holds.
        fallbacks: those that PyTorch runs, by name.
        programs: the compiled programs (one unless fallbacks split the graph), as `CompiledModel.report` tells.
        seconds: to compile it.
        error: why PyTorch runs the whole graph, if it does.
    """

    kind: str
    operators: int
    fallbacks: Counter[str]
    programs: tuple[Any, ...]
    seconds: float
    error: str = ""

    def __str__(self) -> str:
        left = ", ".join(f"{name} x{count}" for name, count in self.fallbacks.most_common()) or "none"
        return (
            f"{self.kind}: {self.operators} operators, {len(self.programs)} programs, fallbacks: {left}, "
            f"compiled in {self.seconds:.2f} s{f', left to PyTorch: {self.error}' if self.error else ''}"
        )


@dataclass
class Reports:
    """All graphs, oldest first."""

    graphs: list[GraphReport] = field(default_factory=list)

    @property
    def fallbacks(self) -> Counter[str]:
        """Operators that PyTorch runs, over all graphs."""
        return sum((g.fallbacks for g in self.graphs), Counter())

    def __str__(self) -> str:
        return "\n".join(map(str, self.graphs)) or "nothing compiled yet"


_REPORTS = Reports()


def report() -> Reports:
    """All graphs compiled since the process started or `reset` was called; prints as text."""
    return Reports(list(_REPORTS.graphs))


def reset() -> None:
    """Forget what has been compiled (the programs stay)."""
    _REPORTS.graphs.clear()


def record(graph: GraphReport) -> None:
    _REPORTS.graphs.append(graph)
