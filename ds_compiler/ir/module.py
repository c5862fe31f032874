"""Functions and modules: a whole program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ds_compiler.ir.block import Block, Region
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import BlockArgument


class Function:
    """A named region with declared argument and result names; its block ends in ``return``."""

    def __init__(self, name: str, body: Region, result_names: Sequence[str] = ()) -> None:
        self.name = name
        self.body = body
        self.result_names = list(result_names)
        body.parent = self

    @property
    def block(self) -> Block:
        return self.body.block

    @property
    def arguments(self) -> list[BlockArgument]:
        return self.block.arguments

    @property
    def result_types(self) -> list[TensorType]:
        return [o.type for o in self.block.terminator.operands]

    def walk(self) -> Iterator[Operation]:
        """All operations, outer first."""
        return self.body.walk()

    def clone(self) -> Function:
        return Function(self.name, self.body.clone({}), self.result_names)


class Module:
    """Functions by name; ``main`` is the program's entry."""

    def __init__(self, functions: Iterable[Function] = (), metadata: Mapping[str, str] | None = None) -> None:
        self.functions: dict[str, Function] = {f.name: f for f in functions}
        self.metadata: dict[str, str] = dict(metadata or {})

    @property
    def main(self) -> Function:
        return self.functions["main"]

    def add(self, function: Function) -> Function:
        if function.name in self.functions:
            raise ValueError(f"function '{function.name}' is defined twice")
        self.functions[function.name] = function
        return function

    def walk(self) -> Iterator[Operation]:
        for function in self.functions.values():
            yield from function.walk()

    def clone(self) -> Module:
        return Module([f.clone() for f in self.functions.values()], self.metadata)
