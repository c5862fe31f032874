"""The command group: loads a command's file when it is asked for, and reports errors in one line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from ds_compiler.cli.errors import Exit, describe

COMMANDS = ("compile", "run", "check", "bench", "dump", "opt", "ops", "demo")


class Group(click.Group):
    """Commands by the name of the file in this package that defines them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"ds_compiler.cli.{cmd_name}").command
        return command

    def main(self, *positional: Any, **named: Any) -> Any:
        """Run, then leave the process with one of `Exit`; errors go to stderr in one line."""
        given = positional[0] if positional else named.pop("args", None)
        arguments = list(sys.argv[1:] if given is None else given)
        named["standalone_mode"] = False
        try:
            result = super().main(arguments, *positional[1:], **named)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            sys.exit(130)
        except SystemExit:  # click's way out when the reader of a pipe has seen enough; its code, 1, is taken
            sys.exit(Exit.OK)
        except Exception as error:
            _report(error, arguments)
        sys.exit(result if isinstance(result, int) else Exit.OK)


def _report(error: Exception, arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        traceback.print_exc()
    text, code = describe(error)
    click.echo(f"error: {text}", err=True)
    sys.exit(code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="ds_compiler", prog_name="dsc")
def dsc() -> None:
    """Compile neural networks to native code.

    \b
    Example:
      dsc compile model.onnx -o model.dsa
      dsc run model.dsa --random
    """
