"""Reference pages that are made from the declarations: commands, ONNX operators, passes, IR operations.

    python -m docs.make_reference [FOLDER]      # default: docs/reference

It also writes docs/operators.md, which the suite's last stored outcome goes into (``make conformance``).

Each page is one function here.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from ds_compiler.cli import dsc
from ds_compiler.cli.writing import write_text
from ds_compiler.frontends.onnx import supported_operators
from ds_compiler.ir import operation_class, operation_names
from ds_compiler.passes import PASSES, PIPELINES
from tests.conformance.report import operators_page


def commands() -> str:
    """The help of every command."""
    parts = ["# dsc"]
    for name in dsc.list_commands(click.Context(dsc)):
        command = dsc.get_command(click.Context(dsc), name)
        assert command is not None
        context = click.Context(command, info_name=f"dsc {name}", max_content_width=100)
        parts.append(f"## dsc {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts) + "\n"


def onnx_operators() -> str:
    """The operators that the importer knows."""
    rows = [
        f"| {name} | {domain or 'ai.onnx'} | {', '.join(map(str, v))} |" for domain, name, v in supported_operators()
    ]
    head = "# ONNX operators\n\nThe opsets are those at which the importer's treatment changes.\n\n"
    return head + "\n".join(["| operator | domain | opsets |", "| --- | --- | --- |", *rows]) + "\n"


def passes() -> str:
    """All passes with options and full description, then the pipelines."""
    parts = ["# Passes"]
    for entry in PASSES.values():
        options = "".join(f"* `{name}` (default `{default}`)\n" for name, default in entry.options.items())
        text = inspect.getdoc(entry.function) or ""
        parts.append(f"## {entry.name}\n\n{options}\n```text\n{text}\n```")
    parts.append("## Pipelines\n\n" + "\n".join(f"* `{name}` = `{text}`" for name, text in PIPELINES.items()))
    return "\n\n".join(parts) + "\n"


def operations() -> str:
    """The operation set of the IR."""
    import ds_compiler.ops  # noqa: F401  (registers them)

    by_class: dict[type, list[str]] = {}
    for name in operation_names():
        found = operation_class(name)
        assert found is not None
        by_class.setdefault(found[0], []).append(name)
    parts = ["# Operations of the IR"]
    for cls, names in by_class.items():
        fields = "".join(f"* `{field.name}`: {field.role}\n" for field in cls.fields)  # type: ignore[attr-defined]
        title = ", ".join(names)
        parts.append(f"## {title}\n\n{fields}\n```text\n{inspect.getdoc(cls) or ''}\n```")
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> list[Path]:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"commands": commands, "onnx-operators": onnx_operators, "passes": passes, "operations": operations}
    for name, make in pages.items():
        write_text(folder / f"{name}.md", make())
    return [folder / f"{name}.md" for name in pages]


if __name__ == "__main__":
    write_text(Path(__file__).with_name("operators.md"), operators_page())
    for page in write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "reference"):
        print(page)
