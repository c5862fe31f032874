"""Exit codes, and the one line that tells a user what went wrong."""

from __future__ import annotations

import os
import re
from enum import IntEnum

import click


class Exit(IntEnum):
    """What the process returns."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    """Bad use, a bad model or bad input data."""
    BUG = 3
    """A fault in the compiler itself, not in what it was given."""


class InputProblem(Exception):
    """Something the user gave cannot be used; the message says what, where, and what to do about it."""


# By name, so that telling errors apart imports none of the rooms that define them.
_EXPECTED = frozenset({"CompileError", "TypeError_", "InputError", "ExecutionError", "LoadError", "ModelUnavailable"})


def describe(error: BaseException) -> tuple[str, Exit]:
    """The text after ``error:`` and the exit code."""
    if isinstance(error, click.UsageError):
        name = error.ctx.command_path if error.ctx else "dsc"
        return f"{_sentence(error.format_message())}; see '{name} --help'", Exit.BAD_INPUT
    if isinstance(error, click.ClickException):
        return _sentence(error.format_message()), Exit.BAD_INPUT
    if isinstance(error, InputProblem) or any(cls.__name__ in _EXPECTED for cls in type(error).__mro__):
        return str(error) or type(error).__name__, Exit.BAD_INPUT
    if isinstance(error, OSError):
        where = f"; {os.fspath(error.filename)!r}" if isinstance(error.filename, str | os.PathLike) else ""
        return f"{error.strerror or error}{where}", Exit.BAD_INPUT
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}; use smaller inputs (--dim)", Exit.BAD_INPUT
    text = " ".join(str(error).split())
    return f"internal error: {type(error).__name__}: {text}; run it again with --debug and report it", Exit.BUG


def _sentence(text: str) -> str:
    """One line without the full stop, so that more can follow."""
    return re.sub(r"\s*\n\s*", " ", text.strip()).rstrip(".")
