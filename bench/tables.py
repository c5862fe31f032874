"""The tables of bench/RESULTS.md and README.md, made from ``bench/results/*.json``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import training_table
from bench.markdown import duration, markdown

OURS = "ds_compiler"
PEER = "onnxruntime"
ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


GPU = (
    "Not measured: `bench/gpu_check.py`, which checks and times kernels and models on a GPU, "
    "has not run on hardware yet."
)


def write(results: Path) -> None:
    """Write both tables."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    order = {"published": 0, "light": 1, "exported": 2}
    found.sort(key=lambda entry: (order.get(entry["origin"], 3), entry["model"]))
    products = results / "kernels" / "gemm.json"
    page = results_page(found) + (products_section(json.loads(products.read_text())) if products.is_file() else "")
    training = results / "training" / "steps.json"
    page += "\n" + training_table.section(json.loads(training.read_text())) if training.is_file() else ""
    (ROOT / "bench" / "RESULTS.md").write_text(page, encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if BEGIN in text and END in text:
        table = f"{BEGIN}\n{readme_table(found)}\n{END}"
        readme.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")


def results_page(found: Sequence[dict[str, Any]]) -> str:
    """All of bench/RESULTS.md."""
    runs = [entry[count] for entry in found for count in thread_counts(entry)]
    benches = [run["bench"] for run in runs if "error" not in run["bench"]]
    parts = [
        "# Results",
        "Made by `python -m bench.run` (`make bench`) from `bench/results/*.json`; do not edit.",
        "Engines take turns in random order, rounds in which another process took the core are set aside, and "
        "`ratio` is the median over rounds of our time / onnxruntime's (10th to 90th percentile): below 1 is faster. "
        "`cold` and `cached` are `ds.compile` in a fresh process with an empty and a filled compile cache; memory is "
        "the peak of that process (VmHWM), the bare import of NumPy and the package included. "
        "`error` is the worst over all outputs, relative to the output's scale.",
    ]
    if benches:
        dates = sorted({run["date"] for run in runs})
        versions = ", ".join(f"{name} {version}" for name, version in benches[0]["versions"].items())
        peak = max(bench["peak_gflops_one_core"] for bench in benches)
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        parts.append(f"{span}, {benches[0]['machine']}, {peak:.0f} GFLOP/s on one core; {versions}.")
    for count in sorted({count for entry in found for count in thread_counts(entry)}, key=int):
        entries = [entry for entry in found if count in entry]
        parts += [f"## {count} thread{'s' if count != '1' else ''}", geometric_line(entries, count)]
        header = [
            "model",
            "inputs",
            "ours",
            "theirs",
            "ratio",
            "cold",
            "cached",
            "their load",
            "memory",
            "theirs",
            "error",
        ]
        parts.append(markdown(header, [row(entry, count) for entry in entries]))
    parts += ["## GPU", GPU]
    return "\n\n".join(parts) + "\n"


def products_section(shapes: Sequence[dict[str, Any]]) -> str:
    """The table of matrix products, from what `bench.gemm` has written."""
    rows = [
        [
            entry["shape"],
            f"{entry['gflops']:.1f}",
            f"{entry['share']:.0%}",
            f"{entry['numpy_share']:.0%}",
            f"{entry['speedup']:.2f}",
            f"{entry['compile_ms']:.0f} ms",
        ]
        for entry in shapes
    ]
    header = ["m x n x k", "GFLOP/s", "of peak", "NumPy (OpenBLAS)", "speedup", "compile"]
    return (
        "\n## Matrix products, one thread\n\n"
        "Made by `python -m bench.gemm --json bench/results/kernels/gemm.json`; the peak is what independent "
        "multiply-adds reach in the same run. `:rows` and `:columns` say how a B that only the run gives lies in "
        f"memory, `:m` and `:mnk` which extents only the run gives.\n\n{markdown(header, rows)}\n"
    )


def readme_table(found: Sequence[dict[str, Any]]) -> str:
    """The short table: our time over theirs."""
    counts = sorted({count for entry in found for count in thread_counts(entry)}, key=int)
    rows = []
    for entry in found:
        cells = [f"{r:.2f}" if (r := ratio(entry, count)) is not None else "-" for count in counts]
        rows.append([entry["model"], *cells])
    if not rows:
        return "No results yet: run `make bench`."
    means = [f"{m:.2f}" if (m := mean(found, count)) is not None else "-" for count in counts]
    header = ["our time / onnxruntime's", *(f"{count} thread{'s' if count != '1' else ''}" for count in counts)]
    return markdown(header, [*rows, ["**geometric mean**", *(f"**{text}**" for text in means)]])


def thread_counts(entry: dict[str, Any]) -> list[str]:
    return [key for key in entry if key.isdigit()]


def ratio(entry: dict[str, Any], count: str) -> float | None:
    """Our time over onnxruntime's, None if there is no such measurement."""
    timing = timing_of(entry.get(count, {}), PEER)
    return None if timing is None else timing["ratio"]


def timing_of(run: dict[str, Any], engine: str) -> dict[str, Any] | None:
    timings = run.get("bench", {}).get("timings", [])
    return next((timing for timing in timings if timing["engine"] == engine), None)


def mean(entries: Iterable[dict[str, Any]], count: str) -> float | None:
    """Geometric mean of the ratios."""
    ratios = [value for entry in entries if (value := ratio(entry, count)) is not None]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def geometric_line(entries: Sequence[dict[str, Any]], count: str) -> str:
    ratios = {entry["model"]: value for entry in entries if (value := ratio(entry, count)) is not None}
    average = mean(entries, count)
    if average is None:
        return "No model was measured."
    slowest = max(ratios, key=lambda name: ratios[name])
    return (
        f"Geometric mean of the ratio over {len(ratios)} of {len(entries)} models: **{average:.2f}**; "
        f"slowest against onnxruntime: {slowest} ({ratios[slowest]:.2f})."
    )


def row(entry: dict[str, Any], count: str) -> list[str]:
    """A model's row in RESULTS.md."""
    run = entry[count]
    dims = " ".join(f"{name}={value}" for name, value in entry["dims"].items())
    if "error" in run["bench"]:
        return [
            entry["model"],
            dims,
            f"failed: {run['bench']['error']}".replace("|", "\\|"),
            *[""] * 7,
            error_text(run),
        ]
    ours, theirs = timing_of(run, OURS), timing_of(run, PEER)
    assert ours is not None
    costs = run["bench"]["costs"]
    cold, cached, peer = (costs.get(name) for name in (f"{OURS} cold", OURS, PEER))
    spread = (
        "-" if theirs is None else f"{theirs['ratio']:.2f} ({theirs['ratio_p10']:.2f} to {theirs['ratio_p90']:.2f})"
    )
    return [
        entry["model"],
        dims,
        duration(ours["median"]),
        "-" if theirs is None else duration(theirs["median"]),
        spread,
        *("-" if cost is None else duration(cost["load_seconds"]) for cost in (cold, cached, peer)),
        *("-" if cost is None else f"{cost['peak_bytes'] / 2**20:.0f} MiB" for cost in (cached, peer)),
        error_text(run),
    ]


def error_text(run: dict[str, Any]) -> str:
    """The worst relative error of a run's check, or why there is none."""
    check = run["check"]
    if "error" in check:
        return f"failed: {check['error']}".replace("|", "\\|")
    outputs = [output for case in check["cases"] for output in case["outputs"]]
    relative = [output["relative"] for output in outputs]
    worst = "inf" if None in relative else f"{max(relative, default=0.0):.1g}"
    return worst if check["passed"] else f"**{worst}**"


def summary(run: dict[str, Any]) -> str:
    """One line for the console."""
    if "error" in run["bench"]:
        return f"failed: {run['bench']['error']}"
    ours, theirs = timing_of(run, OURS), timing_of(run, PEER)
    assert ours is not None
    against = "" if theirs is None else f", {PEER} {duration(theirs['median'])}, ratio {theirs['ratio']:.2f}"
    return f"{duration(ours['median'])}{against}, error {error_text(run)}"
