"""``dsc run``: run a model once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ds_compiler.cli import options
from ds_compiler.cli.output import emit_json, progress, seconds, table


@click.command()
@options.model
@options.inputs
@click.option("--random", is_flag=True, help="Make up the inputs that no file gives.")
@click.option("-o", "--output", type=options.OUTPUT_FILE, help="Write all outputs to this .npz file.")
@options.threads
@options.target
@options.common
def command(
    model: Path,
    archive: Path | None,
    files: tuple[tuple[str, str], ...],
    dims: tuple[tuple[str, int], ...],
    seed: int,
    random: bool,
    output: Path | None,
    threads: int | None,
    target: str,
    as_json: bool,
) -> None:
    """Run a model (.onnx, .dsa or .dsir) and print its outputs.

    \b
    Examples:
      dsc run model.onnx --random --dim batch=2
      dsc run model.dsa --input x=x.npy -o out.npz
    """
    from ds_compiler.cli import inputs as making
    from ds_compiler.cli.loading import integer_bounds, open_runnable

    with progress(f"compiling {model.name}"):
        start = time.perf_counter()
        program = open_runnable(model, threads=threads, target=target)
        ready = time.perf_counter()
    bounds = integer_bounds(model) if random else {}
    feeds = making.gather(
        program.inputs, archive=archive, files=files, dims=dims, seed=seed, random=random, bounds=bounds
    )
    called = time.perf_counter()
    results = program(feeds)
    done = time.perf_counter()
    if output is not None:
        _save(output, results)
    summaries = {name: summary(array) for name, array in results.items()}
    if as_json:
        emit_json({"ready_seconds": ready - start, "run_seconds": done - called, "outputs": summaries})
        return
    rows = [
        [name, s["dtype"], "x".join(map(str, s["shape"])) or "scalar", *(_number(s[k]) for k in ("min", "mean", "max"))]
        for name, s in summaries.items()
    ]
    table(["output", "type", "shape", "min", "mean", "max"], rows, left=3)
    click.echo(f"ready in {seconds(ready - start)}, ran in {seconds(done - called)}")


def summary(array: Any) -> dict[str, Any]:
    """Type, shape and range of an array; `nan` counts what is not a number."""
    import numpy as np

    result: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size == 0 or array.dtype.kind in "OSU":
        return {**result, "min": None, "mean": None, "max": None, "nan": 0}
    values = array.astype(np.float64)
    missing = int(np.isnan(values).sum())
    values = values[~np.isnan(values)]
    if not values.size:
        return {**result, "min": None, "mean": None, "max": None, "nan": missing}
    with np.errstate(invalid="ignore"):
        mean = float(values.mean())
    return {**result, "min": float(values.min()), "mean": mean, "max": float(values.max()), "nan": missing}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _save(path: Path, arrays: dict[str, Any]) -> None:
    import numpy as np

    from ds_compiler.runtime.files import replacing

    with replacing(path) as file:
        np.savez(file, **arrays)
