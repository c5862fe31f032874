"""What a user can do wrong while a function is traced."""

from __future__ import annotations

from ds_compiler.ir import CompileError


class TraceError(CompileError, TypeError, ValueError):
    """Python asked a traced array for something that only running the program tells, or used it wrongly.

    It is a `TypeError` too, which Python's own protocols (``bool``, ``int``, ``iter`` …) expect, and a `ValueError`,
    which the array API standard asks for where sizes do not fit.
    """
