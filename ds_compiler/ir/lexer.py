"""A cursor over IR text: what the parser reads words, names, strings and locations with."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from ds_compiler.ir.dim_text import parse_dim
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.location import UNKNOWN, Location

BARE_NAME = re.compile(r"/?[^\W\d][\w./-]*")
_WORD = re.compile(r"[^\W\d]\w*")
_ANONYMOUS = re.compile(r"\d+")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_NUMBER = re.compile(r"-?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf\b|nan\b(?:\(0x[0-9a-f]+\))?)")
_SPACE = re.compile(r"\s+")
_BARE_PLACE = re.compile(r'[^\s,()"]+')


def quote(text: str) -> str:
    """`text` as a string literal on one line."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def write_name(name: str) -> str:
    """A value, function or result name: bare when it reads like one, else quoted."""
    return name if BARE_NAME.fullmatch(name) else quote(name)


def write_location(location: Location) -> str:
    """``node1, node2 (Kind)``."""
    names = ", ".join(n if _BARE_PLACE.fullmatch(n) else quote(n) for n in location.names)
    if not location.kind:
        return names
    kind = location.kind if _BARE_PLACE.fullmatch(location.kind) else quote(location.kind)
    return f"{names} ({kind})" if names else f"({kind})"


class Lexer:
    """A position in `text`. Every reading method skips white space and comment lines first.

    A ``//`` that opens a line starts a comment; one behind code starts the operation's location, which
    `location` reads.
    """

    def __init__(self, text: str, source: str = "") -> None:
        self.text, self.source, self.position = text, source, 0

    # -- looking -------------------------------------------------------------------------------
    def skip(self) -> None:
        """Move over white space and lines that are comments."""
        while True:
            if space := _SPACE.match(self.text, self.position):
                self.position = space.end()
            start = self.text.rfind("\n", 0, self.position) + 1
            if not self.text.startswith("//", self.position) or self.text[start : self.position].strip():
                return
            end = self.text.find("\n", self.position)
            self.position = len(self.text) if end < 0 else end

    def at(self, literal: str) -> bool:
        """`literal` comes next."""
        self.skip()
        return self.text.startswith(literal, self.position)

    def at_end(self) -> bool:
        self.skip()
        return self.position >= len(self.text)

    def at_pattern(self, pattern: re.Pattern[str]) -> bool:
        self.skip()
        return pattern.match(self.text, self.position) is not None

    # -- reading -------------------------------------------------------------------------------
    def accept(self, literal: str) -> bool:
        """Read `literal` if it comes next."""
        if not self.at(literal):
            return False
        self.position += len(literal)
        return True

    def expect(self, literal: str) -> None:
        if not self.accept(literal):
            self.fail(f"expected '{literal}'")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """Read what `pattern` matches, if it does here."""
        self.skip()
        found = pattern.match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        return found.group()

    def word(self, what: str) -> str:
        found = self.match(_WORD)
        return found if found is not None else self.fail(f"expected {what}")

    def number(self) -> str:
        found = self.match(_NUMBER)
        return found if found is not None else self.fail("expected a number")

    def string(self) -> str:
        start = self.position
        found = self.match(_STRING)
        if found is None:
            self.fail("expected a string in double quotes")
        try:
            return str(json.loads(found))
        except ValueError:
            self.fail("malformed string", at=start)

    def name(self, what: str) -> str:
        """A bare or quoted name."""
        if self.at('"'):
            return self.string()
        found = self.match(BARE_NAME)
        return found if found is not None else self.fail(f"expected {what}")

    def value_name(self) -> tuple[str, bool]:
        """A value behind ``%``: its name, and whether it is only a number given by the printer."""
        self.expect("%")
        digits = _ANONYMOUS.match(self.text, self.position)
        if digits is not None:
            self.position = digits.end()
            return digits.group(), True
        return self.name("a value's name"), False

    def dim(self) -> Dim:
        """A size, which holds white space only inside parentheses."""
        self.skip()
        start, depth = self.position, 0
        end = start
        while end < len(self.text):
            character = self.text[end]
            if depth == 0 and (character.isspace() or character in ",)]}{:="):
                break
            if character == "\n":
                break
            depth += {"(": 1, ")": -1}.get(character, 0)
            end += 1
        try:
            result = parse_dim(self.text[start:end])
        except ValueError:
            self.fail(f"expected a value, found '{self.text[start:end]}'")
        self.position = end
        return result

    def location(self) -> Location:
        """The location at the end of the current line; unknown when there is none."""
        here = re.compile(r"[ \t]*//").match(self.text, self.position)
        if here is None:
            return UNKNOWN
        self.position = here.end()
        end = self.text.find("\n", self.position)
        end = len(self.text) if end < 0 else end
        names: list[str] = []
        kind = ""
        while True:
            self._blank(end)
            if self.position >= end:
                break
            if self.text[self.position] == "(":
                self.position += 1
                kind = self._place(end)
                self.expect(")")
                self._blank(end)
                if self.position < end:
                    self.fail("the location ends with its kind")
                break
            names.append(self._place(end))
            self._blank(end)
            if self.position < end and self.text[self.position] == ",":
                self.position += 1
            elif self.position < end and self.text[self.position] != "(":
                self.fail("expected ',' between the places of a location")
        return Location(tuple(names), kind)

    def _blank(self, end: int) -> None:
        while self.position < end and self.text[self.position].isspace():
            self.position += 1

    def _place(self, end: int) -> str:
        if self.text.startswith('"', self.position):
            return self.string()
        found = _BARE_PLACE.match(self.text, self.position, end)
        if found is None:
            self.fail("malformed location")
        self.position = found.end()
        return found.group()

    # -- failing -------------------------------------------------------------------------------
    def fail(self, what: str, *, at: int | None = None, help: str = "", location: Location = UNKNOWN) -> NoReturn:
        """Raise a `CompileError` that shows the line of text and a caret at position `at` (default: here)."""
        if at is None:
            self.skip()
            at = self.position
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        line = self.text[start : len(self.text) if end < 0 else end]
        place = f"{self.source}:" if self.source else "line "
        place += f"{self.text.count(chr(10), 0, at) + 1}:{at - start + 1}"
        raise CompileError(f"{place}: {what}", location=location, help=help, snippet=snippet(line, at - start))


def snippet(line: str, column: int, length: int = 1) -> str:
    """`line` without its indentation, and carets under `length` characters from `column`; long lines are cut."""
    width, before = 160, 60
    indent = len(line) - len(line.lstrip())
    line, column = line[indent:], max(0, column - indent)
    if len(line) > width:
        start = max(0, min(column - before, len(line) - width))
        column -= start
        line = ("…" if start else "") + line[start : start + width] + ("…" if start + width < len(line) else "")
        column += 1 if start else 0
    return f"  {line.rstrip()}\n  {' ' * column}{'^' * max(1, min(length, len(line) - column))}"
