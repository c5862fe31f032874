"""docs/operators.md: ONNX's operators, how each is imported, and what came of the suite's cases."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import onnx

from ds_compiler.frontends.onnx import supported_operators
from tests.conformance.cases import cases
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
    rows = []
    for name, how in _reached_by().items():
        c = counts[name]
        rows.append(f"| {name} | {how} | {c['passed']} | {c['failed']} | {c['excluded']} |")
    table = "\n".join(
        ["| operator | import | passed | failed | excluded |", "| --- | --- | ---: | ---: | ---: |", *rows]
    )
    return f"{HEAD}\n```text\n{summary(outcomes)}\n```\n\n{table}\n"
