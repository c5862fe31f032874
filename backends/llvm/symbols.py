"""Values of symbolic sizes in generated code: the entry's are loaded once, others when the program binds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ds_compiler.backends.checks import SizeCheck
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.sizes import emit_size
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


def emit_check(fb: FunctionBuilder, check: SizeCheck, symbols: SymbolTable) -> V:
    """Whether the check holds, as i1."""
    value = emit_size(fb, check.value, symbols)
    return fb.icmp("eq" if check.zero else "sge", value, fb.i64(0))
