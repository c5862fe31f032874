"""What the documents show works: Python blocks run, `dsc` lines run, links lead somewhere, IR text parses.

Blocks of one document run in order in one namespace, in a folder that holds a small ``model.onnx`` with the
input ``x`` [batch, 8]. In shell blocks the lines that start with ``dsc`` are run; ``make`` and ``pip`` are not.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from ds_compiler.cli import dsc
from tests.cli import tiny

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "sh", "bash", "dsir", "text"}
"""``text`` is output; blocks of the others are run or parsed."""
NOT_RUN = ("dsc demo", "dsc bench")
"""Commands that take long or download; tests of their own run them."""


def blocks(document: Path, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(document.read_text(encoding="utf-8")) if language in languages]


def documents_with(*languages: str) -> list[Path]:
    return [document for document in DOCUMENTS if blocks(document, *languages)]


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSC_CACHE_DIR", str(tmp_path / "cache"))
    tiny.save(tiny.perceptron(), tmp_path, "model.onnx")
    return tmp_path


@pytest.mark.parametrize("document", documents_with("python"), ids=name)
def test_python_blocks_run(document: Path, folder: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for text in blocks(document, "python"):
        exec(compile(text, name(document), "exec"), namespace)


@pytest.mark.parametrize("document", documents_with("sh", "bash"), ids=name)
def test_dsc_lines_run(document: Path, folder: Path) -> None:
    for text in blocks(document, "sh", "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            line = line.partition("  #")[0].strip()
            if line.startswith("dsc ") and not line.startswith(NOT_RUN):
                result = CliRunner().invoke(dsc, shlex.split(line)[1:])
                assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("document", documents_with("dsir"), ids=name)
def test_ir_text_parses(document: Path) -> None:
    from ds_compiler.ir.parser import parse_module
    from ds_compiler.ir.verifier import verify

    for text in blocks(document, "dsir"):
        verify(parse_module(text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{name(document)} links to {target}"


def test_the_reference_pages_can_be_made(tmp_path: Path) -> None:
    from docs.make_reference import write

    for page in write(tmp_path):
        assert len(page.read_text().splitlines()) > 20


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_block_says_its_language(document: Path) -> None:
    """So that a test above runs it."""
    fences = [line for line in map(str.strip, document.read_text(encoding="utf-8").splitlines()) if line[:3] == "```"]
    assert all(line == "```" for line in fences[1::2]), "a block is not closed"
    assert {line[3:].partition(" ")[0] for line in fences[::2]} <= LANGUAGES
