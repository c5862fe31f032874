"""Sizes as text: ``2*seq+1``, ``floordiv(h+1,2)``, ``max(a,b)``; compiled once, evaluated per shape.

Text is all that a manifest can hold, and a manifest may come from anywhere, so an expression is parsed and every
node checked against a short list before Python compiles it: integers, known symbols, ``+ - * // %``, comparisons
(for constraints) and the functions in `FUNCTIONS`. Division and modulus round toward minus infinity.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Final

from ds_compiler.runtime.errors import LoadError

FUNCTIONS: Final[dict[str, Callable[..., int]]] = {
    "min": min,
    "max": max,
    "floordiv": lambda a, b: a // b,
    "ceildiv": lambda a, b: -(-a // b),
    "mod": lambda a, b: a % b,
    "bcast": lambda a, b: b if a == 1 else a,
}

_ARITHMETIC: Final = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
_COMPARISONS: Final = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
# Symbols come from model files, so they may be Python keywords or hold dots ("batch", "in", "x.1").
_TOKEN: Final = re.compile(r"[^\W\d][\w.]*(\s*\()?")
_ALPHABET: Final = re.compile(r"[\w. +\-*/%(),<>=!]*")
_MAX_LENGTH: Final = 1 << 20


class SizeError(LoadError):
    """An expression is not one of those that this module understands."""


def compile_sizes(expressions: Sequence[str], symbols: Sequence[str]) -> Callable[[Sequence[int]], tuple[int, ...]]:
    """A function from the symbols' values (in the order of `symbols`) to the values of all `expressions`.

    Raises:
        SizeError: an expression is malformed or uses an unknown name.
    """
    positions = {name: index for index, name in enumerate(symbols)}
    elements = [_parse(text, positions) for text in expressions]
    tree = ast.Expression(ast.Tuple(elements, ast.Load()))
    ast.fix_missing_locations(tree)
    try:
        code = compile(tree, "<sizes>", "eval")
    except (RecursionError, MemoryError) as error:
        raise SizeError("size expressions are nested too deeply") from error
    return _Evaluator(code)


def symbols_in(text: str) -> set[str]:
    """Names of the symbols that an expression uses."""
    return {match.group() for match in _TOKEN.finditer(text) if not match.group(1)}


def is_static(text: str) -> bool:
    """Whether `text` is a plain number."""
    return text.isascii() and text.isdigit()


class _Evaluator:
    """A compiled tuple of expressions."""

    __slots__ = ("_code", "_globals")

    def __init__(self, code: CodeType) -> None:
        self._code = code
        self._globals: dict[str, object] = {"__builtins__": {}, **FUNCTIONS}

    def __call__(self, values: Sequence[int]) -> tuple[int, ...]:
        """Evaluate.

        Raises:
            ZeroDivisionError: a divisor is zero for these values.
        """
        result: tuple[int, ...] = eval(self._code, self._globals, {"s": values})
        return result


def _parse(text: str, positions: dict[str, int]) -> ast.expr:
    if len(text) > _MAX_LENGTH:
        raise SizeError(f"size expression of {len(text)} characters is too long")

    if not _ALPHABET.fullmatch(text):
        raise SizeError(f"size expression {_shown(text)}: cannot be read")

    def substitute(match: re.Match[str]) -> str:
        token = match.group()
        if match.group(1):
            name = token[:-1].rstrip()
            if name not in FUNCTIONS:
                raise SizeError(f"size expression {_shown(text)}: unknown function {name!r}")
            return token
        if token not in positions:
            raise SizeError(f"size expression {_shown(text)}: unknown symbol {token!r}")
        return f"s[{positions[token]}]"

    try:
        tree = ast.parse(_TOKEN.sub(substitute, text).strip(), mode="eval").body
        _check(tree, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SizeError(f"size expression {_shown(text)}: cannot be read") from error
    return tree


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool) and abs(value) < 1 << 63:
            return
        case ast.Subscript(value=ast.Name(id="s"), slice=ast.Constant(value=int())):
            return  # written by `substitute`; a user's brackets cannot contain the bare name s
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _check(operand, text)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _ARITHMETIC):
            _check(left, text)
            return _check(right, text)
        case ast.Compare(left=left, ops=operators, comparators=rest) if all(
            isinstance(o, _COMPARISONS) for o in operators
        ):
            for part in (left, *rest):
                _check(part, text)
            return
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            if len(arguments) < 2 or (name not in ("min", "max") and len(arguments) != 2):
                raise SizeError(f"size expression {_shown(text)}: {name} takes 2 operands, got {len(arguments)}")
            for part in arguments:
                _check(part, text)
            return
    raise SizeError(f"size expression {_shown(text)}: {ast.unparse(node)!r} is not allowed")
