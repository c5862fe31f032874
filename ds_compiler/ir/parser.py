"""Text of `ds_compiler.ir.printer` back into modules.

Operations are built by their classes, which infer the result types; types that the text states are compared with
those. Errors are `CompileError` with line and column, the line of text, and a caret below it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds_compiler.ir import dtypes
from ds_compiler.ir.block import Block, Region
from ds_compiler.ir.declaration import operation_class, operation_names
from ds_compiler.ir.dim_text import parse_dim
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.lexer import Lexer
from ds_compiler.ir.literals import Array, load_constants, read_array
from ds_compiler.ir.location import Location
from ds_compiler.ir.module import Function, Module
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import Value

_TYPE = re.compile(r"tensor<([^<>\n]*)>")
_ATTRIBUTE = re.compile(r"([^\W\d]\w*)=")
_RESULT_NAME = re.compile(r'(?:"(?:[^"\\\n]|\\.)*"|/?[^\W\d][\w./-]*)\s*:')
_WORD = re.compile(r"[^\W\d]\w*")
_LITERAL = re.compile(r'(?:"(?:[^"\\\n]|\\.)*"|[^":\n])*')
_FLOAT = re.compile(r"-?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|inf\b|nan\b)")
_WORD_VALUES: dict[str, Any] = {"none": None, "true": True, "false": False}


def parse_module(text: str, constants: Mapping[str, Array] | None = None, *, source: str = "") -> Module:
    """The module that `text` describes.

    Args:
        constants: arrays by content hash, for constants written as ``@hash``.
        source: the file's name, for errors.

    Raises:
        CompileError: the text is malformed, an operation does not fit its operands, a stated type differs from the
            inferred one, or a constant is missing or differs from its hash.
    """
    import ds_compiler.ops  # noqa: F401  (registers the operation classes)

    return _Parser(Lexer(text, source), constants).module()


def load_module(path: Path) -> Module:
    """The module in the IR text file `path`, its large constants from ``path.safetensors``.

    Raises:
        CompileError: the file cannot be read, or as `parse_module`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"'{path}' cannot be read as IR text: {error}") from None
    return parse_module(text, load_constants(path), source=path.name)


class _Parser:
    def __init__(self, lexer: Lexer, constants: Mapping[str, Array] | None) -> None:
        self.lexer, self.constants = lexer, constants
        self.scope: dict[tuple[str, bool], Value] = {}
        self.defined: set[tuple[str, bool]] = set()

    # -- structure -----------------------------------------------------------------------------
    def module(self) -> Module:
        lexer, module = self.lexer, Module()
        while lexer.accept("meta "):
            key = lexer.string()
            lexer.expect("=")
            module.metadata[key] = lexer.string()
        while not lexer.at_end():
            start = lexer.position
            function = self.function()
            if function.name in module.functions:
                lexer.fail(f"function '{function.name}' is defined twice", at=start)
            module.add(function)
        return module

    def function(self) -> Function:
        lexer = self.lexer
        self.scope, self.defined = {}, set()
        if not lexer.accept("func "):
            lexer.fail("expected 'func'")
        lexer.expect("@")
        name = lexer.name("a function's name")
        block = Block()
        self.arguments(block)
        lexer.expect("->")
        lexer.skip()
        results_at = lexer.position
        names, types = self.result_list()
        lexer.expect("{")
        self.operations(block)
        function = Function(name, Region(block), names)
        if block.last is None or not block.last.is_terminator:
            lexer.fail(f"function '{name}' does not end in a return")
        lexer.expect("}")
        if function.result_types != types:
            lexer.fail(f"function '{name}' returns {_listed(function.result_types)}", at=results_at)
        return function

    def result_list(self) -> tuple[list[str], list[TensorType]]:
        lexer = self.lexer
        names: list[str] = []
        types: list[TensorType] = []
        lexer.expect("(")
        while not lexer.at(")"):
            if lexer.at_pattern(_RESULT_NAME):
                names.append(lexer.name("a result's name"))
                lexer.expect(":")
            types.append(self.type())
            if not lexer.accept(","):
                break
        lexer.expect(")")
        if names and len(names) != len(types):
            lexer.fail("either all results have names or none has")
        return names, types

    def arguments(self, block: Block) -> None:
        lexer = self.lexer
        lexer.expect("(")
        while not lexer.at(")"):
            key = self.new_name()
            lexer.expect(":")
            self.define(key, block.add_argument(self.type()))
            if not lexer.accept(","):
                break
        lexer.expect(")")

    def operations(self, block: Block) -> None:
        lexer = self.lexer
        while not lexer.at("}") and not lexer.at_end():
            lexer.skip()
            if block.last is not None and block.last.is_terminator:
                lexer.fail(f"nothing follows a {block.last.mnemonic}")
            block.append(self.operation())

    # -- names ---------------------------------------------------------------------------------
    def new_name(self) -> tuple[str, bool]:
        self.lexer.skip()
        start = self.lexer.position
        key = self.lexer.value_name()
        if key in self.defined:
            self.lexer.fail(f"%{key[0]} is defined twice", at=start)
        self.defined.add(key)
        return key

    def define(self, key: tuple[str, bool], value: Value) -> None:
        name, anonymous = key
        value.hint = "" if anonymous else name
        self.scope[key] = value

    def value(self) -> Value:
        self.lexer.skip()
        start = self.lexer.position
        key = self.lexer.value_name()
        found = self.scope.get(key)
        if found is not None:
            return found
        name = self.lexer.text[start : self.lexer.position]
        if key in self.defined:
            self.lexer.fail(f"{name} is not visible here", at=start, help="a region's values stay inside it")
        near = difflib.get_close_matches(key[0], [n for n, _ in self.scope], 1)
        self.lexer.fail(f"{name} is not defined here", at=start, help=f"did you mean %{near[0]}?" if near else "")

    # -- operations ----------------------------------------------------------------------------
    def operation(self) -> Operation:
        lexer = self.lexer
        start = lexer.position
        results: list[tuple[str, bool]] = []
        while lexer.at("%"):
            results.append(self.new_name())
            if not lexer.accept(","):
                break
        if results:
            lexer.expect("=")
        lexer.skip()
        word_at = lexer.position
        mnemonic = lexer.word("an operation")
        found = operation_class(mnemonic)
        if found is None:
            near = difflib.get_close_matches(mnemonic, operation_names(), 3)
            help = f"did you mean {', '.join(near)}?" if near else "dsc writes each operation on a line of its own"
            lexer.fail(f"unknown operation '{mnemonic}'", at=word_at, help=help)
        cls, implied = found
        values = self.operands(cls) | implied
        if cls.name == "constant":
            values["value"] = self.literal()
        self.attributes(cls, mnemonic, values)
        types_at, types = lexer.position, None
        if lexer.accept(":"):
            lexer.skip()
            types_at, types = lexer.position, self.type_list()
        location = lexer.location()
        for field in cls.fields:
            if field.role == "region":
                values[field.name], behind_brace = self.region(field.name)
                location = location if location.names or location.kind else behind_brace
        missing = [f.name for f in cls.fields if f.required and f.name not in values]
        if missing:
            lexer.fail(f"{mnemonic} lacks {', '.join(missing)}", at=word_at)
        try:
            op = cls(**values, location=location)
        except CompileError as error:
            lexer.fail(error.what, at=word_at, location=location, help=error.help)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
            lexer.fail(f"{mnemonic}: attributes of the wrong form ({error})", at=word_at, location=location)
        if len(op.results) != len(results):
            lexer.fail(f"{mnemonic} has {len(op.results)} results, {len(results)} are named", at=start)
        inferred = [r.type for r in op.results]
        if types is not None and types != inferred:
            lexer.fail(f"{mnemonic} gives {_listed(inferred)}, the text says {_listed(types)}", at=types_at)
        for key, result in zip(results, op.results, strict=True):
            self.define(key, result)
        return op

    def operands(self, cls: type[Operation]) -> dict[str, Any]:
        """Operand fields in order, between commas; a variadic one in brackets unless it is the only one."""
        lexer = self.lexer
        fields = [f for f in cls.fields if f.role in ("operand", "optional", "variadic")]
        if len(fields) == 1 and fields[0].role == "variadic":
            return {fields[0].name: self.value_list()}
        values: dict[str, Any] = {}
        for index, field in enumerate(fields):
            if index:
                lexer.expect(",")
            if field.role == "variadic":
                lexer.expect("[")
                values[field.name] = self.value_list()
                lexer.expect("]")
            elif field.role == "optional" and lexer.accept("none"):
                values[field.name] = None
            else:
                values[field.name] = self.value()
        return values

    def value_list(self) -> tuple[Value, ...]:
        values: list[Value] = []
        while self.lexer.at("%"):
            values.append(self.value())
            if not self.lexer.accept(","):
                break
        return tuple(values)

    def literal(self) -> Array:
        """A constant's elements; their type, which stands behind them, is read first."""
        lexer = self.lexer
        lexer.skip()
        start = lexer.position
        lexer.match(_LITERAL)
        lexer.expect(":")
        type_ = self.type()
        lexer.position = start
        return read_array(lexer, type_, self.constants)

    def region(self, name: str) -> tuple[Region, Location]:
        """``name(%a: type) { … }`` and the location behind its opening brace."""
        lexer = self.lexer
        lexer.skip()
        start = lexer.position
        if lexer.match(_WORD) != name:
            lexer.fail(f"expected region '{name}'", at=start)
        outer, self.scope = self.scope, dict(self.scope)
        block = Block()
        if lexer.at("("):
            self.arguments(block)
        lexer.expect("{")
        location = lexer.location()
        self.operations(block)
        lexer.expect("}")
        if block.last is None or not block.last.is_terminator:
            lexer.fail(f"region '{name}' does not end in a yield", at=lexer.position - 1)
        self.scope = outer
        return Region(block), location

    # -- attributes and types ------------------------------------------------------------------
    def attributes(self, cls: type[Operation], mnemonic: str, values: dict[str, Any]) -> None:
        lexer = self.lexer
        known = {f.name for f in cls.fields if f.role == "attribute"}
        while lexer.at_pattern(_ATTRIBUTE):
            start = lexer.position
            name = lexer.word("an attribute")
            lexer.expect("=")
            if name not in known or name in values:
                why = "given twice" if name in values else f"known: {', '.join(sorted(known)) or 'none'}"
                lexer.fail(f"{mnemonic}: attribute '{name}' ({why})", at=start)
            values[name] = self.attribute_value()

    def attribute_value(self) -> Any:
        lexer = self.lexer
        if lexer.at('"'):
            return lexer.string()
        if lexer.accept("["):
            items: list[Any] = []
            while not lexer.at("]"):
                items.append(self.attribute_value())
                if not lexer.accept(","):
                    break
            lexer.expect("]")
            return tuple(items)
        if lexer.at_pattern(_FLOAT):
            return float(lexer.number())
        if lexer.at_pattern(_TYPE):
            return self.type()
        if lexer.accept("array("):
            type_ = self.type()
            array = read_array(lexer, type_, self.constants)
            lexer.expect(")")
            return array
        if lexer.accept("dim("):
            dim = lexer.dim()
            lexer.expect(")")
            return dim
        start = lexer.position
        word = lexer.match(_WORD)
        if word in _WORD_VALUES:
            return _WORD_VALUES[word]
        if word in dtypes.names():
            return dtypes.dtype(word)
        lexer.position = start
        return lexer.dim()

    def type_list(self) -> list[TensorType]:
        types = [self.type()]
        while self.lexer.accept(","):
            types.append(self.type())
        return types

    def type(self) -> TensorType:
        """``tensor<4xf32>``, or ``tensor<n x 4 x f32>`` when a size is symbolic."""
        lexer = self.lexer
        lexer.skip()
        start = lexer.position
        text = lexer.match(_TYPE)
        if text is None:
            lexer.fail("expected a type such as tensor<4x128xf32> or tensor<batch x f32>")
        inside = text[len("tensor<") : -1]
        *sizes, element = inside.split(" x " if " " in inside else "x")
        try:
            shape: tuple[Dim, ...] = tuple(parse_dim(size) for size in sizes)
            return TensorType(shape, dtypes.dtype(element))
        except ValueError as error:
            lexer.fail(f"malformed type: {error}", at=start)


def _listed(types: list[TensorType]) -> str:
    return ", ".join(map(str, types)) or "no result"
