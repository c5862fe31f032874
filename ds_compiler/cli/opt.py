"""``dsc opt``: run passes on IR text."""

from __future__ import annotations

from pathlib import Path

import click

from ds_compiler.cli import options
from ds_compiler.cli.output import emit_json
from ds_compiler.cli.writing import save_ir


def list_passes(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Print names, options and first lines of all passes and pipelines, then leave."""
    if not wanted or ctx.resilient_parsing:
        return
    from ds_compiler.passes import PASSES, PIPELINES

    for entry in PASSES.values():
        given = ",".join(f"{name}={value}" for name, value in entry.options.items())
        click.echo(f"{entry.name}{f'{{{given}}}' if given else ''}\n    {entry.summary}")
    for name, text in PIPELINES.items():
        click.echo(f"{name}\n    pipeline: {text}")
    ctx.exit()


@click.command()
@options.model
@click.option("--passes", default="", help='Passes in order: "canonicalize,cse,fuse{max-ops=64}".')
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=list_passes, help="List all passes.")
@click.option("--dump-after", multiple=True, metavar="PASS", help="Print the IR after this pass to stderr. Repeatable.")
@click.option("--no-verify", is_flag=True, help="Do not check the IR after each pass.")
@click.option("-o", "--output", type=options.OUTPUT_FILE, help="Write here (large constants beside it), not to stdout.")
@options.common
def command(
    model: Path,
    passes: str,
    dump_after: tuple[str, ...],
    no_verify: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run passes on a .dsir file (or an ONNX model) and print the IR.

    Constants of more than 16 elements are read from MODEL.safetensors beside the text, and written
    beside OUTPUT; on stdout they are named by the hash of their content.

    \b
    Examples:
      dsc opt model.dsir --passes "canonicalize,cse,dce"
      dsc opt model.onnx --passes default -o model.dsir
    """
    from ds_compiler import passes as rooms
    from ds_compiler.cli.loading import load_ir
    from ds_compiler.ir.printer import print_module

    pipeline = rooms.parse_pipeline(passes)
    unknown = set(dump_after) - {invocation.pass_.name for invocation in pipeline}
    if unknown:
        raise click.BadParameter(f"'{sorted(unknown)[0]}' is not among the passes", param_hint="--dump-after")
    module = load_ir(model)

    def dump(name: str, changed: object) -> None:
        if name in dump_after:
            click.echo(f"// after {name}\n{print_module(module)}", err=True)

    timing: dict[str, float] = {}
    rooms.run(module, pipeline, verify=not no_verify, dump=dump, timing=timing)
    if output is not None:
        save_ir(module, output)
    if as_json:
        text = None if output is not None else print_module(module)
        emit_json({"seconds": timing, "operations": sum(1 for _ in module.walk()), "ir": text})
    elif output is None:
        click.echo(print_module(module), nl=False)
