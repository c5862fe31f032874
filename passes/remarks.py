"""What passes tell about their work: counts of rewrites, and why something that looked promising was left alone.

    with collect() as remarks:
        run(module, "default")
    remarks.counts["canonicalize.mul_by_one"]      # how often a pattern fired
    [str(r) for r in remarks.missed]               # near misses, with source places

Outside `collect` the calls below do nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ds_compiler.ir.location import Location


@dataclass(frozen=True, slots=True)
class Missed:
    """A rewrite that nearly applied: `what` (a rewrite's name), `why` not, and where."""

    what: str
    why: str
    location: Location

    def __str__(self) -> str:
        place = f" at '{self.location}'" if self.location else ""
        return f"{self.what}: {self.why}{place}"


@dataclass(slots=True)
class Remarks:
    """Everything reported while collecting."""

    counts: Counter[str] = field(default_factory=Counter)
    missed: list[Missed] = field(default_factory=list)


_current: ContextVar[Remarks | None] = ContextVar("remarks", default=None)


@contextmanager
def collect() -> Iterator[Remarks]:
    """Gather what passes report inside the ``with`` block."""
    remarks = Remarks()
    token = _current.set(remarks)
    try:
        yield remarks
    finally:
        _current.reset(token)


def count(name: str, times: int = 1) -> None:
    """Rewrite `name` was applied `times` more times."""
    remarks = _current.get()
    if remarks is not None and times:
        remarks.counts[name] += times


def missed(what: str, why: str, location: Location) -> None:
    """Rewrite `what` nearly applied at `location`."""
    remarks = _current.get()
    if remarks is not None:
        remarks.missed.append(Missed(what, why, location))
