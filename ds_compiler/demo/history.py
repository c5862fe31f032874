"""What the training demos show: a progress bar, the losses as a picture, and which packages are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Say = Callable[[int, int, float], None]
"""Called after each step with its number, how many there are, and the loss."""


@dataclass
class History:
    """What training did.

    Attributes:
        losses: of each step.
        name, score: what is measured on data that was not trained on.
        seconds: of all steps, compilation in the first one included.
    """

    name: str
    losses: list[float] = field(default_factory=list)
    score: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} {self.score:.4f} after {len(self.losses)} steps in {self.seconds:.1f} s"


def missing(extra: str, *packages: str) -> bool:
    """Whether a package is not installed; says so, and how to install the `extra` that brings it."""
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        print(f"error: {', '.join(absent)} not installed; pip install 'ds_compiler[{extra}]'", file=sys.stderr)
    return bool(absent)


@contextmanager
def progress() -> Iterator[Say]:
    """A bar on the terminal, moved by what is said to it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("compiling", total=None)
        yield lambda step, steps, loss: bar.update(task, completed=step, total=steps, description=f"loss {loss:.3f}")


def save_curve(history: History, path: Path) -> None:
    """A picture of the losses, and of their mean over 20 steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = np.arange(1, len(history.losses) + 1)
    axes.plot(steps, history.losses, color="#9ecae1", linewidth=0.8, label="each step")
    width = min(20, len(history.losses))
    means = np.convolve(history.losses, np.ones(width) / width, "valid")
    axes.plot(steps[width - 1 :], means, color="#08519c", label=f"mean of {width}")
    axes.set(xlabel="step", ylabel="loss", title=f"{history.name} {history.score:.3f}, {history.seconds:.0f} s")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
