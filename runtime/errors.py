"""The errors a user of a compiled program can meet."""

from __future__ import annotations


class LoadError(RuntimeError):
    """An object, artifact or manifest cannot be loaded (corrupt, of another version, for another CPU)."""


class InputError(ValueError):
    """A call's inputs do not match what the program was compiled for."""


class ExecutionError(RuntimeError):
    """A check that the program makes while it runs has failed."""


class NonFiniteError(ExecutionError, FloatingPointError):
    """A result is infinite or no number, and the program was compiled to refuse that."""
