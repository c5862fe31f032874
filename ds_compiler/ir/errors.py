"""Errors that name a place in the user's program."""

from __future__ import annotations

from ds_compiler.ir.location import UNKNOWN, Location


class CompileError(Exception):
    """What is wrong, where (node, operator, file:line), and what to do about it.

    ``str`` gives one line, ``what; at where; help``, and below it the `snippet` of IR text, if there is one.
    """

    def __init__(self, what: str, *, location: Location = UNKNOWN, help: str = "", snippet: str = "") -> None:
        super().__init__(what)
        self.what, self.location, self.help, self.snippet = what, location, help, snippet

    def __str__(self) -> str:
        parts = [self.what]
        if self.location:
            kind = f" ({self.location.kind})" if self.location.kind else ""
            parts.append(f"at '{self.location}'{kind}")
        if self.help:
            parts.append(self.help)
        line = "; ".join(parts)
        if not line.isprintable():  # names may hold anything
            line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        return f"{line}\n{self.snippet}" if self.snippet else line


class TypeError_(CompileError):
    """Operands or attributes that do not fit an operation's type rule."""
