"""``dsc bench``: how fast, against whom."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds_compiler.cli import options
from ds_compiler.cli.output import emit_json, progress, seconds, size, table

if TYPE_CHECKING:
    from ds_compiler.cli.measure import Comparison, Cost


@click.command()
@options.model
@click.option(
    "--against",
    default="onnxruntime",
    show_default=True,
    help="Engines to compare with: onnxruntime, openvino, torch (through onnx2torch); '' for none.",
)
@options.inputs
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of every engine.")
@click.option("--repeat", type=click.IntRange(min=3), default=30, show_default=True, help="Rounds.")
@click.option("--limit", type=float, help="Stop after about this many seconds of rounds (at least 5 rounds).")
@click.option("--no-cost", is_flag=True, help="Skip load times and memory, which take a process each.")
@options.target
@options.common
def command(
    model: Path,
    against: str,
    archive: Path | None,
    files: tuple[tuple[str, str], ...],
    dims: tuple[tuple[str, int], ...],
    seed: int,
    threads: int,
    repeat: int,
    limit: float | None,
    no_cost: bool,
    target: str,
    as_json: bool,
) -> None:
    """Time a model against other engines.

    Engines take turns in random order, so that a change of the machine's speed meets all of them;
    a loop of multiply-adds before each turn tells whether the core was free. Reported are medians
    with the 10th and 90th percentile, and the median ratio within rounds (ours / theirs).
    With --target cuda ours runs on the GPU, inputs and outputs copied from and to the host in each
    call; the others run on the CPU all the same.

    \b
    Examples:
      dsc bench model.onnx --threads 2
      dsc bench model.onnx --against onnxruntime,openvino --dim batch=8 --json
    """
    from ds_compiler.cli import engines, measure
    from ds_compiler.cli import inputs as making
    from ds_compiler.cli.loading import integer_bounds, open_runnable
    from ds_compiler.cli.peak import peak_probe

    others = engines.parse_engines(against)
    with progress(f"compiling {model.name}") as say:
        program = open_runnable(model, threads=threads, target=target)
        feeds = making.gather(
            program.inputs, archive=archive, files=files, dims=dims, seed=seed, bounds=integer_bounds(model)
        )
        runners = {engines.OURS: lambda: program(feeds)}
        for name in others:
            say(f"loading {name}")
            run = engines.load(name, model, threads)
            runners[name] = lambda run=run: run(feeds)  # type: ignore[misc]
        say("timing")
        comparison = measure.interleave(runners, repeat, probe=peak_probe(), seed=seed, limit_seconds=limit)
        costs = {}
        if not no_cost and target == "cpu":
            say("load time and memory, each engine in a fresh process")
            costs = measure.costs(list(runners), engines.OURS, model, feeds, threads)
    if as_json:
        emit_json({"target": target} | as_data(model, threads, feeds, comparison, costs, others))
    else:
        _print(model, threads, comparison, costs)


def as_data(
    model: Path,
    threads: int,
    feeds: dict[str, Any],
    comparison: Comparison,
    costs: dict[str, Cost],
    others: list[str],
) -> dict[str, Any]:
    """All of it for machines."""
    return {
        "model": model.name,
        "threads": threads,
        "inputs": {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in feeds.items()},
        "timings": [timing.as_json() for timing in comparison.timings],
        "rounds": comparison.rounds,
        "quiet_rounds": comparison.quiet_rounds,
        "peak_gflops_one_core": comparison.peak_gflops,
        "costs": {name: cost.as_json() for name, cost in costs.items()},
        "machine": machine(),
        "versions": versions(["ds_compiler", *others]),
    }


def machine() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(packages: list[str]) -> dict[str, str]:
    """Installed versions."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _print(model: Path, threads: int, comparison: Comparison, costs: dict[str, Cost]) -> None:
    click.echo(
        f"{model.name}, {threads} thread{'s' if threads > 1 else ''}, {machine()}, "
        f"{comparison.quiet_rounds} of {comparison.rounds} rounds quiet, "
        f"one core peaks at {comparison.peak_gflops:.0f} GFLOP/s"
    )
    rows = [
        [
            timing.engine,
            seconds(timing.median),
            f"{seconds(timing.p10)} to {seconds(timing.p90)}",
            "-" if timing.ratio is None else f"{timing.ratio:.2f} ({timing.ratio_p10:.2f} to {timing.ratio_p90:.2f})",
        ]
        for timing in comparison.timings
    ]
    table(["engine", "median", "p10 to p90", "ours / theirs"], rows)
    if costs:
        click.echo()
        rows = [
            [name, seconds(cost.load_seconds), seconds(cost.first_call_seconds), size(cost.peak_bytes)]
            for name, cost in costs.items()
        ]
        table(["fresh process", "ready after", "first call", "peak memory"], rows)
