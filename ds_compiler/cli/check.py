"""``dsc check``: does the compiled model compute what another engine computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds_compiler.cli import options
from ds_compiler.cli.errors import Exit
from ds_compiler.cli.output import emit_json, progress, table

if TYPE_CHECKING:
    from ds_compiler.cli.bisect import Finding
    from ds_compiler.cli.compare import Difference
    from ds_compiler.cli.inputs import Array, Inputs


@click.command()
@options.model
@click.option(
    "--against",
    type=click.Choice(["onnxruntime", "reference", "openvino", "torch"]),
    default="onnxruntime",
    show_default=True,
    help="Whose results count as right; 'reference' is the interpreter.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take inputs and expected outputs from ONNX test data (test_data_set_*/input_0.pb, output_0.pb).",
)
@options.inputs
@options.threads
@click.option("--rtol", type=click.FloatRange(min=0), help="Error allowed relative to the output's scale [f32: 1e-4].")
@options.allow_nan
@click.option("--bisect", is_flag=True, help="If outputs are wrong, find the first wrong operation.")
@options.common
def command(
    model: Path,
    against: str,
    data: Path | None,
    archive: Path | None,
    files: tuple[tuple[str, str], ...],
    dims: tuple[tuple[str, int], ...],
    seed: int,
    threads: int | None,
    rtol: float | None,
    allow_nan: bool,
    bisect: bool,
    as_json: bool,
) -> None:
    """Compare a compiled model with another engine; exit code 1 if they differ.

    Floats must agree within a tolerance relative to the largest magnitude in the output (f32: 1e-4),
    integers and bools exactly.

    \b
    Examples:
      dsc check model.onnx --against onnxruntime --dim batch=4
      dsc check model.onnx --against reference --bisect
      dsc check resnet/model.onnx --data resnet
    """
    from ds_compiler.cli import compare, engines
    from ds_compiler.cli import inputs as making
    from ds_compiler.cli.loading import integer_bounds, open_model, refuse_nan_weights

    with progress(f"compiling {model.name}") as say:
        program = open_model(model, threads=threads)
        if not allow_nan:
            refuse_nan_weights(model)
        cases: list[tuple[str, Inputs, list[Array]]]
        if data is not None:
            cases = making.read_test_data(data, [spec.name for spec in program.inputs])
        else:
            bounds = integer_bounds(model)
            feeds = making.gather(program.inputs, archive=archive, files=files, dims=dims, seed=seed, bounds=bounds)
            cases = [(f"random inputs, seed {seed}", feeds, [])]
        other = None if all(expected for _, _, expected in cases) else engines.load(against, model, threads)
        results: list[tuple[str, list[Difference]]] = []
        finding: Finding | None = None
        for name, feeds, expected in cases:
            say(f"checking with {name}")
            actual = program(feeds)
            wanted = dict(zip(actual, expected)) if expected else other(feeds) if other else {}
            differences = compare.compare_all(actual, wanted, rtol)
            results.append((name, differences))
            if bisect and finding is None and not compare.passed(differences):
                finding = _bisect(model, feeds, threads, rtol, say)
    good = all(compare.passed(differences) for _, differences in results)
    judge = against if other is not None else "the test data"
    if as_json:
        emit_json(
            {
                "against": judge,
                "passed": good,
                "cases": [{"name": n, "outputs": [d.as_json() for d in differences]} for n, differences in results],
                "bisect": finding.as_json() if finding is not None else None,
            }
        )
    else:
        _print(results, judge)
        if finding is not None:
            click.echo(finding.text())
    if not good:
        click.get_current_context().exit(Exit.CHECK_FAILED)


def _bisect(model: Path, feeds: Inputs, threads: int | None, rtol: float | None, say: Any) -> Finding:
    from ds_compiler.cli.bisect import find_first_wrong
    from ds_compiler.cli.loading import load_ir

    return find_first_wrong(load_ir(model), feeds, threads=threads, rtol=rtol, say=say)


def _print(results: list[tuple[str, list[Difference]]], judge: str) -> None:
    for name, differences in results:
        click.echo(f"against {judge}, {name}")
        rows = [
            [
                difference.name,
                difference.dtype,
                "x".join(map(str, difference.shape)) or "scalar",
                f"{difference.absolute:.3g}",
                f"{difference.relative:.3g}",
                f"{difference.tolerance:.3g}",
                "ok" if difference.passed else f"FAILED {difference.problem or f'at {list(difference.at)}'}",
            ]
            for difference in differences
        ]
        table(["output", "type", "shape", "error", "relative", "allowed", ""], rows, left=3)
