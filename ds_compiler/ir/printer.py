"""Modules as text, one operation a line; `ds_compiler.ir.parser` reads it back.

    func @main(%x: tensor<batch x 4 x f32>) -> (y: tensor<batch x 4 x f32>) {
      %zero = constant 0.0 : tensor<f32>
      %0 = broadcast %zero shape=[batch, 4] axes=[] : tensor<batch x 4 x f32>  // relu_3 (Relu)
      %y = max %x, %0 : tensor<batch x 4 x f32>  // relu_3 (Relu)
      return %y
    }

Names come from the values' hints, made unique in their function; values without one are numbered. Attributes
that have their default value are left out. Names that are not plain words are quoted (``%"input 1"``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ds_compiler.ir import dtypes
from ds_compiler.ir.block import Block, Region
from ds_compiler.ir.dims import Expr, symbols_of
from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.lexer import quote, write_location, write_name
from ds_compiler.ir.literals import Array, save_constants, write_array
from ds_compiler.ir.module import Function, Module
from ds_compiler.ir.operation import Field, Operation
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import Value

RESERVED_WORDS = frozenset({"true", "false", "none", "nan", "inf", "tensor", "array", "dim", *dtypes.names()})


def print_module(module: Module, constants: dict[str, Array] | None = None) -> str:
    """Text of `module`. Constants of more than 16 elements are written as ``@hash`` and put into `constants`."""
    parts = [f"meta {quote(key)} = {quote(value)}\n" for key, value in module.metadata.items()]
    parts += [print_function(f, constants) for f in module.functions.values()]
    head = "".join(parts[: len(module.metadata)])
    return "\n".join(([head] if head else []) + parts[len(module.metadata) :])


def print_function(function: Function, constants: dict[str, Array] | None = None) -> str:
    """Text of one function."""
    return FunctionText(function, constants).text


def save_module(module: Module, path: Path) -> None:
    """Write the text to `path` and its large constants to ``path.safetensors``."""
    constants: dict[str, Array] = {}
    text = print_module(module, constants)
    save_constants(path, constants)
    path.write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a printed line."""

    line: int
    column: int
    length: int


@dataclass
class FunctionText:
    """A printed function that knows where each operation and operand stands. Prints broken IR too.

    Attributes:
        lines: the text.
        names: every value's name, without ``%``.
        operations: where each operation's mnemonic stands.
        operands: where each operand stands, by operation and index.
    """

    function: Function
    constants: dict[str, Array] | None = None
    lines: list[str] = field(default_factory=list)
    names: dict[Value, str] = field(default_factory=dict)
    operations: dict[Operation, Span] = field(default_factory=dict)
    operands: dict[tuple[Operation, int], Span] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._taken: set[str] = set()
        self._suffix: dict[str, int] = {}
        self._numbered = 0
        self._write_function()

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    # -- names ---------------------------------------------------------------------------------
    def name(self, value: Value) -> str:
        """How text calls `value`, with its ``%``."""
        name = self.names.get(value)
        if name is None:
            name = self.names[value] = self._new_name(value.hint)
        return f"%{name}"

    def _new_name(self, hint: str) -> str:
        if not hint:
            self._numbered += 1
            return str(self._numbered - 1)
        name, count = hint, self._suffix.get(hint, 0)
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._suffix[hint] = count
        self._taken.add(name)
        return write_name(name)

    # -- structure -----------------------------------------------------------------------------
    def _write_function(self) -> None:
        function = self.function
        block = function.body.blocks[0] if function.body.blocks else Block()
        returned = block.last.operands if block.last is not None and block.last.is_terminator else ()
        results = [
            ("" if name is None else f"{write_name(name)}: ") + ("?" if value is None else str(value.type))
            for name, value in zip_longest(function.result_names, returned)
        ]
        self.lines.append(f"func @{write_name(function.name)}({self._arguments(block)}) -> ({', '.join(results)}) {{")
        self._write_blocks(function.body, 1)
        self.lines.append("}")

    def _arguments(self, block: Block) -> str:
        return ", ".join(f"{self.name(a)}: {a.type}" for a in block.arguments)

    def _write_blocks(self, region: Region, depth: int) -> None:
        for block in region.blocks:
            for operation in block:
                self._write_operation(operation, depth)

    def _write_operation(self, op: Operation, depth: int) -> None:
        line = "  " * depth
        operands = self._operand_texts(op)  # before the results: a value read too early keeps a name of its own
        if op.results:
            line += ", ".join(self.name(r) for r in op.results) + " = "
        number = len(self.lines)
        self.operations[op] = Span(number, len(line), len(op.mnemonic))
        line += op.mnemonic
        for position, (text, index) in enumerate(operands):
            line += " " if position == 0 else "" if text == "]" or line.endswith("[") else ", "
            if index is not None:
                self.operands[op, index] = Span(number, len(line), len(text))
            line += text
        line += "".join(self._attribute(op, f) for f in op.fields if f.role == "attribute")
        if op.results:
            line += f" : {', '.join(str(r.type) for r in op.results)}"
        location = f"  // {write_location(op.location)}" if op.location.names or op.location.kind else ""
        if not op.regions:
            self.lines.append(line + location)
            return
        names = [f.name for f in op.fields if f.role == "region"]
        for index, (name, region) in enumerate(zip(names, op.regions, strict=True)):
            arguments = self._arguments(region.blocks[0]) if region.blocks else ""
            line += f" {name}{f'({arguments})' if arguments else ''} {{"
            self.lines.append(line + (location if index == 0 else ""))
            self._write_blocks(region, depth + 1)
            line = "  " * depth + "}"
        self.lines.append(line)

    def _operand_texts(self, op: Operation) -> list[tuple[str, int | None]]:
        """Operands with their index; brackets around a variadic one unless it is the only operand field."""
        fields = [f for f in op.fields if f.role in ("operand", "optional", "variadic")]
        texts: list[tuple[str, int | None]] = []
        for f in fields:
            start, count = op._segments[f.name]
            items: list[tuple[str, int | None]] = [(self.name(op.operands[i]), i) for i in range(start, start + count)]
            if f.role == "variadic" and len(fields) > 1:
                items = [("[", None), *items, ("]", None)]
            elif f.role == "optional" and not items:
                items = [("none", None)]
            texts += items
        return texts

    # -- attributes ----------------------------------------------------------------------------
    def _attribute(self, op: Operation, f: Field) -> str:
        value = op.attributes[f.name]
        if isinstance(value, np.ndarray) and op.name == "constant":
            return f" {write_array(value, op.results[0].type, self.constants)}"
        if (op.has_kinds and f.name == "kind") or (not f.required and _same(value, f.default)):
            return ""
        return f" {f.name}={write_value(value, self.constants)}"


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not isinstance(value, np.ndarray) and bool(value == default)


def write_value(value: Any, constants: dict[str, Array] | None = None) -> str:
    """An attribute's value.

    Raises:
        TypeError: text has no form for it.
    """
    match value:
        case None:
            return "none"
        case bool() | np.bool_():
            return "true" if value else "false"
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            return repr(float(value))
        case str():
            return quote(value)
        case DType() | TensorType():
            return str(value)
        case Expr():
            return f"dim({value})" if symbols_of(value) & RESERVED_WORDS else str(value)
        case np.ndarray():
            type_ = TensorType(value.shape, dtypes.from_numpy(value.dtype))
            return f"array({type_} {write_array(value, type_, constants)})"
        case tuple() | list():
            return f"[{', '.join(write_value(v, constants) for v in value)}]"
        case Mapping():
            raise TypeError("attributes are immutable: a mapping is written as a tuple of pairs")
    raise TypeError(f"IR text has no form for the attribute value {value!r}")
