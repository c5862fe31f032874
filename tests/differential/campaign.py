"""A long run of random graphs, with what it exercised.

    python -m tests.differential.campaign --minutes 60 --save FOLDER

A finding is shrunk, saved as text, and printed; the run then goes on with other graphs. `--save` may hold cases of
earlier runs. Ends with status 1 if there were findings.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from onnx import printer

from tests.differential.compare import Tally, check
from tests.differential.graph import REFUSED
from tests.differential.models import Case, cases
from tests.differential.peer import peer

BATCH = 150
"""Graphs that hypothesis makes from one seed."""


class _Campaign:
    def __init__(self) -> None:
        self.tally = Tally()
        self.last: Case | None = None

    def batch(self, number: int, until: float) -> None:
        """Check `BATCH` graphs, or as many as there is time for.

        Raises:
            Exception: a finding, already shrunk; `last` is the case.
        """

        @seed(number)
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
        )
        @given(cases())
        def run(case: Case) -> None:
            if time.monotonic() < until:
                self.last = case
                check(case.model, self.tally, case.values)

        run()

    def report(self) -> str:
        """Counts of graphs, operators and rewrites, the rare ones named."""
        t = self.tally
        lines = [
            f"{t.graphs} graphs ({t.by_onnxruntime} run by onnxruntime too), {t.calls} calls, "
            f"{len(t.operators)} operators, {len(t.rewrites)} rewrites that fired {t.rewrites.total()} times",
            "operators: " + ", ".join(f"{n} {c}" for n, c in sorted(t.operators.items())),
            "rewrites: " + ", ".join(f"{n} {c}" for n, c in sorted(t.rewrites.items())),
            "disagreements: " + (", ".join(f"{n} {c}" for n, c in t.disagreements.items()) or "none"),
            f"crashes of onnxruntime: {peer().crashes}",
            "left out: " + ", ".join(f"{n} {c}" for n, c in REFUSED.most_common()),
        ]
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--save", type=Path, default=Path("differential-findings"))
    options = parser.parse_args()
    number = random.randrange(1 << 30) if options.seed is None else options.seed
    return 1 if run(options.minutes, number, options.save) else 0


def run(minutes: float, number: int, save: Path) -> int:
    """Check random graphs for so long, starting with seed `number`; returns how many were wrong."""
    until = time.monotonic() + 60 * minutes
    campaign, found = _Campaign(), 0
    while time.monotonic() < until:
        try:
            campaign.batch(number, until)
        except Exception as error:
            found += 1
            save.mkdir(parents=True, exist_ok=True)
            path = save / f"{number}.txt"
            assert campaign.last is not None
            model = campaign.last.model
            path.write_text(f"{type(error).__name__}: {error}\n\n{printer.to_text(model)}\n")
            path.with_suffix(".onnx").write_bytes(model.SerializeToString())
            print(f"finding {found}, seed {number}: {type(error).__name__}: {str(error)[:600]}\n{path}", flush=True)
        number += 1
        print(campaign.report().splitlines()[0], f"{found} findings", flush=True)
    print(campaign.report())
    return found


if __name__ == "__main__":
    sys.exit(main())
