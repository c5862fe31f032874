"""Every case of ONNX's backend test suite through the compiled path.

    python -m tests.conformance.sweep                      # passed, failed and excluded cases of each group
    python -m tests.conformance.sweep --only test_conv     # cases whose names begin so, each failure with its error
    python -m tests.conformance.sweep --write              # also stores the outcome in results.json (docs/operators.md)

Cases run in a child process, so that one that crashes it counts as failed and the others go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ds_compiler import onnx_backend
from tests.conformance.cases import GROUPS, Case, cases, compare, exclusions, random, strict

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Outcome:
    """`status` is passed, failed or excluded; `detail` the error, the reason, or why values are not compared."""

    name: str
    group: str
    status: str
    detail: str = ""


def check(case: Case) -> None:
    """Compile and run one case.

    Raises:
        CompileError: it does not compile.
        AssertionError: its outputs are wrong.
    """
    program = onnx_backend.prepare(case.model, cache=False, threads=1, strict=case.name in strict())
    for inputs, expected in case.data_sets():
        compare(list(program.run(inputs)), expected, case)


def outcome(case: Case) -> Outcome:
    """What comes of one case."""
    if reason := exclusions().get(case.name):
        return Outcome(case.name, case.group, "excluded", reason)
    try:
        check(case)
    except Exception as error:
        text = " ".join(str(error).split())
        return Outcome(case.name, case.group, "failed", f"{type(error).__name__}: {text}"[:400])
    return Outcome(case.name, case.group, "passed", random().get(case.name) or strict().get(case.name, ""))


def selected(beginnings: list[str]) -> list[Case]:
    """All cases, or those whose names begin with one of `beginnings`."""
    found = [case for group in GROUPS for case in cases(group)]
    return [case for case in found if not beginnings or case.name.startswith(tuple(beginnings))]


def work(some: Sequence[Case], run: Callable[[Case], Outcome]) -> None:
    """The child: a line when a case begins and a line when it ends."""
    for case in some:
        print(json.dumps({"begins": case.name, "group": case.group}), flush=True)
        print(json.dumps(asdict(run(case))), flush=True)


def in_child(command: Sequence[str]) -> list[Outcome]:
    """Outcomes in the order of the suite, of a module that `work`s; ``--child`` tells it where to begin."""
    outcomes: list[Outcome] = []
    while True:
        line_of = [sys.executable, "-W", "ignore", "-m", command[0], "--child", str(len(outcomes)), *command[1:]]
        child = subprocess.Popen(line_of, stdout=subprocess.PIPE, text=True)
        begun: dict[str, str] | None = None
        assert child.stdout is not None
        for line in child.stdout:
            if not line.startswith("{"):
                continue
            entry = json.loads(line)
            if "begins" in entry:
                begun = entry
            else:
                outcomes.append(Outcome(**entry))
                begun = None
        if child.wait() == 0:
            return outcomes
        if begun is None:
            raise RuntimeError(f"the child process ended with {child.returncode} outside of a case")
        outcomes.append(Outcome(begun["begins"], begun["group"], "failed", f"the process ended: {child.returncode}"))


def store(outcomes: list[Outcome]) -> None:
    """Write the outcomes; cases that were not run keep what is stored."""
    entries = {o.name: asdict(o) for o in outcomes}
    if RESULTS.exists():
        stored = {entry["name"]: entry for entry in json.loads(RESULTS.read_text(encoding="utf-8"))}
        entries = {**stored, **entries}
    lines = ",\n".join(json.dumps(entry) for entry in entries.values())
    RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def summary(outcomes: list[Outcome]) -> str:
    """The table of counts."""
    counts = Counter((o.group, o.status) for o in outcomes)
    rows = [f"{'group':20}{'passed':>8}{'failed':>8}{'excluded':>10}{'total':>8}"]
    for group in (*GROUPS, "all"):
        figures = [
            sum(n for (g, s), n in counts.items() if s == status and group in (g, "all"))
            for status in ("passed", "failed", "excluded")
        ]
        rows.append(f"{group:20}{figures[0]:8}{figures[1]:8}{figures[2]:10}{sum(figures):8}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--write", action="store_true", help=f"store the outcome in {RESULTS.name}")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        work(selected(options.only)[options.child :], outcome)
        return 0
    outcomes = in_child(["tests.conformance.sweep", "--only", *options.only])
    failed = [o for o in outcomes if o.status == "failed"]
    for o in failed:
        print(f"{o.name}: {o.detail}")
    print(summary(outcomes))
    if options.write:
        store(outcomes)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
