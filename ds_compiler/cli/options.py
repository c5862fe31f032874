"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Pair = click.ParamType[tuple[str, Any]]
else:
    _Pair = click.ParamType  # older versions of click cannot subscript it

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


class NameValue(_Pair):
    """``name=value``; with `integers` the value is a whole number that is not negative."""

    name = "name=value"

    def __init__(self, integers: bool = False) -> None:
        self.integers = integers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        # The part that may hold a '=' itself is the name of a dimension, but the path of a file.
        name, equals, text = str(value).rpartition("=") if self.integers else str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        if not self.integers:
            return name, text
        if not (text.isascii() and text.isdigit()):
            self.fail(f"{value!r}: the value must be a whole number", param, ctx)
        return name, int(text)


def common(function: F) -> F:
    """``--json`` and ``--debug``, which every command has."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON for machines."),
    ):
        function = option(function)
    return function


def inputs(function: F) -> F:
    """How a model's inputs are made: ``--inputs``, ``--input``, ``--dim``, ``--seed``."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="Seed of random inputs."),
        click.option(
            "--dim",
            "dims",
            multiple=True,
            type=NameValue(integers=True),
            help="Size of a symbolic dimension (batch=2), or of an axis of an input (x.3=640). Repeatable.",
        ),
        click.option(
            "--input", "files", multiple=True, type=NameValue(), help="An input from a .npy file. Repeatable."
        ),
        click.option("--inputs", "archive", type=EXISTING_FILE, help="Inputs by name from a .npz file."),
    ):
        function = option(function)
    return function


threads = click.option("--threads", type=click.IntRange(min=1), help="Threads [default: one for each core].")
target = click.option(
    "--target", default="cpu", show_default=True, help="Where to run: cpu, or cuda (this machine's GPU)."
)
model = click.argument("model", type=EXISTING_FILE)
allow_nan = click.option("--allow-nan", is_flag=True, help="Accept a model whose weights hold NaN.")
