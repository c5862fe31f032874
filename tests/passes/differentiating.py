"""Functions differentiated by the pass, compared with central differences in float64, to second order, and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ds_compiler.ir import Block, Builder, Function, Module, Region, TensorType, Value
from ds_compiler.ops import Jvp, Return, Vjp
from ds_compiler.passes.manager import run
from ds_compiler.reference import interpret
from tests.backends.programs import check_program
from tests.passes.helpers import tensor

Array = np.ndarray[Any, Any]
Body = Callable[..., Value | Sequence[Value]]


def function(name: str, body: Body, types: Sequence[TensorType]) -> Function:
    block = Block(types, [f"{name}{i}" for i in range(len(types))])
    builder = Builder(block)
    results = body(builder, *block.arguments)
    builder.insert(Return((results,) if isinstance(results, Value) else tuple(results)))
    return Function(name, Region(block))


def module_of(body: Body, types: Sequence[TensorType | str], *others: Function) -> Module:
    """A module whose function ``f`` is `body`; ``main`` calls nothing yet: see `derived`."""
    return Module([*others, function("f", body, [tensor(t) if isinstance(t, str) else t for t in types])])


def derived(module: Module, name: str, wrt: Sequence[int]) -> tuple[Function, Function]:
    """Functions of (inputs, cotangents) to the gradients and of (inputs, tangents) to the tangents of ``name``."""
    callee = module.functions[name]
    types, results = [a.type for a in callee.arguments], callee.result_types
    n, wrt = len(types), tuple(wrt)

    def reverse(b: Builder, *args: Value) -> Sequence[Value]:
        return b.insert(Vjp(args[:n], args[n:], name, wrt)).results[len(results) :]

    def forward(b: Builder, *args: Value) -> Sequence[Value]:
        return b.insert(Jvp(args[:n], args[n:], name, wrt, tuple(results))).results[len(results) :]

    return (
        function(f"{name}_vjp", reverse, [*types, *results]),
        function(f"{name}_jvp", forward, [*types, *(types[i] for i in wrt)]),
    )


def expanded(module: Module, name: str) -> Module:
    """A module whose main is a function of `module`, derivatives expanded."""
    entry = module.functions[name].clone()
    entry.name = "main"
    copy = Module([*module.clone().functions.values(), entry])
    run(copy, "grad", verify=True)
    return copy


def call(module: Module, name: str, inputs: Sequence[Array]) -> list[Array]:
    """Results of a function of the module, by the interpreter."""
    return interpret(expanded(module, name), list(inputs))


def random_like(rng: np.random.Generator, arrays: Sequence[Array]) -> list[Array]:
    """Random numbers of the shapes of float arrays; zeros for the others."""
    numbers = [rng.standard_normal(a.shape) if a.dtype.kind == "f" else np.zeros(a.shape) for a in arrays]
    return [np.asarray(n).astype(a.dtype) for n, a in zip(numbers, arrays, strict=True)]


def check_gradient(
    module: Module,
    inputs: Sequence[Array],
    *,
    name: str = "f",
    order: int = 2,
    step: float = 1e-6,
    tolerance: float = 2e-6,
    seed: int = 0,
) -> None:
    """Gradients and tangents of ``name`` by every float input must match central differences; up to `order`."""
    rng = np.random.default_rng(seed)
    wrt = [i for i, x in enumerate(inputs) if x.dtype.kind == "f"]
    reverse, forward = derived(module, name, wrt)
    for made in (reverse, forward):
        module.add(made)
    primal = expanded(module, name)
    outputs = interpret(primal, list(inputs))
    cotangents = random_like(rng, outputs)
    tangents = random_like(rng, [inputs[i] for i in wrt])
    gradients = call(module, reverse.name, [*inputs, *cotangents])
    got = call(module, forward.name, [*inputs, *tangents])

    def moved(amounts: Mapping[int, Array]) -> list[Array]:
        return interpret(primal, [x + amounts[i] if i in amounts else x for i, x in enumerate(inputs)])

    steps = {i: step * t for i, t in zip(wrt, tangents, strict=True)}
    above, below = moved(steps), moved({i: -t for i, t in steps.items()})
    for a, b, tangent in zip(above, below, got, strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(tangent, (a - b) / (2 * step), rtol=tolerance, atol=tolerance * 10)
        else:
            assert not tangent.any()
    for i, gradient in zip(wrt, gradients, strict=True):
        assert gradient.shape == inputs[i].shape and gradient.dtype == inputs[i].dtype
        numeric = np.zeros(inputs[i].shape)
        for place in np.ndindex(*inputs[i].shape):
            shift = np.zeros(inputs[i].shape)
            shift[place] = step
            difference = zip(moved({i: shift}), moved({i: -shift}), cotangents, strict=True)
            numeric[place] = sum(np.sum(c * (a - b)) / (2 * step) for a, b, c in difference if a.dtype.kind == "f")
        np.testing.assert_allclose(gradient, numeric, rtol=tolerance, atol=tolerance * 10)
    if order > 1:
        more = [*inputs, *cotangents]
        check_gradient(module, more, name=reverse.name, order=order - 1, step=step, tolerance=tolerance, seed=seed + 1)


def check_native(module: Module, inputs: Sequence[Array], *, name: str = "f", rtol: float = 1e-6) -> None:
    """Gradients and tangents, compiled, equal the interpreted ones."""
    rng = np.random.default_rng(1)
    wrt = [i for i, x in enumerate(inputs) if x.dtype.kind == "f"]
    reverse, forward = derived(module, name, wrt)
    seeds = {reverse.name: call(module, name, inputs), forward.name: [inputs[i] for i in wrt]}
    for made in (reverse, forward):
        program = expanded(Module([*module.clone().functions.values(), made]), made.name)
        run(program, "cleanup,layout,cleanup", verify=True)
        check_program(program, inputs=[*inputs, *random_like(rng, seeds[made.name])], threads=(1, 2), rtol=rtol)
