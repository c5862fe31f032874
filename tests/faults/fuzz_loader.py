"""Fuzzing of everything that reads a model, by atheris: any exception but `CompileError` is a finding.

    python -m tests.faults.fuzz_loader CORPUS -max_total_time=3600

CORPUS is a folder; the malformed models of this suite are put there first. Needs ``pip install atheris``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ds_compiler.frontends.onnx"]):
    from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from tests.faults.models import FAULTS
from tests.faults.parts import RELU, graph, model, single


def one_input(data: bytes) -> None:
    """Import; a program is not made."""
    try:
        import_model(data)
    except CompileError as error:
        assert len(str(error).splitlines()) <= 1 or error.snippet, error


def seeds(corpus: Path) -> None:
    """Write the malformed models, and some that are well."""
    corpus.mkdir(parents=True, exist_ok=True)
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            inner = Path(folder) / "model"
            inner.mkdir()
            (corpus / fault.name).write_bytes(fault.make(inner))
    for name, made in {"relu": model(graph([RELU])), "softmax": single("Softmax")}.items():
        (corpus / name).write_bytes(made.SerializeToString())


if __name__ == "__main__":
    seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
