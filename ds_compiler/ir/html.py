"""The IR after each pass as one page that needs nothing else: no network, no other files.

    Path("passes.html").write_text(render([("import", text), ("cse", text)], title="model.onnx"))

Python cuts the lines into coloured tokens and compares each step with the one before; the page's script only shows
rows, and marks where a value is defined and used. Lines that several steps share are stored once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"""
      (?P<value>%(?:"(?:[^"\\]|\\.)*"|\d+|/?[^\W\d][\w./-]*))
    | (?P<location>//.*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<symbol>@(?:"(?:[^"\\]|\\.)*"|[\w./-]+))
    | (?P<type>tensor<[^<>]*>)
    | (?P<attribute>[^\W\d]\w*(?==))
    | (?P<number>(?<![\w.])-?\d[\w.+]*)
    | (?P<word>[^\W\d]\w*)
    """,
    re.VERBOSE,
)
_KEYWORDS = frozenset(
    {"func", "meta", "return", "yield", "true", "false", "none", "nan", "inf", "dim", "array", "splat"}
)
_OPENS = re.compile(r"\(%| \{")
_NUMBERED = re.compile(r"%\d+\b")


@dataclass(frozen=True, slots=True)
class Step:
    """One pass's result.

    Attributes:
        rows: lines to show, by their number in the page's table; lines that went away stand where they were.
        marks: for each row ``=`` (as before), ``+`` (new) or ``-`` (gone).
        operations: how many operations the step has.
    """

    name: str
    rows: list[int]
    marks: str
    operations: int


def render(dumps: Sequence[tuple[str, str]], *, title: str) -> str:
    """The page.

    Args:
        dumps: name of each pass, and the IR text after it, in order (`ds_compiler.ir.printer.print_module`).
        title: what was compiled.

    Raises:
        ValueError: `dumps` is empty.
    """
    from jinja2 import Environment, PackageLoader

    if not dumps:
        raise ValueError("no IR to show")
    lines: dict[str, int] = {}
    steps = make_steps(dumps, lines)
    environment = Environment(loader=PackageLoader("ds_compiler.ir", "page"), autoescape=True)
    data: dict[str, Any] = {
        "lines": [markup(line) for line in lines],
        "steps": [{"name": s.name, "rows": s.rows, "marks": s.marks, "operations": s.operations} for s in steps],
    }
    return environment.get_template("page.html").render(title=title, data=data)


def make_steps(dumps: Sequence[tuple[str, str]], lines: dict[str, int]) -> list[Step]:
    """Each step compared with the one before; `lines` learns the number of every line."""
    steps: list[Step] = []
    before: list[str] = []
    for number, (name, text) in enumerate(dumps):
        after = text.rstrip("\n").split("\n")
        shown, marks = difference(before, after) if number else (after, "=" * len(after))
        rows = [lines.setdefault(line, len(lines)) for line in shown]
        steps.append(Step(name, rows, marks, sum(map(is_operation, after))))
        before = after
    return steps


def difference(before: Sequence[str], after: Sequence[str]) -> tuple[list[str], str]:
    """Lines of both, and ``=``, ``+`` or ``-`` for each.

    A line is as before when only the numbers of its unnamed values or its indentation changed.
    """
    old, new = ([_NUMBERED.sub("%", line).strip() for line in text] for text in (before, after))
    matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
    shown: list[str] = []
    marks = ""
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            shown += after[c:d]
            marks += "=" * (d - c)
        else:
            shown += [*before[a:b], *after[c:d]]
            marks += "-" * (b - a) + "+" * (d - c)
    return shown, marks


def is_operation(line: str) -> bool:
    """The line holds an operation that computes something."""
    text = line.strip()
    return bool(text) and not text.startswith(("func ", "meta ", "}", "//", "return", "yield"))


def markup(line: str) -> str:
    """The line in HTML: a span with a class for each token; a value's definition has the class ``d`` too."""
    from markupsafe import Markup, escape

    parts: list[str] = []
    position, named = 0, not is_operation(line)
    for token in _TOKEN.finditer(line):
        parts.append(escape(line[position : token.start()]))
        position = token.end()
        kind, text = token.lastgroup or "", token.group()
        if kind == "word":
            opens = _OPENS.match(line, position)
            kind = "keyword" if text in _KEYWORDS or (named and opens) else "size" if named else "mnemonic"
            named = True
        elif kind == "value" and (not named or line.startswith(": ", position)):
            kind = "value d"
        parts.append(Markup('<span class="{}">{}</span>').format(kind, text))
    parts.append(escape(line[position:]))
    return "".join(parts)
