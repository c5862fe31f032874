"""Assumed equal sizes: in the interpreter, in text, through the passes, in compiled programs."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import Builder, CompileError, Module, Value, symbol
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.parser import parse_module
from ds_compiler.ir.printer import print_module
from ds_compiler.ops import Assume, Bind, If, Reduce
from ds_compiler.passes.manager import run
from ds_compiler.reference import interpret
from ds_compiler.runtime import ExecutionError, InputError
from tests.backends.programs import compiled, executable
from tests.backends.test_program import count_positive, is_positive, region, unary
from tests.passes.helpers import module_of, names

N = symbol("n")
EVEN = 2 * floordiv(N, 2)


def assuming() -> Module:
    """exp of an input of size n, which is assumed to be even."""

    def body(b: Builder, x: Value) -> Value:
        b.insert(Assume(EVEN, N))
        return unary(b, x, "exp")

    return module_of(body, "n")


def numbers(count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.ones(count, np.float32)


def test_interpreter_checks() -> None:
    interpret(assuming(), [numbers(4)])
    with pytest.raises(
        CompileError, match=r"assume: the sizes 2\*floordiv\(n, 2\) and n must be equal, they are 2 and 3"
    ):
        interpret(assuming(), [numbers(3)])


def test_different_numbers_are_a_type_error() -> None:
    with pytest.raises(CompileError, match="the sizes 2 and 3 differ"):
        Assume(2, 3)


def test_text_round_trip() -> None:
    text = print_module(assuming())
    assert "assume" in text
    assert print_module(parse_module(text)) == text


def test_passes_keep_what_is_not_proved() -> None:
    module = assuming()
    run(module, "cleanup", verify=True)
    assert names(module) == ["assume", "exp"]


def test_passes_drop_what_holds() -> None:
    def body(b: Builder, x: Value) -> Value:
        b.insert(Assume(2 * N - N, N))
        return unary(b, x, "exp")

    module = module_of(body, "n")
    run(module, "cleanup", verify=True)
    assert names(module) == ["exp"]


def test_assumption_keeps_the_binding_of_its_sizes() -> None:
    def body(b: Builder, x: Value) -> Value:
        b.insert(Bind(count_positive(b, x), "_count"))
        b.insert(Assume(symbol("_count"), N))
        return unary(b, x, "exp")

    module = module_of(body, "n")
    run(module, "cleanup", verify=True)
    assert {"bind", "assume"} <= set(names(module))
    _, result = compiled(module)
    for threads in (1, 2):
        program = executable(result, threads)
        np.testing.assert_allclose(program(numbers(3))["y0"], np.exp(numbers(3)), rtol=1e-6)
        with pytest.raises(ExecutionError, match="assume: sizes: _count and n must be equal"):
            program(-numbers(3))
        np.testing.assert_allclose(program(numbers(3))["y0"], np.exp(numbers(3)), rtol=1e-6)


def test_program_checks_sizes_of_inputs_at_its_entry() -> None:
    _, result = compiled(assuming())
    program = executable(result)
    np.testing.assert_allclose(program(numbers(4))["y0"], np.exp(numbers(4)), rtol=1e-6)
    with pytest.raises(InputError, match=r"assume: sizes: 2\*floordiv\(n, 2\) and n must be equal"):
        program(numbers(3))


def test_assumption_in_a_branch_is_checked_where_it_stands() -> None:
    def even(b: Builder) -> list[Value]:
        b.insert(Assume(EVEN, N))
        return [b.emit(Reduce(arguments[1], (0,), "sum"))]

    arguments: list[Value] = []

    def body(b: Builder, c: Value, x: Value) -> Value:
        arguments[:] = [c, x]
        return b.emit(If(is_positive(b, c), region(even), region(lambda b: [b.emit(Reduce(x, (0,), "max"))])))

    module = module_of(body, "", "n")
    run(module, "cleanup", verify=True)
    assert "assume" in names(module)
    _, result = compiled(module)
    program = executable(result, 2)
    no, yes = np.array(-1, np.float32), np.array(1, np.float32)
    assert program(no, numbers(3))["y0"] == 1
    assert program(yes, numbers(4))["y0"] == 4
    with pytest.raises(ExecutionError, match=r"2\*floordiv\(n, 2\) and n must be equal"):
        program(yes, numbers(3))
