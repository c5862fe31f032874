"""Blocks, loops and branches of a function under construction: the part of `FunctionBuilder` that places labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ds_compiler.backends.llvm.values import V

if TYPE_CHECKING:
    from ds_compiler.backends.llvm.builder import ModuleBuilder


@dataclass
class Loop:
    """A counted loop under construction; see `FunctionBuilder.loop`."""

    index: V
    carried: list[V]
    results: list[V] = field(default_factory=list)
    _next: list[V] | None = None

    def carry(self, *values: V) -> None:
        """Give the next iteration's values of `carried` (call once, at the end of the body)."""
        self._next = list(values)


class BlockBuilder:
    """Lines of a function's body, block by block."""

    def __init__(
        self,
        module: ModuleBuilder,
        name: str,
        parameters: Sequence[tuple[str, str]],
        result: str,
        *,
        internal: bool,
        attributes: str,
    ) -> None:
        self.module, self.name, self._result = module, name, result
        self._internal, self._attributes = internal, attributes
        self._parameters = list(parameters)
        self.args: list[V] = [V(t.split(" ")[0] if not t.startswith("<") else t, f"%{n}") for t, n in parameters]
        self._lines: list[str] = []
        self._entry: list[str] = []
        self._counter = 0
        self._block = "entry"

    # -- plumbing -----------------------------------------------------------------------------
    def _name(self) -> str:
        self._counter += 1
        return f"%v{self._counter}"

    def _label(self, hint: str) -> str:
        self._counter += 1
        return f"{hint}{self._counter}"

    def emit(self, type_: str, text: str) -> V:
        """Append ``%n = text`` and return its result of type `type_`."""
        name = self._name()
        self._lines.append(f"  {name} = {text}")
        return V(type_, name)

    def void(self, text: str) -> None:
        """Append an instruction without a result."""
        self._lines.append(f"  {text}")

    def comment(self, text: str) -> None:
        """Append a comment line (for people reading ``--emit ir``)."""
        self._lines.append(f"  ; {' '.join(text.splitlines())}")

    def _start_block(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    @property
    def block(self) -> str:
        """Label of the block being filled."""
        return self._block

    def label(self, hint: str) -> str:
        """A new block's label, for control flow that the structured helpers do not cover; see `place`."""
        return self._label(hint)

    def place(self, label: str) -> None:
        """Start filling block `label`; the block before it must have ended in a branch."""
        self._start_block(label)

    def finish(self) -> None:
        """Close the function and add it to the module. `ret` must have been emitted."""
        parameters = ", ".join(f"{t} %{n}" for t, n in self._parameters)
        linkage = "internal " if self._internal else ""
        body = "\n".join(["entry:", *self._entry, *self._lines])
        self.module.functions[self.name] = (
            f"define {linkage}{self._result} @{self.name}({parameters}) {self._attributes} {{\n{body}\n}}"
        )

    @contextmanager
    def loop(
        self, start: V, stop: V, step: V | int = 1, carried: Sequence[V] = (), hint: str = "loop"
    ) -> Iterator[Loop]:
        """``for index in range(start, stop, step)`` with loop-carried values; step > 0.

        with b.loop(b.i64(0), n, carried=[zero]) as loop:
            x = b.load("float", b.gep("float", p, loop.index))
            loop.carry(b.fadd(loop.carried[0], x))
        total = loop.results[0]
        """
        step_v = V("i64", str(step)) if isinstance(step, int) else step
        before, head, body, exit_ = self._block, *(self._label(f"{hint}.{p}") for p in ("head", "body", "exit"))
        self.void(f"br label %{head}")
        self._start_block(head)
        index = V("i64", self._name())
        phis = [V(c.type, self._name()) for c in carried]
        patch = len(self._lines)
        self._lines.extend([""] * (1 + len(phis)))
        condition = self.emit("i1", f"icmp slt {index}, {stop.ref}")
        self.void(f"br i1 {condition.ref}, label %{body}, label %{exit_}")
        self._start_block(body)
        loop = Loop(index, phis)
        yield loop
        following = loop._next if loop._next is not None else []
        if len(following) != len(phis):
            raise ValueError(f"loop carries {len(phis)} values, {len(following)} given")
        next_index = self.emit("i64", f"add nsw {index}, {step_v.ref}")
        latch = self._block
        self.void(f"br label %{head}")
        pairs = [(index, start, next_index), *zip(phis, carried, following)]
        for offset, (phi, first, later) in enumerate(pairs):
            self._lines[patch + offset] = (
                f"  {phi.ref} = phi {phi.type} [ {first.ref}, %{before} ], [ {later.ref}, %{latch} ]"
            )
        loop.results = list(phis)
        self._start_block(exit_)

    @contextmanager
    def if_(self, condition: V, hint: str = "if") -> Iterator[None]:
        """Run the body when `condition` (i1) is true; defines no values."""
        then, done = self._label(f"{hint}.then"), self._label(f"{hint}.done")
        self.void(f"br i1 {condition.ref}, label %{then}, label %{done}")
        self._start_block(then)
        yield
        self.void(f"br label %{done}")
        self._start_block(done)

    def if_else(self, condition: V) -> Branches:
        """Two-way branch with values; see `Branches`."""
        return Branches(self, condition)


class Branches:
    """``if``/``else`` that yields values.

    branches = b.if_else(condition)
    with branches.then():
        branches.give(x)
    with branches.otherwise():
        branches.give(y)
    (result,) = branches.results()
    """

    def __init__(self, builder: BlockBuilder, condition: V) -> None:
        self._b = builder
        self._then, self._else, self._done = (builder._label(f"br.{p}") for p in ("then", "else", "done"))
        builder.void(f"br i1 {condition.ref}, label %{self._then}, label %{self._else}")
        self._given: list[tuple[list[V], str]] = []
        self._current: list[V] = []

    def give(self, *values: V) -> None:
        """The values of this arm."""
        self._current = list(values)

    @contextmanager
    def _arm(self, label: str) -> Iterator[None]:
        self._b._start_block(label)
        self._current = []
        yield
        self._given.append((self._current, self._b.block))
        self._b.void(f"br label %{self._done}")

    def then(self) -> AbstractContextManager[None]:
        return self._arm(self._then)

    def otherwise(self) -> AbstractContextManager[None]:
        return self._arm(self._else)

    def results(self) -> list[V]:
        """Merge both arms (call after them); one phi a value."""
        self._b._start_block(self._done)
        (first, first_block), (second, second_block) = self._given
        return [
            self._b.emit(x.type, f"phi {x.type} [ {x.ref}, %{first_block} ], [ {y.ref}, %{second_block} ]")
            for x, y in zip(first, second, strict=True)
        ]
