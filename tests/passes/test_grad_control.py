"""Derivatives through control flow, calls and stated derivatives; what is and is not differentiated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds_compiler.ir import CompileError, Module
from ds_compiler.ir.parser import parse_module
from ds_compiler.passes.manager import run
from ds_compiler.reference import interpret
from tests.passes.differentiating import check_gradient, check_native

IF = """
func @f(%p: tensor<bool>, %x: tensor<n x f64>, %w: tensor<f64>) -> (tensor<n x f64>) {
  %a = exp %x
  %r = if %p then {
    %b = broadcast %w shape=[n] axes=[]
    %c = mul %a, %b
    %d = sin %c
    yield %d
  } orelse {
    yield %x
  }
  %s = mul %r, %a
  return %s
}
"""

RNN = """
func @f(%h: tensor<3xf64>, %w: tensor<3x3xf64>, %x: tensor<n x 3 x f64>) -> (tensor<3xf64>, tensor<n x 3 x f64>) {
  %zero = constant 0 : tensor<i64>
  %r, %k, %s = scan [%h, %zero], [%x] length=n reverse=REVERSE
  body(%c: tensor<3xf64>, %i: tensor<i64>, %v: tensor<3xf64>) {
    %1 = dot_general %w, %c lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[0]
    %2 = add %1, %v
    %3 = tanh %2
    %one = constant 1 : tensor<i64>
    %j = add %i, %one
    %m = cast %j dtype=f64
    %l = broadcast %m shape=[3] axes=[]
    %4 = mul %3, %l
    yield %3, %j, %4
  }
  return %r, %s
}
"""

# Steps until the square exceeds a bound: how many depends on the numbers.
WHILE = """
func @f(%x: tensor<f64>, %y: tensor<f64>) -> (tensor<f64>, tensor<i64>) {
  %zero = constant 0 : tensor<i64>
  %r, %n = while %x, %zero : tensor<f64>, tensor<i64> condition(%u: tensor<f64>, %v: tensor<i64>) {
    %bound = constant 9.0 : tensor<f64>
    %s = mul %u, %u
    %go = lt %s, %bound
    yield %go
  } body(%a: tensor<f64>, %i: tensor<i64>) {
    %b = mul %a, %y
    %c = sin %y
    %d = add %b, %c
    %one = constant 1 : tensor<i64>
    %j = add %i, %one
    yield %d, %j
  }
  return %r, %n
}
"""

NESTED = """
func @f(%x: tensor<2xf64>, %s: tensor<n x f64>) -> (tensor<2xf64>) {
  %r = scan [%x], [%s] length=n body(%c: tensor<2xf64>, %t: tensor<f64>) {
    %zero = constant 0.0 : tensor<f64>
    %p = gt %t, %zero
    %q = if %p then {
      %tt = broadcast %t shape=[2] axes=[]
      %d = mul %c, %tt
      %e = mul %d, %x
      yield %e
    } orelse {
      %ee, %u = scan [%c, %t], [] length=2 body(%g: tensor<2xf64>, %h: tensor<f64>) {
        %k = cos %g
        %m = sin %h
        yield %k, %m
      }
      %v = broadcast %u shape=[2] axes=[]
      %w = add %ee, %v
      yield %w
    }
    yield %q
  }
  return %r
}
"""

CUSTOM = """
func @half(%x: tensor<n x f64>, %i: tensor<i64>) -> (tensor<n x f64>) {
  %0 = exp %x
  return %0
}

func @forward(%x: tensor<n x f64>, %i: tensor<i64>) -> (tensor<n x f64>, tensor<n x f64>) {
  %0 = exp %x
  return %0, %0
}

func @backward(%y: tensor<n x f64>, %g: tensor<n x f64>) -> (tensor<n x f64>) {
  %0 = mul %y, %g
  %1 = SCALE %0
  return %1
}

func @f(%x: tensor<n x f64>, %i: tensor<i64>) -> (tensor<n x f64>) {
  %0 = custom_call %x, %i callee="half" forward="forward" backward="backward" types=[tensor<n x f64>]
  %1 = mul %0, %x
  return %1
}
"""


def text(source: str) -> Module:
    """A module of IR text."""
    return parse_module(source)


@pytest.mark.parametrize("condition", [True, False])
def test_if(condition: bool) -> None:
    inputs = [np.asarray(condition), np.array([0.3, -0.4, 1.0]), np.asarray(0.7)]
    check_gradient(text(IF), inputs)
    check_native(text(IF), inputs)


@pytest.mark.parametrize("reverse", ["false", "true"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_scan(reverse: str, steps: int) -> None:
    rng = np.random.default_rng(steps)
    inputs = [rng.standard_normal(3), rng.standard_normal((3, 3)), rng.standard_normal((steps, 3))]
    module = text(RNN.replace("REVERSE", reverse))
    check_gradient(module, inputs)
    check_native(module, inputs)


@pytest.mark.parametrize("start", [0.9, 5.0])
def test_while_takes_as_many_steps_back(start: float) -> None:
    inputs = [np.asarray(start), np.asarray(1.4)]
    check_gradient(text(WHILE), inputs)
    check_native(text(WHILE), inputs)


def test_control_flow_inside_control_flow() -> None:
    inputs = [np.array([0.7, 1.2]), np.array([0.5, -0.3, 1.5])]
    check_gradient(text(NESTED), inputs, tolerance=1e-5)
    check_native(text(NESTED), inputs)


def test_a_stated_derivative_is_used() -> None:
    inputs = [np.array([0.2, -0.4]), np.asarray(3)]
    module = text(CUSTOM.replace("  %1 = SCALE %0\n  return %1", "  return %0"))
    check_gradient(module, inputs)
    check_native(module, inputs)
    negated = text(CUSTOM.replace("SCALE", "neg"))
    x = inputs[0]
    (gradient,) = _gradient(negated, inputs, [np.ones(2)], (0,))
    np.testing.assert_allclose(gradient, np.exp(x) - x * np.exp(x))
    assert np.array_equal(_results(negated, inputs)[0], np.exp(x) * x)


def _results(module: Module, inputs: list[np.ndarray]) -> list[np.ndarray]:
    from tests.passes.differentiating import call

    return call(module, "f", inputs)


def _gradient(
    module: Module, inputs: list[np.ndarray], cotangents: list[np.ndarray], wrt: tuple[int, ...]
) -> list[np.ndarray]:
    from tests.passes.differentiating import call, derived

    module = module.clone()
    reverse, _ = derived(module, "f", wrt)
    module.add(reverse)
    return call(module, reverse.name, [*inputs, *cotangents])


def test_a_value_given_twice_is_differentiated_by_once() -> None:
    module = parse_module("""
func @f(%a: tensor<f64>, %b: tensor<f64>) -> (tensor<f64>) {
  %0 = mul %a, %b
  %1 = mul %0, %b
  return %1
}

func @main(%x: tensor<f64>, %g: tensor<f64>) -> (tensor<f64>, tensor<f64>, tensor<f64>) {
  %0, %1, %2 = vjp [%x, %x], [%g] callee="f" wrt=[0, 1]
  return %0, %1, %2
}
""")
    got = interpret(module, [np.asarray(3.0), np.asarray(1.0)])
    assert [float(v) for v in got] == [27.0, 9.0, 18.0]


def test_what_a_result_does_not_depend_on_has_gradient_zero() -> None:
    module = parse_module("""
func @f(%a: tensor<2xf64>, %b: tensor<n x f64>) -> (tensor<2xf64>, tensor<2xf64>, tensor<2xf64>) {
  %0 = stop_gradient %a
  return %a, %0, %a
}

func @main(%x: tensor<2xf64>, %y: tensor<n x f64>, %g: tensor<2xf64>)
-> (tensor<2xf64>, tensor<n x f64>, tensor<2xf64>) {
  %0, %1, %2, %3, %4 = vjp [%x, %y], [%g, %g, %g] callee="f" wrt=[0, 1]
  %5, %6, %7, %8, %9, %10 = jvp [%x, %y], [%y] callee="f" wrt=[1] types=[tensor<2xf64>, tensor<2xf64>, tensor<2xf64>]
  return %3, %4, %8
}
""")
    got = interpret(module, [np.ones(2), np.ones(3), np.array([1.0, 2.0])])
    assert [v.tolist() for v in got] == [[2, 4], [0, 0, 0], [0, 0]]


def test_a_callee_keeps_its_own_sizes() -> None:
    """A size that is bound inside is another one at each call."""
    module = parse_module("""
func @f(%x: tensor<n x f64>, %k: tensor<i64>) -> (tensor<f64>) {
  bind %k symbol="_k"
  %0 = slice %x starts=[0] sizes=[_k] steps=[1]
  %1 = reduce %0 axes=[0] how="prod"
  return %1
}

func @main(%x: tensor<m x f64>, %k: tensor<i64>, %l: tensor<i64>, %g: tensor<f64>)
-> (tensor<m x f64>, tensor<m x f64>) {
  %0, %1 = vjp [%x, %k], [%g] callee="f" wrt=[0]
  %2, %3 = vjp [%x, %l], [%g] callee="f" wrt=[0]
  return %1, %3
}
""")
    run(module, "grad,cleanup", verify=True)
    x = np.array([2.0, 3.0, 5.0])
    got = interpret(module, [x, np.asarray(2), np.asarray(3), np.asarray(1.0)])
    assert [v.tolist() for v in got] == [[3, 2, 0], [15, 10, 6]]


def test_fusions_have_no_derivative() -> None:
    module = parse_module("""
func @f(%x: tensor<f64>) -> (tensor<f64>) {
  %0 = fusion %x strategy="loop" body(%a: tensor<f64>) {  // model.py:7
    %b = exp %a
    yield %b
  }
  return %0
}

func @main(%x: tensor<f64>) -> (tensor<f64>) {
  %0, %1 = vjp [%x], [%x] callee="f" wrt=[0]
  return %1
}
""")
    with pytest.raises(CompileError, match="fusion: has no derivative") as raised:
        run(module, "grad")
    assert str(raised.value.location) == "model.py:7"


SHAPES = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))

PROGRAMS: dict[str, Callable[[int, int], str]] = {
    "softmax": lambda n, m: """
func @f(%x: tensor<n x m x f64>) -> (tensor<n x m x f64>) {
  %0 = reduce %x axes=[1] how="max"
  %1 = stop_gradient %0
  %2 = broadcast %1 shape=[n, m] axes=[0]
  %3 = sub %x, %2
  %4 = exp %3
  %5 = reduce %4 axes=[1] how="sum"
  %6 = broadcast %5 shape=[n, m] axes=[0]
  %7 = div %4, %6
  return %7
}
""",
    "normalised": lambda n, m: """
func @f(%x: tensor<n x m x f64>) -> (tensor<n x m x f64>) {
  %0 = reduce %x axes=[0] how="mean"
  %1 = broadcast %0 shape=[n, m] axes=[1]
  %2 = sub %x, %1
  %3 = mul %2, %2
  %4 = reduce %3 axes=[0] how="mean"
  %one = constant 1.0 : tensor<f64>
  %ones = broadcast %one shape=[m] axes=[]
  %5 = add %4, %ones
  %6 = rsqrt %5
  %7 = broadcast %6 shape=[n, m] axes=[1]
  %8 = mul %2, %7
  return %8
}
""",
    "product": lambda n, m: """
func @f(%x: tensor<n x m x f64>) -> (tensor<n x n x f64>) {
  %0 = dot_general %x, %x lhs_batch=[] rhs_batch=[] lhs_contract=[1] rhs_contract=[1]
  %1 = tanh %0
  return %1
}
""",
    "windows": lambda n, m: """
func @f(%x: tensor<n x m x f64>) -> (tensor<n x floordiv(m+1, 2) x f64>) {
  %0 = reduce_window %x axes=[1] window=[3] strides=[2] low=[1] high=[1] dilations=[1] how="mean_valid"
  %1 = sin %0
  return %1
}
""",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
@SHAPES
@given(n=st.integers(0, 4), m=st.integers(1, 4), static=st.booleans())
def test_any_shape(name: str, n: int, m: int, static: bool) -> None:
    """Empty axes, axes of size 1, sizes known and not."""
    source = PROGRAMS[name](n, m)
    if static:
        source = source.replace("n x m x f64", f"{n}x{m}xf64").replace("n x n x f64", f"{n}x{n}xf64")
        source = source.replace("n x floordiv(m+1, 2) x f64", f"{n}x{(m + 1) // 2}xf64")
        source = source.replace("shape=[n, m]", f"shape=[{n}, {m}]").replace("shape=[m]", f"shape=[{m}]")
    x = np.random.default_rng(n * 7 + m).standard_normal((n, m))
    check_gradient(parse_module(source), [x], order=1)
