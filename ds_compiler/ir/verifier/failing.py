"""Verifier errors: the fault, the line of IR with a caret, the source location."""

from __future__ import annotations

from typing import NoReturn

from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.lexer import snippet
from ds_compiler.ir.location import UNKNOWN
from ds_compiler.ir.module import Function
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.printer import FunctionText
from ds_compiler.ir.value import Value


def fail(
    function: Function, what: str, op: Operation | None = None, operand: int | None = None, *, help: str = ""
) -> NoReturn:
    """Raise the error, with the line of IR text of `op` (default: the function's first) and a caret under `operand`."""
    raise CompileError(
        f"{op.mnemonic}: {what}" if op is not None else f"function '{function.name}': {what}",
        location=UNKNOWN if op is None else op.location,
        help=help,
        snippet=_snippet(function, op, operand),
    )


def _snippet(function: Function, op: Operation | None, operand: int | None) -> str:
    try:
        text = FunctionText(function)
    except Exception:  # IR too broken to print: the message has to do
        return ""
    if op is None:
        return snippet(text.lines[0], 0, len("func"))
    span = text.operations.get(op)
    if operand is not None:
        span = text.operands.get((op, operand), span)
    return "" if span is None else snippet(text.lines[span.line], span.column, span.length)


def value_name(function: Function, value: Value) -> str:
    """``%name`` as the function's text has it, or what can be said of a value from elsewhere."""
    try:
        name = FunctionText(function).names.get(value)
    except Exception:
        name = None
    return f"%{name}" if name else "a value without a name"
