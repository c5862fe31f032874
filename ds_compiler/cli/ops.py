"""``dsc ops``: which ONNX operators the front end knows."""

from __future__ import annotations

import click

from ds_compiler.cli import options
from ds_compiler.cli.output import emit_json, table


@click.command()
@click.argument("names", nargs=-1)
@options.common
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the supported ONNX operators and the opset versions at which their meaning changes.

    With NAMES, only these; exit code 1 if one of them is not supported.

    \b
    Examples:
      dsc ops
      dsc ops Conv Einsum
    """
    from ds_compiler.frontends.onnx import supported_operators

    known = supported_operators()
    chosen = [entry for entry in known if not names or entry[1] in names]
    absent = [name for name in names if name not in {entry[1] for entry in known}]
    if as_json:
        emit_json(
            {
                "operators": [{"domain": d or "ai.onnx", "name": n, "versions": list(v)} for d, n, v in chosen],
                "unsupported": absent,
            }
        )
    else:
        rows = [[name, domain or "ai.onnx", ", ".join(map(str, versions))] for domain, name, versions in chosen]
        table(["operator", "domain", "opsets"], rows, left=3)
        for name in absent:
            click.echo(f"{name}: not supported")
        if not names:
            click.echo(f"{len(chosen)} operators")
    if absent:
        click.get_current_context().exit(1)
