"""Local rewrites: patterns match on one root operation, and one worklist driver applies them until none fires.

    pattern = PatternSet("canonicalize")

    @pattern(Unary)
    def double_negation(op: Unary, builder: Builder) -> Value | None: ...

A pattern returns what replaces the root's results, or None. It may insert operations through `builder`
(which stands in front of the root); what it inserted in vain is taken out again. A pattern never changes
operations in place, so the driver sees every change. Order is deterministic: operations in program order,
patterns in order of registration.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from ds_compiler.ir import Builder, CompileError, Module, Operation, Value
from ds_compiler.passes import remarks

Rewrite: TypeAlias = "Value | Sequence[Value] | None"
_T = TypeVar("_T", bound=Operation)
_Pattern = TypeVar("_Pattern", bound=Callable[[Any, Builder], Rewrite])


class PatternSet:
    """Patterns by root operation class; call it to register one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.by_root: dict[type[Operation], list[Callable[[Any, Builder], Rewrite]]] = {}

    def __call__(self, *roots: type[Operation]) -> Callable[[_Pattern], _Pattern]:
        """Register a function as a pattern for operations of the classes `roots`."""

        def add(function: _Pattern) -> _Pattern:
            for root in roots:
                self.by_root.setdefault(root, []).append(function)
            return function

        return add


class _Recorder(Builder):
    """A builder that remembers what it inserted."""

    def __init__(self, before: Operation) -> None:
        super().__init__(before=before, location=before.location)
        self.inserted: list[Operation] = []

    def insert(self, operation: _T) -> _T:
        super().insert(operation)
        self.inserted.extend(operation.walk())
        return operation


class _Worklist:
    """First in, first out, each operation once."""

    def __init__(self) -> None:
        self._queue: deque[Operation] = deque()
        self._members: set[Operation] = set()

    def push(self, op: Operation | None) -> None:
        if op is not None and op not in self._members:
            self._members.add(op)
            self._queue.append(op)

    def pop(self) -> Operation | None:
        if not self._queue:
            return None
        op = self._queue.popleft()
        self._members.discard(op)
        return op


def is_dead(op: Operation) -> bool:
    """Nobody reads a result and nothing else depends on the operation's being there."""
    if op.is_terminator or op.has_side_effects or any(r.uses for r in op.results):
        return False
    return not any(nested.has_side_effects for region in op.regions for nested in region.walk())


def rewrite(module: Module, patterns: PatternSet) -> Counter[str]:
    """Apply `patterns` until none fires; returns how often each did.

    Raises:
        CompileError: patterns undo each other's work (the most frequent one is named), or a pattern changed a type.
    """
    fired: Counter[str] = Counter()
    work = _Worklist()
    for operation in module.walk():
        work.push(operation)
    budget = 10_000 + 200 * len(work._queue)
    while (op := work.pop()) is not None:
        if op.parent is None:
            continue
        if is_dead(op):
            _remove(op, work)
            continue
        for function in patterns.by_root.get(type(op), ()):
            builder = _Recorder(op)
            replacement = function(op, builder)
            if replacement is None:
                for inserted in reversed(builder.inserted):
                    inserted.drop()
                continue
            for inserted in builder.inserted:
                work.push(inserted)
            fired[function.__name__] += 1
            _replace(op, function.__name__, (replacement,) if isinstance(replacement, Value) else replacement, work)
            break
        if fired.total() > budget:
            name, times = fired.most_common(1)[0]
            raise CompileError(
                f"the patterns of '{patterns.name}' do not come to an end; '{name}' fired {times} times",
                location=op.location,
            )
    for name, times in fired.items():
        remarks.count(f"{patterns.name}.{name}", times)
    return fired


def _replace(op: Operation, pattern: str, values: Sequence[Value], work: _Worklist) -> None:
    for result, value in zip(op.results, values, strict=True):
        if result.type != value.type:
            raise CompileError(
                f"pattern '{pattern}' replaces {op.mnemonic} of type {result.type} by a value of type {value.type}",
                location=op.location,
            )
        for user in result.users:
            work.push(user)
        work.push(value.defining_op)
        if not value.hint:
            value.hint = result.hint
        result.replace_all_uses_with(value)
    _remove(op, work)


def _remove(op: Operation, work: _Worklist) -> None:
    operands = dict.fromkeys(v for nested in op.walk() for v in nested.operands)
    op.erase()
    for value in operands:
        work.push(value.defining_op)
        if len(value.uses) == 1:  # patterns that ask for a single reader
            for user in value.users:
                work.push(user)
