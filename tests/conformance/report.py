"""docs/operators.md: ONNX's operators, how each is imported, and what came of the suite's cases."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import onnx

from ds_compiler.frontends.onnx import supported_operators
from tests.conformance.cases import GROUPS, cases
from tests.conformance.opened import OPENED
from tests.conformance.peers import PEERS
from tests.conformance.sweep import RESULTS, Outcome, summary

HEAD = """# ONNX operators

Made by `make docs` from the importer's table of operators and from the outcome of ONNX's backend test suite that
`make conformance` stored. Every case is compiled to native code and run; outputs must agree in element type, shape and
value, within the suite's own tolerances. Excluded cases are not expected to pass; each has its reason in
`tests/conformance/exclusions.toml`. The cases that its table `random` lists count as passed by type and shape alone:
ONNX does not define their values. Those of its table `strict` are compiled with `strict=True`: they expect what ONNX's
reference implementation computes, 16-bit floats rounded after each step among it, where the default is closer to the
exact result.

Axes and steps that a case feeds as inputs are fixed when it first runs (a program for each value).
"""

OPEN = """
## Open sizes

The node cases again, with every axis of every input left open (a symbol of its own) when the program is compiled:
`python -m tests.conformance.opened`. Lengths of vectors of integers stay, for they are ranks. "By value" means that an
input decides more than sizes, so that each of its values gets a program. Not every case has been run so:
"""

TABLE = """
## By operator

The columns on open sizes count the cases that were run with them, and were right with one program, right with a program
for each value of an input, refused, or wrong. The reasons are in `tests/conformance/opened.json`.
"""


def _operators() -> dict[str, str]:
    """Operator by the node case about it; a case that spells a definition out belongs to the operator defined."""
    found: dict[str, str] = {}
    for case in cases("node"):
        operator = case.model.graph.node[0].op_type
        found[case.name] = found.get(case.name.partition("_expanded")[0], operator)
    return found


def _reached_by() -> dict[str, str]:
    """How each operator of the default domain is imported: natively, from an opset on, or by its definition."""
    native = {name: versions for domain, name, versions in supported_operators() if not domain}
    found = {}
    for name in sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}):
        schema = onnx.defs.get_schema(name)
        if name in native:
            found[name] = f"native, opset {native[name][0]} and later"
        elif schema.has_function or schema.has_context_dependent_function:  # type: ignore[attr-defined]
            found[name] = "ONNX's definition"
        else:
            found[name] = "–"
    return found


def operators_page() -> str:
    """The page, from the outcome stored last."""
    outcomes = [Outcome(**entry) for entry in json.loads(RESULTS.read_text(encoding="utf-8"))]
    operator_of = _operators()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        if outcome.name in operator_of:
            counts[operator_of[outcome.name]][outcome.status] += 1
    run = [Outcome(**entry) for entry in json.loads(OPENED.read_text(encoding="utf-8"))]
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in run:
        sizes[operator_of[outcome.name]][outcome.status] += 1
    rows = []
    for name, how in _reached_by().items():
        c = counts[name]
        o = sizes[name]
        open_sizes = [o[status] for status in ("equal", "by value", "unsupported", "wrong")]
        figures = [c["passed"], c["failed"], c["excluded"], *open_sizes]
        rows.append(f"| {name} | {how} | {' | '.join(map(str, figures))} |")
    columns = ["operator", "import", "passed", "failed", "excluded", "open: equal", "by value", "refused", "wrong"]
    rule = " | ".join(["---", "---"] + ["---:"] * (len(columns) - 2))
    table = "\n".join([f"| {' | '.join(columns)} |", f"| {rule} |", *rows])
    counted = f"{HEAD}\n```text\n{summary(outcomes)}\n```\n{_peers(outcomes)}"
    return f"{counted}{OPEN}\n```text\n{_open_sizes(run)}\n```\n{TABLE}\n{table}\n"


def _peers(outcomes: list[Outcome]) -> str:
    """Cases that other implementations pass, compared in the same way."""
    stored = json.loads(PEERS.read_text(encoding="utf-8"))
    ours = Counter(o.group for o in outcomes if o.status == "passed")
    rows = [f"{'passed':20}{'here':>8}" + "".join(f"{name + ' ' + p['version']:>24}" for name, p in stored.items())]
    for group in GROUPS:
        rows.append(f"{group:20}{ours[group]:8}" + "".join(f"{p['passed'][group]:24}" for p in stored.values()))
    rows.append(f"{'all':20}{ours.total():8}" + "".join(f"{sum(p['passed'].values()):24}" for p in stored.values()))
    text = "\n".join(rows)
    how = "The same cases through others, compared in the same way, narrow types fed in their own memory layout"
    return f"\n{how} (`tests/conformance/peers.py`; what each fails is in `peers.json`):\n\n```text\n{text}\n```\n"


def _open_sizes(run: list[Outcome]) -> str:
    counts = Counter(o.status for o in run)
    return "\n".join(f"{status:20}{count:8}" for status, count in [*counts.most_common(), ("all", len(run))])
