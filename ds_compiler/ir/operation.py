"""Operations: their operands, attributes, results, and their place in a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ds_compiler.ir.errors import TypeError_
from ds_compiler.ir.location import UNKNOWN, Location
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import OpResult, Value

if TYPE_CHECKING:
    from ds_compiler.ir.block import Block, Region
    from ds_compiler.ir.cost import Cost


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field of an operation class."""

    name: str
    role: str  # operand, optional, variadic, region, attribute
    default: Any
    required: bool


class Operation:
    """One operation; see `ds_compiler.ir.declaration` for how classes are declared.

    Attributes:
        attributes: plain immutable values by field name.
        results: its results; `result` is the only one.
        regions: nested regions.
        location: where in the user's program it comes from.
        parent: the block it stands in, None while detached.

    Class attributes:
        is_terminator: ends a block.
        is_isolated: its regions read no value of the enclosing code.
        has_side_effects: stays although nobody reads a result.
    """

    name: ClassVar[str] = "?"
    fields: ClassVar[tuple[Field, ...]] = ()
    has_kinds: ClassVar[bool] = False
    is_terminator: ClassVar[bool] = False
    is_isolated: ClassVar[bool] = False
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

    def at(self, location: Location) -> Self:
        """This operation, said to come from `location`."""
        self.location = location
        return self

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
