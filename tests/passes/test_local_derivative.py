"""What lies between one value and one result is differentiated on its own: one product with the cotangent."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import Builder, Value
from ds_compiler.ops import Binary, Unary
from ds_compiler.reference import interpret
from tests.passes.differentiating import Body, check_gradient, derived, expanded, module_of
from tests.passes.helpers import spread, tensor


def gelu(b: Builder, x: Value) -> Value:
    scaled = b.emit(Binary(x, spread(b, np.sqrt(0.5), x), "mul"))
    cdf = b.emit(Binary(b.emit(Unary(scaled, "erf")), spread(b, 1, x), "add"))
    return b.emit(Binary(b.emit(Binary(x, spread(b, 0.5, x), "mul")), cdf, "mul"))


def nested(b: Builder, x: Value) -> Value:
    """A span within a span: ``x * tanh(x + x * x * x)``."""
    cube = b.emit(Binary(b.emit(Binary(x, x, "mul")), x, "mul"))
    return b.emit(Binary(x, b.emit(Unary(b.emit(Binary(x, cube, "add")), "tanh")), "mul"))


def two_results(b: Builder, x: Value) -> list[Value]:
    """A value inside of what could be a span is a result as well."""
    inner = b.emit(Unary(x, "exp"))
    return [b.emit(Binary(x, inner, "mul")), inner]


def two_entries(b: Builder, x: Value, y: Value) -> Value:
    return b.emit(Binary(b.emit(Unary(x, "exp")), b.emit(Unary(y, "sin")), "mul"))


def read_later(b: Builder, x: Value) -> Value:
    """A value inside is read behind the place where the paths meet."""
    inner = b.emit(Unary(x, "exp"))
    meeting = b.emit(Binary(x, inner, "mul"))
    return b.emit(Binary(b.emit(Unary(meeting, "tanh")), inner, "add"))


def kink(b: Builder, x: Value) -> Value:
    return b.emit(Binary(x, b.emit(Binary(x, spread(b, 0, x), "max")), "mul"))


def cotangent_readers(body: Body, count: int) -> int:
    """How many operations of the derivative read the first result's cotangent."""
    module = module_of(body, ["5"] * count)
    reverse, _ = derived(module, "f", range(count))
    module.add(reverse)
    return len(expanded(module, reverse.name).main.arguments[count].uses)


@pytest.mark.parametrize(("body", "inputs"), [(gelu, 1), (nested, 1)])
def test_the_cotangent_is_read_once(body: Body, inputs: int) -> None:
    assert cotangent_readers(body, inputs) == 1


@pytest.mark.parametrize(("body", "inputs"), [(two_results, 1), (two_entries, 2), (kink, 1)])
def test_other_code_is_swept(body: Body, inputs: int) -> None:
    assert cotangent_readers(body, inputs) > 1


@pytest.mark.parametrize(
    ("body", "inputs"), [(gelu, 1), (nested, 1), (two_results, 1), (two_entries, 2), (read_later, 1), (kink, 1)]
)
def test_derivatives(body: Body, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    module = module_of(body, [tensor("5", "f64")] * inputs)
    check_gradient(module, [rng.standard_normal(5) for _ in range(inputs)])


def test_an_infinite_cotangent_meets_no_zero_at_a_kink() -> None:
    """A rectifier chooses: what it does not let through is no product with 0."""

    def body(b: Builder, x: Value) -> Value:
        kept = b.emit(Binary(x, spread(b, 0, x), "max"))
        return b.emit(Binary(kept, kept, "add"))

    module = module_of(body, [tensor("2", "f64")])
    reverse, _ = derived(module, "f", [0])
    module.add(reverse)
    (gradient,) = interpret(expanded(module, reverse.name), [np.array([-1.0, 1.0]), np.array([np.inf, 1.0])])
    np.testing.assert_array_equal(gradient, [0.0, 2.0])
