"""Derivative operations: types, text, and how they fit the functions that they name."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import CompileError, TypeError_
from ds_compiler.ir.parser import parse_module
from ds_compiler.ir.printer import print_module
from ds_compiler.ir.verifier import verify
from ds_compiler.ops import CustomCall, Jvp, StopGradient, Vjp, callees
from ds_compiler.passes.dce import eliminate_dead_code
from tests.ops.running import run, value

TEXT = """\
func @f(%x: tensor<n x f32>, %i: tensor<n x i64>) -> (tensor<n x f32>) {
  %0 = exp %x : tensor<n x f32>
  return %0
}

func @forward(%x: tensor<n x f32>, %i: tensor<n x i64>) -> (tensor<n x f32>, tensor<n x 1 x f32>) {
  %0 = exp %x : tensor<n x f32>
  %1 = reshape %0 shape=[n, 1] : tensor<n x 1 x f32>
  return %0, %1
}

func @backward(%y: tensor<n x 1 x f32>, %g: tensor<n x f32>) -> (tensor<n x f32>) {
  %0 = reshape %y shape=[n] : tensor<n x f32>
  %1 = mul %0, %g : tensor<n x f32>
  return %1
}

func @main(%x: tensor<batch x f32>, %i: tensor<batch x i64>) -> (tensor<batch x f32>, tensor<batch x f32>) {
  %0, %1 = vjp [%x, %i], [%x] callee="f" wrt=[0] : tensor<batch x f32>, tensor<batch x f32>
  %2, %3 = jvp [%1, %i], [%x] callee="f" wrt=[0] types=[tensor<batch x f32>] : tensor<batch x f32>, tensor<batch x f32>
  %4 = stop_gradient %3 : tensor<batch x f32>
  %5 = custom_call %4, %i callee="f" forward="forward" backward="backward" types=[tensor<batch x f32>]"""
TEXT += """ : tensor<batch x f32>
  return %2, %5
}
"""


def test_text_reads_back_the_same_and_is_sound() -> None:
    module = parse_module(TEXT)
    assert print_module(module) == TEXT
    verify(module)


def test_functions_that_derivatives_name_are_kept() -> None:
    module = parse_module(TEXT)
    eliminate_dead_code(module)
    assert sorted(module.functions) == ["backward", "f", "forward", "main"]
    verify(module)


def test_types_of_results() -> None:
    x, i, t = value("n f32"), value("n i64"), value("n f32")
    reverse = Vjp((x, i), (value("f32"), value("i64")), "f", (0,))
    assert [str(r.type) for r in reverse.results] == ["tensor<f32>", "tensor<i64>", "tensor<n x f32>"]
    forward = Jvp((x, i), (t,), "f", (0,), (value("i64").type,))
    assert [str(r.type) for r in forward.results] == ["tensor<i64>", "tensor<i64>"]
    custom = CustomCall((x,), "f", "g", "h", (x.type,))
    assert custom.result.type == x.type and callees(custom) == ("f", "g", "h") and callees(reverse) == ("f",)


def test_stop_gradient_is_the_operand() -> None:
    x = np.array([1.0, np.nan], np.float32)
    assert run(lambda v: StopGradient(v), x) is x


def test_wrt_names_floating_point_operands() -> None:
    x, i = value("n f32"), value("n i64")
    with pytest.raises(TypeError_, match=r"vjp: operand 1 is tensor<n x i64>: no derivative exists"):
        Vjp((x, i), (), "f", (1,))
    for wrt in ((2,), (-1,), (0, 0)):
        with pytest.raises(TypeError_, match="wrt"):
            Jvp((x, i), (), "f", wrt, ())
    with pytest.raises(TypeError_, match=r"tangents are \[\], the operands \[tensor<n x f32>\]"):
        Jvp((x, i), (), "f", (0,), ())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('[%x, %i], [%x] callee="f" wrt', '[%x, %i], [%x] callee="h" wrt', "there is no function 'h'"),
        ("vjp [%x, %i]", "vjp [%x]", "1 arguments given, 'f' takes 2"),
        ("vjp [%x, %i], [%x]", "vjp [%x, %i], [%i]", "states tensor<batch x i64> for result 0"),
        ('backward="backward"', 'backward="forward"', "argument 0 is tensor<batch x 1 x f32>, 'forward' takes"),
        ('callee="f" forward="forward"', 'callee="f" forward="f"', "1 arguments given, 'backward' takes 2"),
    ],
)
def test_the_verifier_compares_with_the_functions(before: str, after: str, message: str) -> None:
    text = TEXT.replace(before, after)
    assert text != TEXT
    text = text.replace(" : tensor<batch x f32>, tensor<batch x f32>\n", "\n")
    with pytest.raises(CompileError, match=message.replace("(", r"\(")):
        verify(parse_module(text))


def test_recursion_through_a_derivative_is_an_error() -> None:
    text = """
func @f(%x: tensor<f32>) -> (tensor<f32>) {
  %0, %1 = vjp [%x], [%x] callee="f" wrt=[0]
  return %1
}

func @main() -> () {
  return
}
"""
    with pytest.raises(CompileError, match=r"calls itself \(f → f\)"):
        verify(parse_module(text))
