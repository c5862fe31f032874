"""Reverse mode over straight-line code.

Cotangents exist for the values that depend on what is differentiated by (`active`); one that is zero throughout has
no value. Operations with regions have their rules in `reverse_control`; a composite is replaced by its body, except
attention, whose derivative is a composite as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from ds_compiler.ir import Builder, Operation, Value
from ds_compiler.ops import Composite, Pad, StopGradient, Yield
from ds_compiler.ops.derivatives import Terms, rule_of
from ds_compiler.ops.derivatives.attention import Attention, attention_gradient, has_derivative, with_log_sums
from ds_compiler.ops.derivatives.terms import splat
from ds_compiler.passes.inline import Inliner, fitted
from ds_compiler.passes.local_derivative import Span, Spans

RegionRule: TypeAlias = "Callable[[Reverse, Any, Sequence[Value | None]], None]"

_REGION_RULES: dict[type[Operation], RegionRule] = {}
_Function = TypeVar("_Function", bound=Callable[..., None])


def region_rule(cls: type[Operation]) -> Callable[[_Function], _Function]:
    """Declare the rule of an operation that holds or names code.

    It takes the sweep, the operation and the cotangents of its results, and adds those of what the operation reads.
    """

    def add(function: _Function) -> _Function:
        _REGION_RULES[cls] = function
        return function

    return add


class Reverse:
    """One backward sweep: `terms` inserts behind the operations that are swept.

    Attributes:
        active: values that depend on what is differentiated by.
    """

    def __init__(self, inliner: Inliner, terms: Terms, sources: Iterable[Value]) -> None:
        self.inliner, self.terms = inliner, terms
        self.active: set[Value] = set(sources)
        self._cotangents: dict[Value, Value] = {}
        self._replaced: dict[Value, Value] = {}

    # -- before the sweep ----------------------------------------------------------------------
    def follow(self, operations: Iterable[Operation]) -> list[Operation]:
        """Find the active values; returns the operations that make them, composites replaced by their bodies."""
        followed: list[Operation] = []
        for op in operations:
            if isinstance(op, StopGradient) or not any(v in self.active for o in op.walk() for v in o.operands):
                continue
            if isinstance(op, Composite):
                if not has_derivative(op, self.active):
                    followed += self.follow(self._opened(op))
                    continue
                kept = Builder(before=op).insert(with_log_sums(op))
                self.replace(op, kept.results[:1])
                op = kept
            results = [r for r in op.results if r.type.dtype.is_float]
            if results:
                self.active.update(results)
                followed.append(op)
        return followed

    def _opened(self, op: Composite) -> list[Operation]:
        """The body of a composite in its place."""
        builder = Builder(before=op)
        mapping: dict[Value, Value] = dict(zip(op.body.block.arguments, op.inputs, strict=True))
        copies: list[Operation] = []
        for nested in op.body.block:
            if not isinstance(nested, Yield):
                copies.append(builder.insert(nested.clone(mapping)))
        self.replace(op, [mapping[v] for v in op.body.block.terminator.operands])
        return copies

    def replace(self, op: Operation, values: Sequence[Value]) -> None:
        """Let `values` take the place of an operation's results."""
        self._replaced.update(zip(op.results, values, strict=True))
        op.replace_with(*values)

    def current(self, value: Value) -> Value:
        """What has taken the place of `value`, if something has."""
        while value in self._replaced:
            value = self._replaced[value]
        return value

    # -- cotangents ----------------------------------------------------------------------------
    def add(self, value: Value, cotangent: Value | None) -> None:
        """Add to the cotangent of a value, if it is active."""
        if cotangent is None or value not in self.active:
            return
        cotangent = fitted(self.terms, cotangent, value.type)
        before = self._cotangents.get(value)
        if before is not None:
            joined = _side_by_side(self.terms, before, cotangent) or _side_by_side(self.terms, cotangent, before)
            cotangent = joined or self.terms.add(before, cotangent)
        self._cotangents[value] = cotangent

    def found(self, value: Value) -> Value | None:
        """The cotangent of a value; None for zero."""
        return self._cotangents.get(value)

    def cotangent(self, value: Value) -> Value:
        """The cotangent of a value."""
        found = self.found(value)
        return self.terms.zeros(value.type) if found is None else found

    # -- the sweep -----------------------------------------------------------------------------
    def sweep(self, operations: Sequence[Operation]) -> None:
        """Add the cotangents of what `operations` read, last first.

        Raises:
            CompileError: one of them has no derivative.
        """
        spans = Spans(operations, self.active)
        done: set[Operation] = set()
        for op in reversed(operations):
            cotangents = [self.found(r) for r in op.results]
            if op in done or all(c is None for c in cotangents):
                continue
            span = spans.ending_at(op)
            with self.terms.at(op.location):
                if span is None or any(self.found(m.results[0]) for m in span.members[:-1]):
                    self._visit(op, cotangents)
                else:
                    done.update(span.members)
                    self._visit_span(span)

    def _visit_span(self, span: Span) -> None:
        result = span.members[-1].results[0]
        inside = Reverse(self.inliner, self.terms, [span.entry])
        members = inside.follow(span.members)
        inside.add(result, self.terms.full(result.type, 1))
        for op in reversed(members):
            with self.terms.at(op.location):
                inside._visit(op, [inside.found(op.results[0])])
        self.add(span.entry, self.terms.mul(self.cotangent(result), inside.cotangent(span.entry)))

    def _visit(self, op: Operation, cotangents: Sequence[Value | None]) -> None:
        in_regions = _REGION_RULES.get(type(op))
        if in_regions is not None:
            in_regions(self, op, cotangents)
            return
        if isinstance(op, Composite):
            self._visit_attention(op, cotangents[0])
            return
        rule = rule_of(type(op))
        if rule is None:
            raise op.error("has no derivative")
        (g,) = (c for c in cotangents if c is not None)
        for operand, cotangent in zip(op.operands, rule(self.terms, op, g), strict=True):
            self.add(operand, cotangent)

    def _visit_attention(self, op: Composite, g: Value | None) -> None:
        assert g is not None  # the logarithms of sums are read by derivatives alone
        inputs: dict[Value, Value] = dict(zip(op.body.block.arguments, op.inputs, strict=True))
        result, log_sums = op.results
        gradient = attention_gradient(self.terms, op, op.inputs, (result, log_sums), g)
        for operand, cotangent in zip(Attention.of(op.body.block).operands, gradient, strict=True):
            self.add(inputs[operand], cotangent)


def _side_by_side(terms: Terms, low: Value, high: Value) -> Value | None:
    """The sum of cotangents of two neighbouring slices, each with zeros around it: one beside the other."""
    first, second = low.defining_op, high.defining_op
    if not (isinstance(first, Pad) and isinstance(second, Pad) and splat(first.value) == splat(second.value) == 0):
        return None
    widths = zip(first.low, first.high, second.low, second.high, strict=True)
    padded = [axis for axis, four in enumerate(widths) if any(w != 0 for w in four)]
    if len(padded) != 1:
        return None
    (axis,) = padded
    if first.low[axis] + first.operand.type.shape[axis] != second.low[axis]:
        return None
    return terms.pad(terms.concat([first.operand, second.operand], axis), first.low, second.high)
