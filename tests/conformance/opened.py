"""The suite's node cases with open sizes: one program, compiled for symbols, is called with each case's data.

    python -m tests.conformance.opened                       # counts, and each case that is wrong
    python -m tests.conformance.opened --only test_conv      # cases whose names begin so, unsupported ones too
    python -m tests.conformance.opened --write               # also stores it in opened.json (docs/operators.md)

Every axis of every input gets a symbol of its own. The length of a vector of integers stays, unless it is the first
input: it is the rank of something (axes, a shape, pads), and ranks are not open. A case whose model spells a
definition out is left to the case of the operator.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from onnx import ModelProto, TensorProto

from ds_compiler import onnx_backend
from ds_compiler.compiled import CompiledModel
from ds_compiler.ir import CompileError
from tests.conformance.cases import Case, compare, exclusions, strict
from tests.conformance.sweep import Outcome, in_child, selected, work

OPENED = Path(__file__).with_name("opened.json")
STATUSES = ("equal", "by value", "unsupported", "wrong", "nothing open")
"""``by value``: right, but an input decides more than sizes, and each of its values has a program of its own."""

_INTEGERS = (TensorProto.INT64, TensorProto.INT32)


def opened(model: ModelProto) -> tuple[ModelProto, int]:
    """The model without known sizes of inputs, and how many were opened."""
    copy = ModelProto()
    copy.CopyFrom(model)
    count = 0
    for index, value in enumerate(copy.graph.input):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            continue
        dims = tensor.shape.dim
        if index and len(dims) == 1 and tensor.elem_type in _INTEGERS:
            continue
        for axis, dim in enumerate(dims):
            dim.dim_param = f"n{index}_{axis}"
            count += 1
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    return copy, count


def outcome(case: Case) -> Outcome:
    """What comes of one case."""
    model, count = opened(case.model)
    if not count:
        return Outcome(case.name, case.group, "nothing open")
    try:
        program = onnx_backend.prepare(model, cache=False, threads=1, strict=case.name in strict())
        results = [(program.run(inputs), expected) for inputs, expected in case.data_sets()]
    except CompileError as error:
        return Outcome(case.name, case.group, "unsupported", " ".join(str(error).split())[:200])
    except Exception as error:
        text = " ".join(str(error).split())
        return Outcome(case.name, case.group, "wrong", f"{type(error).__name__}: {text}"[:300])
    try:
        for result, expected in results:
            compare(list(result), expected, case)
    except AssertionError as error:
        return Outcome(case.name, case.group, "wrong", " ".join(str(error).split())[:300])
    one = isinstance(program.program, CompiledModel)
    return Outcome(case.name, case.group, "equal" if one else "by value")


def selected_cases(beginnings: list[str]) -> list[Case]:
    """Node cases that are expected to pass."""
    return [
        case
        for case in selected(beginnings)
        if case.group == "node" and "_expanded" not in case.name and case.name not in exclusions()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.opened", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--write", action="store_true", help=f"store the outcome in {OPENED.name}")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        work(selected_cases(options.only)[options.child :], outcome)
        return 0
    outcomes = in_child(["tests.conformance.opened", "--only", *options.only])
    for o in outcomes:
        if o.status in ("wrong", "failed") or (options.only and o.status == "unsupported"):
            print(f"{o.name}: {o.status}: {o.detail}")
    counts = Counter(o.status for o in outcomes)
    print(", ".join(f"{counts[status]} {status}" for status in (*STATUSES, "failed") if counts[status]))
    if options.write:
        stored = json.loads(OPENED.read_text(encoding="utf-8")) if OPENED.exists() and options.only else []
        entries = {entry["name"]: entry for entry in stored} | {o.name: asdict(o) for o in outcomes}
        OPENED.write_text("[\n" + ",\n".join(map(json.dumps, entries.values())) + "\n]\n", encoding="utf-8")
    return 1 if counts["wrong"] + counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
