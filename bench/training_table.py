"""The tables of training steps in bench/RESULTS.md, from what `bench.train` has written."""

from __future__ import annotations

from typing import Any

from bench.markdown import duration, markdown

OURS = "ds_compiler"


def section(found: dict[str, dict[str, Any]]) -> str:
    """All tables: one for each number of threads.

    Args:
        found: by network and number of threads.
    """
    entries = [entry for runs in found.values() for entry in runs.values()]
    dates = sorted({entry["date"] for entry in entries if "date" in entry})
    versions = {name: text for entry in entries for name, text in entry.get("versions", {}).items()}
    parts = [
        "## Training steps",
        "Made by `python -m bench.train`: forward, backward and AdamW in float32, engines in turns on the same batches "
        "from the same weights, each confined to as many cores as it may use threads. In brackets our time over "
        "theirs, the median over rounds: below 1 is faster. `first` is the time until the first step's loss is there: "
        "tracing, compilation (ours with an empty / a filled compile cache) and that step. `losses` is the largest "
        "relative difference of our loss from theirs in the first steps. `memory` is what a process holds at most "
        "during a step above what it held with all libraries loaded: weights, AdamW's state, gradients and what lives "
        "for a while (`bench/training_memory.py`). The networks are those of `bench/networks.py`: an MLP 784-256-10 on "
        "64 rows, a ResNet of three blocks on 32 images 3x32x32, decoders of 4 layers (d=256, 8 heads) and 6 layers "
        "(`gpt2`: d=384, 6 heads), vocabulary 512, on 8x128 tokens.",
    ]
    if dates:
        span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        parts.append(f"{span}, {entries[0]['machine']}; {', '.join(f'{n} {v}' for n, v in versions.items())}.")
    for count in sorted({count for runs in found.values() for count in runs}, key=int):
        runs = {name: entry[count] for name, entry in found.items() if count in entry}
        peers = list(dict.fromkeys(t["engine"] for run in runs.values() for t in run["timings"] if t["engine"] != OURS))
        header = ["network", "ours", *peers, "first, ours", *peers, "memory, ours", *peers, "losses"]
        parts += [f"### {count} thread{'s' if count != '1' else ''}"]
        parts.append(markdown(header, [_row(name, run, peers) for name, run in runs.items()]))
    return "\n\n".join(parts) + "\n"


def _row(name: str, run: dict[str, Any], peers: list[str]) -> list[str]:
    timings = {timing["engine"]: timing for timing in run["timings"]}
    first, memory = run["first_seconds"], run.get("peak_bytes", {})
    own = [f"{OURS} cold", f"{OURS} cached"]
    apart = run.get("loss_difference", {})
    return [
        name,
        duration(timings[OURS]["median"]),
        *(f"{duration(t['median'])} ({t['ratio']:.2f})" if (t := timings.get(peer)) else "-" for peer in peers),
        " / ".join(duration(first[label]) for label in own),
        *(duration(first[peer]) if peer in first else "-" for peer in peers),
        *(f"{memory[e] / 2**20:.0f} MiB" if e in memory else "-" for e in (OURS, *peers)),
        f"{max(apart.values()):.1g}" if apart else "-",
    ]
