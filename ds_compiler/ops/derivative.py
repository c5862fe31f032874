"""Derivatives of functions as operations; the pass ``grad`` expands them into plain primitives.

All of them name functions of the module. Those functions read nothing of the enclosing code: what they close over
is an argument of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ds_compiler.ir import Operation, Value, op
from ds_compiler.ir.cost import Cost
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.control import Call

Array = np.ndarray[Any, Any]


class _Derivative(Operation):
    """Shared checks; costs come with the expansion."""

    def _check_wrt(self, operands: tuple[Value, ...], wrt: tuple[int, ...]) -> None:
        if len(set(wrt)) != len(wrt) or any(not 0 <= index < len(operands) for index in wrt):
            raise self.error(f"wrt {list(wrt)} does not name operands, of which there are {len(operands)}")
        for index in wrt:
            if not operands[index].type.dtype.is_float:
                raise self.error(
                    f"operand {index} is {operands[index].type}: no derivative exists",
                    help="differentiate with respect to floating-point values",
                )

    def cost(self) -> Cost:
        return Cost()


@op("vjp")
class Vjp(_Derivative):
    """Reverse mode: the function's results, then for each index in `wrt` the gradient of ``sum(results * cotangents)``.

    `cotangents` are one for each result, of its type; those of integer and bool results are not read. A gradient has
    the type of its operand.
    """

    inputs: tuple[Value, ...]
    cotangents: tuple[Value, ...]
    callee: str
    wrt: tuple[int, ...]

    def infer(self) -> tuple[TensorType, ...]:
        self._check_wrt(self.inputs, self.wrt)
        return (*(c.type for c in self.cotangents), *(self.inputs[i].type for i in self.wrt))


@op("jvp")
class Jvp(_Derivative):
    """Forward mode: the function's results, then the tangent of each (zero for integers and bool).

    `tangents` are one for each index in `wrt`, of the operand's type; `types` are the types of the results.
    """

    inputs: tuple[Value, ...]
    tangents: tuple[Value, ...]
    callee: str
    wrt: tuple[int, ...]
    types: tuple[TensorType, ...]

    def infer(self) -> tuple[TensorType, ...]:
        self._check_wrt(self.inputs, self.wrt)
        expected = [self.inputs[i].type for i in self.wrt]
        if [t.type for t in self.tangents] != expected:
            raise self.error(f"tangents are {[t.type for t in self.tangents]}, the operands {expected}")
        return (*self.types, *self.types)


@op("stop_gradient")
class StopGradient(Operation):
    """The operand, which derivatives take for a constant."""

    operand: Value

    def infer(self) -> TensorType:
        return self.operand.type

    def evaluate(self, sizes: Mapping[str, int], *operands: Array) -> Array:
        return operands[0]

    def cost(self) -> Cost:
        return Cost()


@op("custom_call")
class CustomCall(_Derivative):
    """Call `callee`, whose derivative is stated: ``forward`` returns the same results and then residuals,
    ``backward(residuals, cotangents)`` one gradient for each floating-point operand, in their order.

    The cotangents are one for each floating-point result. `types` are the types of the results.
    """

    inputs: tuple[Value, ...]
    callee: str
    forward: str
    backward: str
    types: tuple[TensorType, ...]

    def infer(self) -> tuple[TensorType, ...]:
        return self.types


def callees(op: Operation) -> tuple[str, ...]:
    """The functions that an operation names."""
    match op:
        case Call() | Vjp() | Jvp():
            return (op.callee,)
        case CustomCall():
            return (op.callee, op.forward, op.backward)
    return ()
