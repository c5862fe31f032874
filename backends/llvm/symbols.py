"""Values of symbolic sizes in generated code: the entry's are loaded once, others when the program binds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.ir import Function
from ds_compiler.ir.dims import Expr, symbol, symbols_of
from ds_compiler.ir.errors import CompileError
from ds_compiler.runtime.manifest import Symbol


class SymbolTable(Mapping[str, V]):
    """i64 values by name; symbols that the program binds are variables, since loops bind them again."""

    def __init__(self, fb: FunctionBuilder, table: V, symbols: Iterable[Symbol]) -> None:
        self._fb = fb
        self._table = table
        self._values: dict[str, V] = {}
        self._variables: dict[str, V] = {}
        self._slots: dict[str, int] = {}
        for index, entry in enumerate(symbols):
            self._slots[entry.name] = index
            if entry.input is None:
                self._variables[entry.name] = fb.alloca("i64", 1, align=8)
                fb.store(fb.i64(0), self._variables[entry.name])
            else:
                self._values[entry.name] = fb.load("i64", fb.gep("i64", table, fb.i64(index)))

    def slot(self, name: str) -> V:
        """Address of the symbol in the table that the runtime reads after the call."""
        return self._fb.gep("i64", self._table, self._fb.i64(self._slots[name]))

    def bind(self, name: str, value: V) -> None:
        """From here on, `name` is `value` for this task."""
        self._fb.store(value, self._variables[name])

    def __getitem__(self, name: str) -> V:
        if name in self._values:
            return self._values[name]
        return self._fb.load("i64", self._variables[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


def program_symbols(function: Function, bound: Iterable[str]) -> tuple[Symbol, ...]:
    """The symbols of a program: those that inputs declare, by the axis that tells them, then those it binds itself.

    Raises:
        CompileError: an input's size is an expression of a symbol that no axis of an input states by itself.
    """
    found: dict[str, Symbol] = {}
    used: dict[str, str] = {}
    for index, argument in enumerate(function.arguments):
        for axis, dim in enumerate(argument.type.shape):
            for name in symbols_of(dim):
                used.setdefault(name, f"input '{argument.hint or index}' has the size '{dim}' on axis {axis}")
                if isinstance(dim, Expr) and dim == symbol(name):
                    found.setdefault(name, Symbol(name, index, axis))
    for name, where in used.items():
        if name not in found:
            raise CompileError(f"{where}, but no input has an axis of size '{name}'")
    return (*found.values(), *(Symbol(name) for name in sorted(set(bound))))
