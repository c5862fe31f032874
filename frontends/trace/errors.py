"""What a user can do wrong while a function is traced."""

from __future__ import annotations

from ds_compiler.ir import CompileError


class TraceError(CompileError, TypeError):
    """Python asked a traced array for something that only running the program tells, or used it wrongly.

    It is a `TypeError` too, since it is what Python's own protocols (``bool``, ``int``, ``iter`` …) expect.
    """
