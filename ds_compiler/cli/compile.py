"""``dsc compile``: ahead of time, into an artifact or any stage on the way there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import click

from ds_compiler.cli import options
from ds_compiler.cli.errors import InputProblem
from ds_compiler.cli.output import emit_json, progress, seconds, size, table

SUFFIXES = {"dsa": ".dsa", "ir": ".dsir", "llvm": ".ll", "asm": ".s", "obj": ".o", "so": ".so"}


@click.command()
@options.model
@click.option("-o", "--output", type=options.OUTPUT_FILE, help="The artifact [default: MODEL.dsa in this folder].")
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    help="cpu (this machine), an x86-64 level (x86-64-v3), or a GPU (cuda:90, hip:gfx942).",
)
@click.option(
    "--emit",
    help="What to write, comma-separated: dsa (artifact), ir, llvm, asm, obj, so; named like the output "
    "[default: dsa]. For a GPU: triton, ptx, cubin, a file a kernel, in the folder that the output names "
    "[default: all].",
)
@click.option("--no-cache", is_flag=True, help="Neither look into the compile cache nor fill it.")
@options.allow_nan
@options.common
def command(
    model: Path, output: Path | None, target: str, emit: str | None, no_cache: bool, allow_nan: bool, as_json: bool
) -> None:
    """Compile a model ahead of time.

    The artifact holds machine code and weights; `dsc run` and `ds.load` need neither ONNX nor LLVM for it.

    \b
    Examples:
      dsc compile model.onnx -o model.dsa
      dsc compile model.onnx --target x86-64-v3 --emit dsa,llvm,asm
      dsc compile model.onnx --target cuda:90 --emit triton,ptx -o kernels
    """
    from ds_compiler.cli import stages
    from ds_compiler.cli.loading import open_model, refuse_nan_weights

    if target.startswith(("cuda", "hip")):
        compile_for_gpu(model, output, target, emit, as_json)
        return
    kinds = parse_kinds(emit or "dsa")
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


def compile_for_gpu(model: Path, output: Path | None, target: str, emit: str | None, as_json: bool) -> None:
    """Write the kernels of a model, machine code included; no GPU is needed."""
    from ds_compiler.gpu import KINDS, build_for_gpu
    from ds_compiler.source import Source

    kinds = parse_kinds(emit or ",".join(KINDS), KINDS)
    folder = output or Path(f"{model.stem}-{target.replace(':', '-')}")
    with progress(f"compiling {model.name}"):
        program = build_for_gpu(Source.of(model), target, "gpu", verify=False)
        paths = program.write(folder, tuple(kinds))
    total = program.report().seconds["total"]
    if as_json:
        described = [
            {"name": k.kernel.name, "launches": k.launches, "shared": k.code.shared, "threads": k.code.threads}
            for k in program.kernels
        ]
        emit_json({"target": target, "seconds": total, "files": [str(p) for p in paths], "kernels": described})
        return
    rows = [
        [k.kernel.name, str(k.launches), str(k.code.threads), size(k.code.shared), size(len(k.code.image))]
        for k in program.kernels
    ]
    table(["kernel", "launches", "threads", "shared", "machine code"], rows)
    click.echo(f"{len(paths)} files in {folder}, compiled in {seconds(total)}")


def parse_kinds(text: str, known: Mapping[str, str] = SUFFIXES) -> list[str]:
    """The kinds of output that ``--emit`` names, of those `known`."""
    kinds = list(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    for kind in kinds:
        if kind not in known:
            raise click.BadParameter(f"'{kind}' is not one of {', '.join(known)}", param_hint="--emit")
    if not kinds:
        raise click.BadParameter(f"nothing to write; choose from {', '.join(known)}", param_hint="--emit")
    return kinds
