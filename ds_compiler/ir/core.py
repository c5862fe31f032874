"""The SSA graph: values, operations, blocks, regions, functions, modules.

An operation class is declared once with `op`, its annotated fields being operands, regions and attributes:

    @op("select")
    class Select(Operation):
        condition: Value
        on_true: Value
        on_false: Value
        def infer(self) -> TensorType: ...

`Select(c, a, b)` then builds a detached operation whose `result` has the inferred type; a `Builder`
inserts it. Field annotations decide the role: ``Value`` and ``Value | None`` one operand,
``tuple[Value, ...]`` any number, ``Region`` a region; everything else is an attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import numpy as np

from ds_compiler.ir.errors import TypeError_
from ds_compiler.ir.location import UNKNOWN, Location
from ds_compiler.ir.types import TensorType

if TYPE_CHECKING:
    from ds_compiler.ir.cost import Cost


class Value:
    """A tensor computed once: an operation's result or a block's argument.

    Attributes:
        uses: the (operation, operand index) pairs that read it, in the order they were made.
        hint: name wanted for it in text; unique names are made when printing.
    """

    __slots__ = ("hint", "type", "uses")

    def __init__(self, type_: TensorType, hint: str = "") -> None:
        self.type = type_
        self.hint = hint
        self.uses: dict[tuple[Operation, int], None] = {}

    @property
    def users(self) -> list[Operation]:
        """Operations that read the value, each once."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    @property
    def defining_op(self) -> Operation | None:
        """The operation whose result this is; None for a block argument."""
        return self.op if isinstance(self, OpResult) else None

    def replace_all_uses_with(self, other: Value) -> None:
        """Let every reader read `other` instead."""
        if other is self:
            return
        for op, index in list(self.uses):
            op.set_operand(index, other)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.hint or '?'} : {self.type}>"


class OpResult(Value):
    """Result number `index` of `op`."""

    __slots__ = ("index", "op")

    def __init__(self, type_: TensorType, op: Operation, index: int, hint: str = "") -> None:
        super().__init__(type_, hint)
        self.op, self.index = op, index


class BlockArgument(Value):
    """Argument number `index` of `block`."""

    __slots__ = ("block", "index")

    def __init__(self, type_: TensorType, block: Block, index: int, hint: str = "") -> None:
        super().__init__(type_, hint)
        self.block, self.index = block, index


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field of an operation class."""

    name: str
    role: str  # operand, optional, variadic, region, attribute
    default: Any
    required: bool


_OPERATION_CLASSES: dict[str, tuple[type[Operation], dict[str, Any]]] = {}
_T = TypeVar("_T", bound="Operation")


def operation_class(mnemonic: str) -> tuple[type[Operation], dict[str, Any]] | None:
    """The class that IR text writes as `mnemonic`, and the attributes that the word implies."""
    return _OPERATION_CLASSES.get(mnemonic)


def operation_names() -> list[str]:
    """Every mnemonic, sorted."""
    return sorted(_OPERATION_CLASSES)


@dataclass_transform()
def op(name: str, *, kinds: Iterable[str] = ()) -> Callable[[type[_T]], type[_T]]:
    """Declare an operation class called `name` in text.

    With `kinds`, the class has an attribute ``kind`` and text writes each kind as an operation of its own
    (``exp`` for ``Unary(x, "exp")``).
    """

    def declare(cls: type[_T]) -> type[_T]:
        fields: list[Field] = []
        for base in reversed(cls.__mro__):
            if not issubclass(base, Operation) or base is Operation:
                continue
            for field_name, annotation in inspect.get_annotations(base).items():
                text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
                if text.startswith("ClassVar"):
                    continue
                role = _ROLES.get(text, "attribute")
                required = field_name not in base.__dict__
                fields.append(Field(field_name, role, base.__dict__.get(field_name), required))
        cls.name = name
        cls.fields = tuple(fields)
        for field in fields:
            setattr(cls, field.name, _accessor(field, fields))
        names = {k: {"kind": k} for k in kinds} or {name: {}}
        for mnemonic, implied in names.items():
            if mnemonic in _OPERATION_CLASSES:
                raise ValueError(f"operation '{mnemonic}' is declared twice")
            _OPERATION_CLASSES[mnemonic] = (cls, implied)
        cls.has_kinds = bool(tuple(kinds))
        return cls

    return declare


_ROLES = {"Value": "operand", "Value | None": "optional", "tuple[Value, ...]": "variadic", "Region": "region"}


def _accessor(field: Field, fields: list[Field]) -> property:
    name = field.name
    if field.role == "attribute":
        return property(lambda self: self.attributes[name], doc=f"Attribute `{name}`.")
    if field.role == "region":
        position = [f.name for f in fields if f.role == "region"].index(name)
        return property(lambda self: self.regions[position], doc=f"Region `{name}`.")

    def read(self: Operation) -> Any:
        start, count = self._segments[name]
        if field.role == "variadic":
            return self._operands[start : start + count]
        return self._operands[start] if count else None

    return property(read, doc=f"Operand `{name}`.")


class Operation:
    """One operation; see the module's docstring for how classes are declared.

    Attributes:
        attributes: plain immutable values by field name.
        results: its results; `result` is the only one.
        regions: nested regions.
        location: where in the user's program it comes from.
        parent: the block it stands in, None while detached.
    """

    name: ClassVar[str] = "?"
    fields: ClassVar[tuple[Field, ...]] = ()
    has_kinds: ClassVar[bool] = False
    is_terminator: ClassVar[bool] = False
    has_side_effects: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.location: Location = kwargs.pop("location", UNKNOWN)
        self.parent: Block | None = None
        self._previous: Operation | None = None
        self._next: Operation | None = None
        self._operands: tuple[Value, ...] = ()
        self._segments: dict[str, tuple[int, int]] = {}
        self.attributes: dict[str, Any] = {}
        self.regions: list[Region] = []
        self.results: list[OpResult] = []
        if len(args) > len(self.fields):
            raise TypeError(f"{self.name}: {len(args)} arguments given, {len(self.fields)} fields declared")
        given = dict(zip((f.name for f in self.fields), args), **kwargs)
        operands: list[Value] = []
        for field in self.fields:
            if field.name not in given and field.required:
                raise TypeError(f"{self.name}: missing field '{field.name}'")
            value = given.pop(field.name, field.default)
            if field.role == "attribute":
                self.attributes[field.name] = value
            elif field.role == "region":
                self.regions.append(value)
                value.parent = self
            else:
                values = [] if value is None else list(value) if field.role == "variadic" else [value]
                self._segments[field.name] = (len(operands), len(values))
                operands.extend(values)
        if given:
            raise TypeError(f"{self.name}: no field called {', '.join(given)}")
        for index, operand in enumerate(operands):
            if not isinstance(operand, Value):
                raise TypeError(f"{self.name}: operand {index} is {operand!r}, not a Value")
            operand.uses[(self, index)] = None
        self._operands = tuple(operands)
        for region_ in self.regions:
            region_.parent = self
        try:
            types = self.infer()
        except BaseException:
            self._drop_uses()
            raise
        for type_ in (types,) if isinstance(types, TensorType) else types:
            self.results.append(OpResult(type_, self, len(self.results)))

    # -- what a declaration gives --------------------------------------------------------------
    def infer(self) -> TensorType | Sequence[TensorType]:
        """Types of the results. Raises `TypeError_` naming the operand that does not fit."""
        raise NotImplementedError(f"{self.name}.infer")

    def verify(self) -> None:
        """Check what `infer` does not; raises `TypeError_`."""

    def evaluate(self, sizes: Mapping[str, int], *operands: np.ndarray[Any, Any]) -> Any:
        """NumPy semantics: an array, or a tuple of them for several results; `sizes` holds the symbols' values."""
        raise NotImplementedError(f"{self.name}.evaluate")

    def cost(self) -> Cost:
        """Floating-point operations and bytes moved (default: one operation a result element)."""
        from ds_compiler.ir.cost import elementwise_cost

        return elementwise_cost(self)

    # -- reading -------------------------------------------------------------------------------
    @property
    def mnemonic(self) -> str:
        """The word that text uses for the operation."""
        return str(self.attributes["kind"]) if self.has_kinds else self.name

    @property
    def operands(self) -> tuple[Value, ...]:
        return self._operands

    @property
    def result(self) -> OpResult:
        """The only result."""
        if len(self.results) != 1:
            raise ValueError(f"{self.name} has {len(self.results)} results")
        return self.results[0]

    def error(self, what: str, help: str = "") -> TypeError_:
        """A type error at this operation."""
        return TypeError_(f"{self.mnemonic}: {what}", location=self.location, help=help)

    def walk(self) -> Iterator[Operation]:
        """This operation and all nested ones, outer first."""
        yield self
        for region_ in self.regions:
            yield from region_.walk()

    # -- changing ------------------------------------------------------------------------------
    def set_operand(self, index: int, value: Value) -> None:
        """Read `value` as operand number `index`."""
        old = self._operands[index]
        old.uses.pop((self, index), None)
        self._operands = (*self._operands[:index], value, *self._operands[index + 1 :])
        value.uses[(self, index)] = None

    def replace_with(self, *values: Value) -> None:
        """Let readers of the results read `values`, then erase the operation."""
        if len(values) != len(self.results):
            raise ValueError(f"{self.name}: {len(values)} replacements for {len(self.results)} results")
        for result, value in zip(self.results, values, strict=True):
            if not value.hint:
                value.hint = result.hint
            result.replace_all_uses_with(value)
        self.erase()

    def erase(self) -> None:
        """Remove an operation whose results nobody reads."""
        for result in self.results:
            if result.uses:
                raise ValueError(f"{self.mnemonic}: erased while result {result.index} is in use")
        self.drop()

    def drop(self) -> None:
        """Unlink from the block and release the operands, nested regions included, whoever reads the results."""
        for nested in self.walk():
            nested._drop_uses()
        self.detach()

    def _drop_uses(self) -> None:
        for index, operand in enumerate(self._operands):
            operand.uses.pop((self, index), None)

    def detach(self) -> Operation:
        """Take the operation out of its block, keeping operands and results."""
        if self.parent is not None:
            self.parent._unlink(self)
        return self

    def clone(self, mapping: dict[Value, Value] | None = None, **changes: Any) -> Operation:
        """A detached copy reading `mapping`'s values; nested regions are copied, `mapping` learns the new results.

        `changes` replaces fields (attributes or operands). Result types are inferred anew.
        """
        mapping = {} if mapping is None else mapping
        fields: dict[str, Any] = {}
        for field in self.fields:
            value = getattr(self, field.name)
            if field.name in changes:
                value = changes[field.name]
            elif field.role == "region":
                value = value.clone(mapping)
            elif field.role == "variadic":
                value = tuple(mapping.get(v, v) for v in value)
            elif field.role in ("operand", "optional") and value is not None:
                value = mapping.get(value, value)
            fields[field.name] = value
        copy = type(self)(**fields, location=self.location)
        for old, new in zip(self.results, copy.results, strict=True):
            new.hint = old.hint
            mapping[old] = new
        return copy

    @property
    def next(self) -> Operation | None:
        """The operation after this one in its block."""
        return self._next

    @property
    def previous(self) -> Operation | None:
        return self._previous

    def __repr__(self) -> str:
        operands = ", ".join(o.hint or "%?" for o in self._operands)
        return f"<{self.mnemonic}({operands})>"


class Block:
    """A list of operations with arguments, the last one a terminator (doubly linked, so edits are O(1))."""

    def __init__(self, argument_types: Sequence[TensorType] = (), hints: Sequence[str] = ()) -> None:
        self.arguments: list[BlockArgument] = []
        self.parent: Region | None = None
        self._first: Operation | None = None
        self._last: Operation | None = None
        for index, type_ in enumerate(argument_types):
            self.add_argument(type_, hints[index] if index < len(hints) else "")

    def add_argument(self, type_: TensorType, hint: str = "") -> BlockArgument:
        argument = BlockArgument(type_, self, len(self.arguments), hint)
        self.arguments.append(argument)
        return argument

    def remove_argument(self, index: int) -> None:
        """Remove an argument that nobody reads."""
        if self.arguments[index].uses:
            raise ValueError(f"block argument {index} is in use")
        del self.arguments[index]
        for later in self.arguments[index:]:
            later.index -= 1

    def __iter__(self) -> Iterator[Operation]:
        current = self._first
        while current is not None:
            following = current._next  # read first: the loop body may erase `current`
            yield current
            current = following

    def __reversed__(self) -> Iterator[Operation]:
        current = self._last
        while current is not None:
            previous = current._previous
            yield current
            current = previous

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def first(self) -> Operation | None:
        return self._first

    @property
    def last(self) -> Operation | None:
        return self._last

    @property
    def terminator(self) -> Operation:
        """The last operation.

        Raises:
            ValueError: the block is empty or not terminated.
        """
        if self._last is None or not self._last.is_terminator:
            raise ValueError("the block has no terminator")
        return self._last

    def append(self, op: _T) -> _T:
        """Add at the end."""
        self._adopt(op)
        op._previous = self._last
        if self._last is None:
            self._first = op
        else:
            self._last._next = op
        self._last = op
        return op

    def insert_before(self, anchor: Operation, op: _T) -> _T:
        """Add in front of `anchor`."""
        self._adopt(op)
        op._next, op._previous = anchor, anchor._previous
        if anchor._previous is None:
            self._first = op
        else:
            anchor._previous._next = op
        anchor._previous = op
        return op

    def _adopt(self, op: Operation) -> None:
        if op.parent is not None:
            raise ValueError(f"{op.mnemonic} already stands in a block")
        op.parent = self

    def _unlink(self, op: Operation) -> None:
        if op._previous is None:
            self._first = op._next
        else:
            op._previous._next = op._next
        if op._next is None:
            self._last = op._previous
        else:
            op._next._previous = op._previous
        op.parent = op._next = op._previous = None


class Region:
    """Nested code of an operation or function: a list of blocks (structured operations have exactly one).

    A region may read values of the enclosing ones, except under operations that are isolated
    (`fusion`, `composite`), whose operands enter as block arguments.
    """

    def __init__(self, block: Block | None = None) -> None:
        self.blocks: list[Block] = []
        self.parent: Operation | Function | None = None
        if block is not None:
            self.add_block(block)

    def add_block(self, block: Block) -> Block:
        block.parent = self
        self.blocks.append(block)
        return block

    @property
    def block(self) -> Block:
        """The only block."""
        if len(self.blocks) != 1:
            raise ValueError(f"the region has {len(self.blocks)} blocks, one expected")
        return self.blocks[0]

    def walk(self) -> Iterator[Operation]:
        for block in self.blocks:
            for operation in block:
                yield from operation.walk()

    def clone(self, mapping: dict[Value, Value]) -> Region:
        """A copy; `mapping` supplies values for what it reads and learns the copies."""
        copy = Region()
        for block in self.blocks:
            new = copy.add_block(Block([a.type for a in block.arguments], [a.hint for a in block.arguments]))
            mapping.update(zip(block.arguments, new.arguments))
            for operation in block:
                new.append(operation.clone(mapping))
        return copy


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
