"""Errors that name a place in the user's program."""

from __future__ import annotations

from ds_compiler.ir.location import UNKNOWN, Location


class CompileError(Exception):
    """What is wrong, where (node, operator, file:line), and what to do about it.

    ``str`` gives one line: ``what; at where; help``.
    """

    def __init__(self, what: str, *, location: Location = UNKNOWN, help: str = "") -> None:
        super().__init__(what)
        self.what, self.location, self.help = what, location, help

    def __str__(self) -> str:
        parts = [self.what]
        if self.location:
            kind = f" ({self.location.kind})" if self.location.kind else ""
            parts.append(f"at '{self.location}'{kind}")
        if self.help:
            parts.append(self.help)
        return "; ".join(parts)


class TypeError_(CompileError):
    """Operands or attributes that do not fit an operation's type rule."""
