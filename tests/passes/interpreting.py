"""A direct interpreter of modules on NumPy: each operation's own `evaluate`, plus control flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ds_compiler.ir import Module, Region, Value, symbol
from ds_compiler.ir.dims import evaluate
from ds_compiler.ops import Bind, Call, Composite, Fusion, If, Scan, While

Array = np.ndarray[Any, Any]


def interpret(module: Module, inputs: Sequence[Array]) -> list[Array]:
    """Results of main for `inputs`; symbols take their values from the inputs' shapes."""
    sizes: dict[str, int] = {}
    for argument, array in zip(module.main.arguments, inputs, strict=True):
        for dim, extent in zip(argument.type.shape, array.shape, strict=True):
            if not isinstance(dim, int) and str(dim).isidentifier():
                sizes[str(dim)] = extent
    return _region(module, module.main.body, inputs, {}, sizes)


def _region(
    module: Module, region: Region, arguments: Sequence[Array], outer: dict[Value, Array], sizes: dict[str, int]
) -> list[Array]:
    values = dict(outer)
    values.update(zip(region.block.arguments, arguments, strict=True))
    for op in region.block:
        operands = [values[v] for v in op.operands]
        results: Sequence[Array]
        if op.is_terminator:
            return operands
        match op:
            case Bind():
                symbol(op.symbol)
                sizes[op.symbol] = max(0, int(operands[0]))
                continue
            case If():
                results = _region(module, op.then if operands[0] else op.orelse, [], values, sizes)
            case While():
                state = operands
                while _region(module, op.condition, state, values, sizes)[0]:
                    state = _region(module, op.body, state, values, sizes)
                results = state
            case Scan():
                results = _scan(module, op, operands, values, sizes)
            case Fusion() | Composite():
                results = _region(module, op.body, operands, {}, sizes)
            case Call():
                results = _region(module, module.functions[op.callee].body, operands, {}, sizes)
            case _:
                computed = op.evaluate(sizes, *operands)
                results = computed if isinstance(computed, tuple) else (computed,)
        for result, array in zip(op.results, results, strict=True):
            expected = tuple(evaluate(d, sizes) for d in result.type.shape)
            assert np.shape(array) == expected, f"{op.mnemonic}: {np.shape(array)}, stated {result.type} = {expected}"
            assert array.dtype == result.type.dtype.numpy, f"{op.mnemonic}: {array.dtype}, stated {result.type}"
            values[result] = array
    raise AssertionError("a block without terminator")


def _scan(
    module: Module, op: Scan, operands: Sequence[Array], values: dict[Value, Array], sizes: dict[str, int]
) -> list[Array]:
    carried = len(op.inits)
    state, inputs = list(operands[:carried]), operands[carried:]
    length = evaluate(op.length, sizes)
    stacked: list[list[Array]] = [[] for _ in op.results[carried:]]
    order = range(length)
    for index in reversed(order) if op.reverse else order:
        out = _region(module, op.body, [*state, *(x[index] for x in inputs)], values, sizes)
        state = out[:carried]
        for collected, piece in zip(stacked, out[carried:], strict=True):
            collected.append(piece)
    joined = []
    for collected, result in zip(stacked, op.results[carried:], strict=True):
        shape = [evaluate(d, sizes) for d in result.type.shape]
        pieces = collected[::-1] if op.reverse else collected
        joined.append(np.asarray(pieces, result.type.dtype.numpy).reshape(shape))
    return [*state, *joined]
