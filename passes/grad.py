"""Derivatives: `Vjp` and `Jvp` become the operations that compute them.

Reverse mode walks the operations backwards and adds up cotangents (`passes.reverse`); forward mode is reverse mode
transposed: what a derivative's operations do is linear in the cotangents, so that its own cotangent is the tangent.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.ir import Builder, Function, Module, Operation, Value
from ds_compiler.ops import CustomCall, Jvp, StopGradient, Vjp
from ds_compiler.ops.derivatives import Terms
from ds_compiler.passes import reverse_control  # noqa: F401  (registers the rules of control flow)
from ds_compiler.passes.attention import outline_in
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.inline import Inliner, callees_first, fitted
from ds_compiler.passes.manager import register
from ds_compiler.passes.reverse import Reverse


@register("grad")
def expand_derivatives(module: Module, *, narrow: bool = False) -> None:
    """Replace derivatives of functions by what computes them; functions that they name come first. `narrow`: attention
    of f16 and bf16, too, has the derivative that keeps no matrix.

    %y, %g = vjp [%x], [%1] callee="f" wrt=[0]    →    %y = exp %x
                                                       %g = mul %1, %y
    """
    if not any(isinstance(op, Vjp | Jvp | CustomCall | StopGradient) for op in module.walk()):
        return
    inliner = Inliner(module)
    order = callees_first(module)
    for function in order:
        inliner.inline_calls(function)
        for op in list(function.walk()):
            if isinstance(op, Vjp):
                _expand_vjp(op, inliner, narrow)
            elif isinstance(op, Jvp):
                _expand_jvp(op, inliner, narrow)
    for function in order:
        _drop_rules(function, inliner)
    eliminate_dead_code(module)


def _drop_rules(function: Function, inliner: Inliner) -> None:
    """What only told how to differentiate is no longer needed."""
    for op in list(function.walk()):
        if isinstance(op, StopGradient):
            op.replace_with(op.operand)
        elif isinstance(op, CustomCall):
            builder = Builder(before=op)
            results = inliner.copy(builder, inliner.module.functions[op.callee], op.inputs)
            op.replace_with(*(fitted(builder, v, t) for v, t in zip(results, op.types, strict=True)))


class _Opened:
    """A copy of a differentiated function in its caller, which reads placeholders for what it is differentiated by."""

    def __init__(self, op: Vjp | Jvp, inliner: Inliner, narrow: bool) -> None:
        self.inliner = inliner
        self.terms = Terms(before=op)
        self.wrt = [op.inputs[i] for i in op.wrt]
        # A value may be given twice, so that derivatives must not be collected by value.
        self.inside = [Value(v.type, v.hint) for v in self.wrt]
        inputs = list(op.inputs)
        for index, value in zip(op.wrt, self.inside, strict=True):
            inputs[index] = value
        callee = inliner.module.functions[op.callee]
        outline_in(callee.block, views=False, narrow=narrow)  # its derivative is known
        with self.terms.recording() as record:
            results = inliner.copy(self.terms, callee, inputs)
        self.results = results
        self.operations = record

    def close(self, op: Operation, values: Sequence[Value]) -> None:
        """Let `values` replace the results of `op`, and the real inputs the placeholders."""
        real = dict(zip(self.inside, self.wrt, strict=True))
        for placeholder, value in real.items():
            placeholder.replace_all_uses_with(value)
        builder = Builder(before=op)
        values = [fitted(builder, real.get(v, v), r.type) for v, r in zip(values, op.results, strict=True)]
        op.replace_with(*values)


def _expand_vjp(op: Vjp, inliner: Inliner, narrow: bool) -> None:
    opened = _Opened(op, inliner, narrow)
    terms = opened.terms
    reverse = Reverse(inliner, terms, opened.inside)
    operations = reverse.follow(opened.operations)
    for result, cotangent in zip(opened.results, op.cotangents, strict=True):
        reverse.add(reverse.current(result), cotangent)
    reverse.sweep(operations)
    opened.close(op, [*map(reverse.current, opened.results), *(reverse.cotangent(v) for v in opened.inside)])


def _expand_jvp(op: Jvp, inliner: Inliner, narrow: bool) -> None:
    opened = _Opened(op, inliner, narrow)
    terms = opened.terms
    reverse = Reverse(inliner, terms, opened.inside)
    operations = reverse.follow(opened.operations)
    results = [reverse.current(r) for r in opened.results]
    seeds = [terms.zeros(r.type) if r in reverse.active else None for r in results]
    with terms.recording() as backward:
        for result, seed in zip(results, seeds, strict=True):
            if seed is not None:
                reverse.add(result, seed)
        reverse.sweep(operations)
        gradients = [reverse.found(v) for v in opened.inside]
    transposed = Reverse(inliner, terms, [s for s in seeds if s is not None])
    backward = transposed.follow(backward)
    for gradient, tangent in zip(gradients, op.tangents, strict=True):
        if gradient is not None:
            transposed.add(gradient, tangent)
    transposed.sweep(backward)
    tangents = [
        terms.zeros(result.type) if seed is None else transposed.cotangent(seed)
        for result, seed in zip(results, seeds, strict=True)
    ]
    opened.close(op, [*map(reverse.current, opened.results), *tangents])
