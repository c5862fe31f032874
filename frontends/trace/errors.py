"""What a user can do wrong while a function is traced."""

from __future__ import annotations

from ds_compiler.ir import CompileError


class TraceError(CompileError, TypeError, ValueError):
    """Python asked a traced array for something that only running the program tells, or used it wrongly.

    It is a `TypeError` too, which Python's own protocols (``bool``, ``int``, ``iter`` …) expect, and a `ValueError`,
    which the array API standard asks for where sizes do not fit.
    """


class NoSuchAttribute(TraceError, AttributeError):
    """A traced array does not have what another library's arrays have."""


class NoSuchAxis(TraceError, IndexError):
    """An axis is none of the array's."""


class NumberNeeded(TraceError):
    """Python needs the value of a number that is an input of the program; then it is part of the program instead.

    Attributes:
        numbers: which arguments, by the number of their leaf; of variables outside of the function, their names.
    """

    def __init__(self, error: TraceError, numbers: frozenset[int | str]) -> None:
        super().__init__(error.what, location=error.location, help=error.help)
        self.numbers = numbers
