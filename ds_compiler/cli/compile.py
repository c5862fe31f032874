"""``dsc compile``: ahead of time, into an artifact or any stage on the way there."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ds_compiler.cli import options
from ds_compiler.cli.errors import InputProblem
from ds_compiler.cli.output import emit_json, progress, seconds, size

SUFFIXES = {"dsa": ".dsa", "ir": ".dsir", "llvm": ".ll", "asm": ".s", "obj": ".o", "so": ".so"}


@click.command()
@options.model
@click.option("-o", "--output", type=options.OUTPUT_FILE, help="The artifact [default: MODEL.dsa in this folder].")
@click.option("--target", default="cpu", show_default=True, help="cpu (this machine) or an x86-64 level: x86-64-v3.")
@click.option(
    "--emit",
    default="dsa",
    show_default=True,
    help="What to write, comma-separated: dsa (artifact), ir, llvm, asm, obj, so; named like the output.",
)
@click.option("--no-cache", is_flag=True, help="Neither look into the compile cache nor fill it.")
@options.allow_nan
@options.common
def command(
    model: Path, output: Path | None, target: str, emit: str, no_cache: bool, allow_nan: bool, as_json: bool
) -> None:
    """Compile a model ahead of time.

    The artifact holds machine code and weights; `dsc run` and `ds.load` need neither ONNX nor LLVM for it.

    \b
    Examples:
      dsc compile model.onnx -o model.dsa
      dsc compile model.onnx --target x86-64-v3 --emit dsa,llvm,asm
    """
    from ds_compiler.cli import stages
    from ds_compiler.cli.loading import open_model, refuse_nan_weights

    kinds = parse_kinds(emit)
    output = output or Path(model.name).with_suffix(SUFFIXES[kinds[0]] if len(kinds) == 1 else ".dsa")
    if not output.parent.is_dir():
        raise InputProblem(f"the folder {str(output.parent)!r} does not exist; create it first")
    paths = {kind: output if len(kinds) == 1 else output.with_suffix(SUFFIXES[kind]) for kind in kinds}
    stages.find_target(target)
    if "so" in kinds:
        stages.c_compiler()  # missing: say so before the work, not after it
    with progress(f"compiling {model.name}"):
        start = time.perf_counter()
        program = open_model(model, target=target, cache=not no_cache) if "dsa" in kinds else None
        if not allow_nan:
            refuse_nan_weights(model)
        if program is not None:
            program.save(paths["dsa"])
        if set(kinds) - {"dsa"}:
            stages.write(model, target, {kind: path for kind, path in paths.items() if kind != "dsa"})
        elapsed = time.perf_counter() - start
    if as_json:
        files = {kind: {"path": str(path), "bytes": path.stat().st_size} for kind, path in paths.items()}
        emit_json({"target": target, "seconds": elapsed, "files": files})
        return
    for path in paths.values():
        click.echo(f"{path}  {size(path.stat().st_size)}")
    click.echo(f"compiled in {seconds(elapsed)}")


def parse_kinds(text: str) -> list[str]:
    """The kinds of output that ``--emit`` names."""
    kinds = list(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in SUFFIXES:
            raise click.BadParameter(f"'{kind}' is not one of {', '.join(SUFFIXES)}", param_hint="--emit")
    if not kinds:
        raise click.BadParameter(f"nothing to write; choose from {', '.join(SUFFIXES)}", param_hint="--emit")
    return kinds
