"""The page of the passes: what it holds, that it needs nothing else, and that no name can break out of it."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from ds_compiler.ir.html import difference, is_operation, make_steps, markup, render
from ds_compiler.ir.parser import parse_module
from ds_compiler.ir.printer import print_module
from ds_compiler.passes import run
from tests.ir.test_text import TEXT

HOSTILE = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """Collects the tags, and the text of the data script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.inside, self.data = False, ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [str(v) for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]
        self.inside = ("id", "data") in attrs

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.data += data

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.data))


def plain(marked: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", marked))


def dumps() -> list[tuple[str, str]]:
    module = parse_module(TEXT)
    found = [("import", print_module(module))]
    run(module, "cleanup", dump=lambda name, m: found.append((name, print_module(m))))
    return found


def test_the_page_holds_every_step_and_needs_nothing_else() -> None:
    found = dumps()
    text = render(found, title="m.onnx")
    page = Page(text)
    assert page.references == [] and "@import" not in text and "url(" not in text and "http" not in text
    assert [s["name"] for s in page.content["steps"]] == [name for name, _ in found]
    lines = page.content["lines"]
    for (_, wanted), step in zip(found, page.content["steps"], strict=True):
        kept = [plain(lines[row]) for row, mark in zip(step["rows"], step["marks"], strict=True) if mark != "-"]
        assert kept == wanted.rstrip("\n").split("\n")
    assert len(set(lines)) == len(lines)


def test_names_cannot_break_out() -> None:
    module = parse_module(TEXT)
    module.metadata["producer"] = HOSTILE
    module.main.arguments[0].hint = HOSTILE
    page = Page(render([(HOSTILE, print_module(module))], title=HOSTILE))
    assert page.tags.count("script") == 2
    assert page.content["steps"][0]["name"] == HOSTILE
    for line in page.content["lines"]:
        assert set(re.findall(r"<(/?\w+)", line)) <= {"span", "/span"}


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="no IR"):
        render([], title="m")


@pytest.mark.parametrize("line", [*TEXT.splitlines(), '  %"a//b" = exp %/m/x // n "c" (K)', "  } orelse {"])
def test_markup_changes_no_text(line: str) -> None:
    assert plain(markup(line)) == line


@pytest.mark.parametrize(
    ("line", "spans"),
    [
        (
            "  %y = max %x, %0 : tensor<n x 4 x f32>  // r/3",
            ["value d %y", "mnemonic max", "value %x", "value %0", "type tensor<n x 4 x f32>", "location // r/3"],
        ),
        (
            '  %5, %6 = f %3 s="a=%b" k=[1, -2.5] body(%a: tensor<f32>) {',
            ["value d %5", "value d %6", "mnemonic f", "value %3", "attribute s", 'string "a=%b"', "attribute k",
             "number 1", "number -2.5", "keyword body", "value d %a", "type tensor<f32>"],
        ),
        ("  return %y", ["keyword return", "value %y"]),
        ("func @f(%x: tensor<f32>) -> () {", ["keyword func", "symbol @f", "value d %x", "type tensor<f32>"]),
        ("  %w = constant @0123456789abcdef : tensor<9xf32>",
         ["value d %w", "mnemonic constant", "symbol @0123456789abcdef", "type tensor<9xf32>"]),
        ('  bind %"in 1" symbol="_k"', ["mnemonic bind", 'value %"in 1"', "attribute symbol", 'string "_k"']),
    ],
)  # fmt: skip
def test_tokens_and_definitions(line: str, spans: list[str]) -> None:
    found = re.findall(r'<span class="([^"]*)">(.*?)</span>', markup(line))
    assert [f"{kind} {html.unescape(text)}" for kind, text in found] == spans


def test_difference_looks_past_numbers_and_indentation() -> None:
    before = ["f {", "  %0 = exp %x", "  %1 = neg %0", "  %2 = abs %1", "}"]
    after = ["f {", "  %0 = neg %x", "    %1 = abs %0", "  %y = sin %1", "}"]
    assert difference(before, after) == (
        ["f {", "  %0 = exp %x", "  %1 = neg %0", "  %0 = neg %x", "    %1 = abs %0", "  %y = sin %1", "}"],
        "=--+=+=",
    )
    assert difference(before, before) == (before, "=====")


def test_operations_are_counted() -> None:
    step, again = make_steps([("a", TEXT), ("b", TEXT)], {})
    assert step.operations == again.operations == len([op for op in parse_module(TEXT).walk() if not op.is_terminator])
    assert not is_operation("  } orelse {") and is_operation("  bind %x")
