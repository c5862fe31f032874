"""Python source, line by line: indentation, fresh names, comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ds_compiler.backends.triton.target import GpuTarget

_WIDTH = 110


class Writer:
    """Collects the lines of one function's body, for a target."""

    def __init__(self, target: GpuTarget) -> None:
        self.target = target
        self.lines: list[str] = []
        self._depth = 1
        self._counts: dict[str, int] = {}

    def line(self, text: str) -> None:
        """Add one line at the current depth."""
        self.lines.append("    " * self._depth + text)

    def comment(self, text: str) -> None:
        """Add a comment, of several lines where it is long."""
        words, current = text.split(" "), ""
        for word in words:
            if current and len(current) + len(word) > _WIDTH:
                self.line(f"# {current}")
                current = ""
            current = f"{current} {word}" if current else word
        self.line(f"# {current}")

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet: the hint with a number."""
        stem = re.sub(r"\W", "_", hint)
        number = self._counts.get(stem, 0)
        self._counts[stem] = number + 1
        return f"{stem}{number}"

    def assign(self, hint: str, expression: str) -> str:
        """``name = expression`` under a fresh name, which is returned."""
        name = self.fresh(hint)
        self.line(f"{name} = {expression}")
        return name

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """``head:`` with an indented body (a loop, a condition)."""
        self.line(f"{head}:")
        self._depth += 1
        yield
        self._depth -= 1

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"
