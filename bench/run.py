"""Every model against onnxruntime: results as JSON, the tables of bench/RESULTS.md and README.md made from them.

    python -m bench.run                              # all models, 1 and 2 threads
    python -m bench.run ppocr_det magika --threads 1  # some
    python -m bench.run --tables                     # only write the tables again

Each measurement runs `dsc check` and `dsc bench` in processes of their own with a time limit, on the inputs
that `bench.models` describes. A model that fails or takes too long is a row that says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import tables
from bench.models import MODELS, ModelSpec
from ds_compiler.demo.published import ModelUnavailable

RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME", help="models (python bench/models.py --list)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads [1,2]")
    parser.add_argument("--against", default="onnxruntime", help="other engines [onnxruntime]")
    parser.add_argument("--repeat", type=int, default=30, help="rounds [30]")
    parser.add_argument("--limit", type=float, default=20, help="seconds of rounds for each measurement [20]")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each measurement in all [300]")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.models if name not in MODELS]
    if unknown:
        parser.error(f"no model {unknown[0]!r}; there are: {', '.join(MODELS)}")
    if not arguments.tables:
        for name in arguments.models or MODELS:
            measure(MODELS[name], [int(count) for count in arguments.threads.split(",")], arguments)
    tables.write(RESULTS)
    return 0


def measure(spec: ModelSpec, threads: list[int], arguments: argparse.Namespace) -> None:
    """Measure one model and keep what was found in ``results/NAME.json``."""
    path = RESULTS / f"{spec.name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    try:
        model = spec.path()
    except ModelUnavailable as error:
        print(f"{spec.name}: {error}", file=sys.stderr)
        return
    found.update({"model": spec.name, "origin": spec.origin, "dims": dict(spec.dims[0])})
    with tempfile.TemporaryDirectory(prefix="dsc-bench-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **spec.inputs())
        for count in threads:
            common = [str(model), f"--inputs={inputs}", f"--threads={count}", "--json"]
            bench = [f"--against={arguments.against}", f"--repeat={arguments.repeat}", f"--limit={arguments.limit}"]
            found[str(count)] = {
                "date": datetime.date.today().isoformat(),
                "check": dsc(["check", *common, f"--rtol={spec.tolerance}"], arguments.timeout),
                "bench": dsc(["bench", *common, *bench], arguments.timeout),
            }
            print(f"{spec.name}, {count} threads: {tables.summary(found[str(count)])}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def dsc(arguments: list[str], timeout: float) -> dict[str, Any]:
    """What a command answers in JSON, or ``{"error": …}``."""
    command = [sys.executable, "-m", "ds_compiler.cli", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout:.0f} s"}
    if done.returncode not in (0, 1) or not done.stdout:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1].removeprefix("error: ") if lines else f"exit status {done.returncode}"}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    sys.exit(main())
