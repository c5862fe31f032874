"""Reading sizes from their text form."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import ClassVar

from ds_compiler.ir.dims import DIM_FUNCTIONS, Dim, floordiv, mod, symbol


@lru_cache(maxsize=65536)
def parse_dim(text: str) -> Dim:
    """The size written as `text`; the inverse of ``str``.

    Raises:
        ValueError: `text` is not a size expression.
    """
    reader = _Reader(text)
    try:
        dim = reader.sum()
    except RecursionError:
        raise ValueError(f"'{text[:80]}…' is nested too deeply for a size") from None
    if reader.tokens:
        raise reader.error()
    return dim


class _Reader:
    """Recursive descent over size expressions: ``+ - * // %``, parentheses, two-argument functions."""

    _TOKEN: ClassVar[re.Pattern[str]] = re.compile(r"\s*(\d+|[^\W\d]\w*|//|[-+*%(),]|\S)")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._TOKEN.findall(text)[::-1]

    def error(self) -> ValueError:
        return ValueError(f"'{self.text}' is not a size")

    def take(self, *wanted: str) -> str | None:
        return self.tokens.pop() if self.tokens and self.tokens[-1] in wanted else None

    def sum(self) -> Dim:
        total = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            total = total + term if sign == "+" else total - term
        return total

    def product(self) -> Dim:
        total = self.factor()
        while sign := self.take("*", "//", "%"):
            factor = self.factor()
            if factor == 0 and sign != "*":
                raise self.error()
            total = total * factor if sign == "*" else floordiv(total, factor) if sign == "//" else mod(total, factor)
        return total

    def factor(self) -> Dim:
        if self.take("-"):
            return -self.factor()
        if self.take("("):
            inner = self.sum()
            return self.closed(inner)
        token = self.tokens.pop() if self.tokens else ""
        if token.isdecimal():
            return int(token)
        if not self.take("("):
            if not token.isidentifier() or token in DIM_FUNCTIONS:
                raise self.error()
            return symbol(token)
        a = self.sum()
        if token not in DIM_FUNCTIONS or not self.take(","):
            raise self.error()
        b = self.sum()
        if b == 0 and token in ("floordiv", "mod", "ceildiv"):
            raise self.error()
        return self.closed(DIM_FUNCTIONS[token](a, b))

    def closed(self, inner: Dim) -> Dim:
        if not self.take(")"):
            raise self.error()
        return inner
