"""What commands print: JSON, tables, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click


def emit_json(data: Any) -> None:
    """One JSON document on stdout. NaN and infinities, which JSON lacks, become null."""
    click.echo(json.dumps(_plain(data), indent=2))


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if hasattr(data, "item"):  # a NumPy scalar
        data = data.item()
    if isinstance(data, float) and not (data == data and abs(data) != float("inf")):
        return None
    return data


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Columns as wide as their widest cell; the first `left` are flush left, the others flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows)]
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ]
        click.echo("  ".join(cells).rstrip())


class Progress(Protocol):
    """Says what is going on."""

    def __call__(self, what: str) -> None: ...


@contextmanager
def progress(start: str) -> Iterator[Progress]:
    """A spinner with a text on stderr if that is a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda what: None
        return
    from rich.console import Console

    with Console(stderr=True).status(start) as status:
        yield lambda what: status.update(what)


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}" if value < 1000 * scale else f"{value / scale:.0f} {unit}"
    return f"{value / 1e-6:.3g} us"


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
