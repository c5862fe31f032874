"""Elementwise code between one value and one result, differentiated on its own before the sweep goes over it.

Where a value reaches a result along several paths (GELU: ``x * (1 + erf(x / sqrt(2))) / 2``), the plain sweep
multiplies the cotangent into every path, and needs a saved value for each. The derivative of the result by the value
is one array whatever is between them; with it the sweep needs that one, and computes it where the values that it
shares with the result are at hand ("Jacobian preaccumulation", Griewank & Walther, Evaluating Derivatives, 2008,
chapter 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds_compiler.ir import Operation, Value
from ds_compiler.ops import Binary, Unary

SMOOTH_UNARY = frozenset(
    {"neg", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "atan", "asinh", "erf"}
    | {"sigmoid", "reciprocal", "rsqrt", "sqrt"}
)
SMOOTH_BINARY = frozenset({"add", "sub", "mul", "div"})


@dataclass(frozen=True, slots=True)
class Span:
    """Operations, in order, through which `entry` reaches the result of the last one, and nothing else does."""

    entry: Value
    members: tuple[Operation, ...]


class Spans:
    """The spans among operations that a sweep goes over.

    Without kinks only: multiplying a derivative of 0 or 1 by a cotangent that is infinite or not a number is not
    the same as choosing.
    """

    def __init__(self, operations: Sequence[Operation], active: set[Value]) -> None:
        self._active = active
        self._swept = set(operations)
        self._position = {op: n for n, op in enumerate(operations)}
        self._depth: dict[Value, int] = {}
        self._gate: dict[Value, Value] = {}  # through which one value all paths to it lead, the nearest
        for op in operations:
            if _is_smooth(op):
                self._find_gate(op)

    def _find_gate(self, op: Operation) -> None:
        sources = list(dict.fromkeys(v for v in op.operands if v in self._active))
        gate: Value | None = sources[0]
        for other in sources[1:]:
            gate = self._common(gate, other)
            if gate is None:
                return
        assert gate is not None
        self._gate[op.results[0]] = gate
        self._depth[op.results[0]] = self._depth.get(gate, 0) + 1

    def _common(self, a: Value | None, b: Value) -> Value | None:
        while a is not None and a is not b:
            if self._depth.get(a, 0) >= self._depth.get(b, 0):
                a = self._gate.get(a)
            else:
                found = self._gate.get(b)
                if found is None:
                    return None
                b = found
        return a

    def ending_at(self, op: Operation) -> Span | None:
        """The span whose last operation is `op`: several paths meet there, and nothing leaves in between."""
        if not _is_smooth(op) or op.results[0] not in self._gate:
            return None
        sources = {v for v in op.operands if v in self._active}
        entry = self._gate[op.results[0]]
        if sources == {entry}:
            return None
        members: dict[Operation, None] = {op: None}
        stack = [v for v in sources if v is not entry]
        while stack:
            source = stack.pop().defining_op
            assert source is not None
            if source not in members:
                members[source] = None
                stack.extend(v for v in source.operands if v in self._active and v is not entry)
        for member in members:
            if member is not op and any(u in self._swept and u not in members for u in member.results[0].users):
                return None
        return Span(entry, tuple(sorted(members, key=self._position.__getitem__)))


def _is_smooth(op: Operation) -> bool:
    match op:
        case Unary():
            return op.kind in SMOOTH_UNARY
        case Binary():
            return op.kind in SMOOTH_BINARY
    return False
