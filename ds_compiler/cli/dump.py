"""``dsc dump``: the IR of a model, after any pass."""

from __future__ import annotations

from pathlib import Path

import click

from ds_compiler.cli import options
from ds_compiler.cli.output import emit_json


@click.command()
@options.model
@click.option("--after", metavar="PASS", help="Print the IR after this pass ('import': before all passes).")
@click.option("--all", "everything", is_flag=True, help="Print the IR after the import and after each pass.")
@click.option("--passes", default="default", show_default=True, help="The pipeline to run.")
@click.option("--html", type=options.OUTPUT_FILE, help="Write a page with the IR after each pass instead.")
@options.common
def command(model: Path, after: str | None, everything: bool, passes: str, html: Path | None, as_json: bool) -> None:
    """Print the IR of a model as text: after all passes, after one, or after each.

    A pass that runs several times is dumped each time. Comments at the end of lines are the names of
    the model's own nodes.

    \b
    Examples:
      dsc dump model.onnx
      dsc dump model.onnx --after fuse
      dsc dump model.onnx --all --html passes.html
    """
    from ds_compiler import passes as rooms
    from ds_compiler.cli.loading import load_ir
    from ds_compiler.ir.printer import print_module

    pipeline = rooms.parse_pipeline(passes)
    names = ["import", *(invocation.pass_.name for invocation in pipeline)]
    if after is not None and after not in names:
        raise click.BadParameter(f"'{after}' is not one of {', '.join(dict.fromkeys(names))}", param_hint="--after")
    module = load_ir(model)
    dumps = [("import", print_module(module))] if everything or html or after == "import" else []

    def keep(name: str, changed: object) -> None:
        if everything or html or name == after:
            dumps.append((name, print_module(module)))

    rooms.run(module, pipeline, dump=keep)
    if not dumps:
        dumps = [(names[-1], print_module(module))]
    if html is not None:
        from ds_compiler.cli.writing import write_text
        from ds_compiler.ir.html import render

        write_text(html, render(dumps, title=model.name))
        click.echo(f"{html}: {len(dumps)} stages")
    elif as_json:
        emit_json([{"after": name, "ir": text} for name, text in dumps])
    elif len(dumps) == 1:
        click.echo(dumps[0][1], nl=False)
    else:
        for name, text in dumps:
            click.echo(f"// ---- after {name}\n{text}")
