"""Conditions that a program checks: in the interpreter, in text, through the passes, in compiled programs."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import Builder, CompileError, Module, Value
from ds_compiler.ir.parser import parse_module
from ds_compiler.ir.printer import print_module
from ds_compiler.ops import Check, If, Reduce, Scan
from ds_compiler.passes.manager import run
from ds_compiler.reference import interpret
from ds_compiler.runtime import ExecutionError
from tests.backends.programs import compiled, executable
from tests.backends.test_program import is_positive, region, unary
from tests.ops.running import run as run_op
from tests.passes.helpers import const, module_of, names, tensor


def checking() -> Module:
    """tanh of an input whose largest element must be positive."""

    def body(b: Builder, x: Value) -> Value:
        b.insert(Check(is_positive(b, x), "all are negative"))
        return unary(b, x)

    return module_of(body, "n")


def ones(count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.ones(count, np.float32)


def test_condition_is_a_bool_scalar() -> None:
    assert run_op(lambda c: Check(c, "no"), np.array(True)) == ()
    with pytest.raises(ValueError, match=r"^no$"):
        run_op(lambda c: Check(c, "no"), np.array(False))
    for wrong in (np.array([True]), np.array(1)):
        with pytest.raises(CompileError, match="expected tensor<bool>"):
            run_op(lambda c: Check(c, "no"), wrong)


def test_interpreter_and_text() -> None:
    module = checking()
    assert print_module(parse_module(print_module(module))) == print_module(module)
    interpret(module, [ones(3)])
    with pytest.raises(CompileError, match="check: all are negative"):
        interpret(module, [-ones(3)])


def test_passes_keep_checks_that_nothing_reads() -> None:
    module = checking()
    run(module, "cleanup", verify=True)
    assert names(module) == ["reduce", "gt", "check", "tanh"]


def test_passes_drop_what_is_true_and_what_is_checked_already() -> None:
    def body(b: Builder, x: Value) -> Value:
        b.insert(Check(const(b, True, "bool"), "never"))
        b.insert(Check(is_positive(b, x), "first"))
        b.insert(Check(is_positive(b, x), "second"))
        return unary(b, x)

    module = module_of(body, "n")
    run(module, "cleanup", verify=True)
    assert [op.message for op in module.main.walk() if isinstance(op, Check)] == ["first"]


def test_what_is_false_stays() -> None:
    def body(b: Builder, x: Value) -> Value:
        b.insert(Check(const(b, False, "bool"), "always"))
        return unary(b, x)

    module = module_of(body, "n")
    run(module, "cleanup", verify=True)
    with pytest.raises(ExecutionError, match="always"):
        executable(compiled(module)[1])(ones(3))


@pytest.mark.parametrize("count", [3, 100_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_programs_stop(count: int, threads: int) -> None:
    program = executable(compiled(checking())[1], threads)
    for _ in range(2):  # a program that stopped runs again
        np.testing.assert_allclose(program(ones(count))["y0"], np.tanh(ones(count)), rtol=1e-6)
        with pytest.raises(ExecutionError, match=r"^all are negative$"):
            program(-ones(count))


def test_a_branch_that_is_not_taken_checks_nothing() -> None:
    def body(b: Builder, c: Value, x: Value) -> Value:
        def checked(b: Builder) -> list[Value]:
            b.insert(Check(is_positive(b, x), "all are negative"))
            return [b.emit(Reduce(x, (0,), "sum"))]

        return b.emit(If(is_positive(b, c), region(checked), region(lambda b: [b.emit(Reduce(x, (0,), "max"))])))

    module = module_of(body, "", "n")
    run(module, "cleanup", verify=True)
    program = executable(compiled(module)[1], 2)
    assert program(np.float32(-1), -ones(3))["y0"] == -1
    with pytest.raises(ExecutionError, match="all are negative"):
        program(np.float32(1), -ones(3))


def test_every_iteration_checks() -> None:
    def step(b: Builder, state: Value, x: Value) -> list[Value]:
        b.insert(Check(is_positive(b, x), "not positive"))
        return [unary(b, state), unary(b, x)]

    def body(b: Builder, x: Value) -> list[Value]:
        scan = Scan((const(b, 1.0),), (x,), x.type.shape[0], region(step, tensor(), tensor()))  # type: ignore[call-arg]
        return list(b.insert(scan).results)

    module = module_of(body, "n")
    run(module, "cleanup", verify=True)
    program = executable(compiled(module)[1])
    program(ones(5))
    with pytest.raises(ExecutionError, match="not positive"):
        program(np.array([1, 1, -1, 1], np.float32))
