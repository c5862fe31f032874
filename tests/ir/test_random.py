"""Random modules: the text reads back the same, verifies, and means the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings

from ds_compiler.ir import Module, operation_class, operation_names
from ds_compiler.ir.parser import load_module, parse_module
from ds_compiler.ir.printer import print_module, save_module
from ds_compiler.ir.verifier import verify
from ds_compiler.ops import CustomCall, Jvp, Return, StopGradient, Vjp, Yield
from ds_compiler.reference import interpret
from tests.ir.random_modules import EMITTERS, Program, programs

PROPERTY = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal to the last bit, NaN payloads included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool((a == b).all()) if a.dtype.kind == "O" else a.tobytes() == b.tobytes()


def check_same_program(module: Module, copy: Module, program: Program) -> None:
    verify(copy)
    assert copy.metadata == module.metadata
    assert [f.result_names for f in copy.functions.values()] == [f.result_names for f in module.functions.values()]
    for before, after in zip(module.walk(), copy.walk(), strict=True):
        assert type(before) is type(after) and before.location == after.location
        assert [r.type for r in before.results] == [r.type for r in after.results]
    for wanted, got in zip(interpret(module, program.inputs), interpret(copy, program.inputs), strict=True):
        assert same(wanted, got)


@PROPERTY
@given(programs())
def test_text_reads_back_the_same(program: Program) -> None:
    verify(program.module)
    constants: dict[str, Any] = {}
    text = print_module(program.module, constants)
    copy = parse_module(text, constants)
    assert print_module(copy) == text
    check_same_program(program.module, copy, program)


@PROPERTY
@given(programs(operations=6))
def test_files_read_back_the_same(program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.dsir"
        save_module(program.module, path)
        check_same_program(program.module, load_module(path), program)


@PROPERTY
@given(programs(operations=6))
def test_clones_are_the_same(program: Program) -> None:
    copy = program.module.clone()
    assert print_module(copy) == print_module(program.module)
    check_same_program(program.module, copy, program)


def test_every_operation_occurs() -> None:
    classes = {found[0] for name in operation_names() if (found := operation_class(name))}
    derivatives = {CustomCall, Jvp, StopGradient, Vjp}  # tests/passes/test_grad* make programs for these
    assert classes - derivatives - {Return, Yield} == set(EMITTERS)
