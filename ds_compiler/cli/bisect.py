"""Finding the first operation that is compiled wrong.

The interpreter computes every value of the imported module. A value is *wrong* if a program compiled to
compute just this value disagrees. Starting from a wrong output, a binary search over the operations that it
depends on, in program order, finds a wrong value whose predecessor in that order is right. Values of parallel
branches stand in that order too, so its operands may still be wrong: then the search goes on among the
operations that such an operand depends on. It ends at a wrong value whose operands are all right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ds_compiler.cli.compare import Difference, compare

if TYPE_CHECKING:
    from ds_compiler.ir import Module, Operation, Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Finding:
    """What the search found; `operation` is None if every operation alone is right."""

    operation: str | None
    nodes: tuple[str, ...]
    kind: str
    text_form: str
    difference: Difference | None
    compilations: int

    def text(self) -> str:
        """For people."""
        if self.operation is None:
            return "bisect: every operation is right when compiled alone; the error appears where they are fused"
        assert self.difference is not None
        place = f" at node {', '.join(map(repr, self.nodes))}" if self.nodes else ""
        kind = f" ({self.kind})" if self.kind else ""
        worst = self.difference
        at = list(worst.at)
        what = worst.problem or f"error {worst.absolute:.3g}, relative {worst.relative:.3g} at {at}"
        return (
            f"bisect: the first wrong operation is {self.operation}{place}{kind}\n"
            f"  {self.text_form}\n  {what}; its operands are right ({self.compilations} compilations)"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "operation": self.operation,
            "nodes": list(self.nodes),
            "kind": self.kind,
            "text": self.text_form,
            "difference": None if self.difference is None else self.difference.as_json(),
            "compilations": self.compilations,
        }


def find_first_wrong(
    module: Module,
    feeds: Mapping[str, Array],
    *,
    threads: int | None = None,
    rtol: float | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Finding:
    """Search `module`, which no pass has changed yet, on inputs by name.

    Raises:
        CompileError: the interpreter rejects the module or the inputs.
    """
    search = _Search(module, feeds, threads, rtol, say)
    found = search.run()
    if found is None:
        return Finding(None, (), "", "", None, search.compilations)
    from ds_compiler.ir.printer import FunctionText

    printed = FunctionText(module.main)
    line = printed.lines[printed.operations[found].line].strip()
    return Finding(
        found.mnemonic, found.location.names, found.location.kind, line, search.worst(found), search.compilations
    )


class _Search:
    def __init__(
        self,
        module: Module,
        feeds: Mapping[str, Array],
        threads: int | None,
        rtol: float | None,
        say: Callable[[str], None],
    ) -> None:
        from ds_compiler.reference import interpret

        self.module, self.feeds, self.threads, self.rtol, self.say = module, feeds, threads, rtol, say
        self.order = {operation: index for index, operation in enumerate(module.main.block)}
        self.expected: dict[Value, Array] = {}
        self.compilations = 0
        self._judged: dict[Operation, Difference | None] = {}

        def keep(operation: Operation, results: Any) -> None:
            if operation in self.order:
                self.expected.update(zip(operation.results, results))

        interpret(module, feeds, trace=keep)

    def run(self) -> Operation | None:
        returned = [value.defining_op for value in self.module.main.block.terminator.operands]
        wrong = next((op for op in returned if op is not None and self.is_wrong(op)), None)
        while wrong is not None:
            first = self._first_wrong(self._slice(wrong))
            operands = [op for op in self._reads(first) if self.is_wrong(op)]
            if not operands:
                return first
            wrong = operands[0]
        return None

    def _first_wrong(self, slice_: list[Operation]) -> Operation:
        """Binary search: the last of `slice_` is wrong."""
        right, wrong = -1, len(slice_) - 1
        while wrong - right > 1:
            middle = (right + wrong) // 2
            self.say(f"bisecting: {wrong - right} operations left")
            right, wrong = (right, middle) if self.is_wrong(slice_[middle]) else (middle, wrong)
        return slice_[wrong]

    def _reads(self, operation: Operation) -> list[Operation]:
        """Top-level operations whose results `operation` (or its regions) reads, in program order."""
        read = {value.defining_op for nested in operation.walk() for value in nested.operands} - {None, operation}
        return sorted((op for op in read if op is not None and op in self.order), key=self.order.__getitem__)

    def _slice(self, operation: Operation) -> list[Operation]:
        """`operation` and what it depends on, in program order."""
        found, stack = {operation}, [operation]
        while stack:
            for op in self._reads(stack.pop()):
                if op not in found:
                    found.add(op)
                    stack.append(op)
        return sorted(found, key=self.order.__getitem__)

    def is_wrong(self, operation: Operation) -> bool:
        difference = self.worst(operation)
        return difference is not None and not difference.passed

    def worst(self, operation: Operation) -> Difference | None:
        """The worst difference among the results of a program that computes just `operation`; None: no results."""
        if operation not in self._judged:
            self._judged[operation] = self._judge(operation)
        return self._judged[operation]

    def _judge(self, operation: Operation) -> Difference | None:
        from ds_compiler.ops import Constant

        if not operation.results or isinstance(operation, Constant):
            return None
        import ds_compiler as ds

        self.compilations += 1
        names = [f"result{index}" for index in range(len(operation.results))]
        program = ds.compile(
            with_outputs(self.module, list(operation.results), names), threads=self.threads, cache=False
        )
        needed = {spec.name for spec in program.inputs}
        results = program({name: array for name, array in self.feeds.items() if name in needed})
        differences = [
            compare(name, results[name], np.asarray(self.expected[value]), self.rtol)
            for name, value in zip(names, operation.results)
        ]
        return max(differences, key=lambda difference: (not difference.passed, difference.relative))


def with_outputs(module: Module, values: list[Value], names: list[str]) -> Module:
    """A copy of `module` whose main function returns `values` of the original's top level, called `names`."""
    from ds_compiler.ir import Function, Module
    from ds_compiler.ops import Return

    mapping: dict[Value, Value] = {}
    body = module.main.body.clone(mapping)
    terminator = body.block.terminator
    terminator.drop()
    body.block.append(Return(tuple(mapping.get(value, value) for value in values)))
    others = [function.clone() for name, function in module.functions.items() if name != "main"]
    return Module([Function("main", body, names), *others], module.metadata)
