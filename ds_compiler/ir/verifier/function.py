"""Whether one function is well formed: structure, visibility of values and sizes, types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from ds_compiler.ir.block import Block, Region
from ds_compiler.ir.declaration import operation_class
from ds_compiler.ir.dims import Expr, symbol, symbols_of
from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.module import Function
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.symbols import symbols_in
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.value import BlockArgument, OpResult, Value
from ds_compiler.ir.verifier.failing import fail, value_name
from ds_compiler.ops import Bind, Composite, If, Return, While, Yield


class FunctionVerifier:
    """Walks a function in order; `visible` and `sizes` are what the current place may read and mention."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.visible: set[Value] = set()
        self.sizes: set[str] = set()
        self.seen: set[Operation] = set()

    def run(self) -> None:
        function = self.function
        if function.body.parent is not function:
            fail(function, "its body belongs to another function or operation")
        self.block_of(function.body, None, "the body")
        self.signature()
        self.region(function.body, None)

    def signature(self) -> None:
        function = self.function
        returned = function.block.terminator.operands
        if function.result_names and len(function.result_names) != len(returned):
            named = len(function.result_names)
            fail(function, f"{named} results are named, {len(returned)} returned", function.block.last)
        for what, names in (
            ("results", [n for n in function.result_names if n]),
            ("arguments", [a.hint for a in function.arguments if a.hint]),
        ):
            if repeated := next((n for n in names if names.count(n) > 1), None):
                fail(function, f"two {what} are called '{repeated}'")
        stated: dict[str, str] = {}
        for index, argument in enumerate(function.arguments):
            for dim in argument.type.shape:
                for name in symbols_of(dim):
                    stated.setdefault(name, f"argument {argument.hint or index} has the size '{dim}'")
                    if dim == symbol(name):
                        self.sizes.add(name)
        for name, where in stated.items():
            if name not in self.sizes:
                fail(function, f"{where}, but no argument has an axis of size '{name}'")
        self.inputs = frozenset(self.sizes)

    # -- structure -----------------------------------------------------------------------------
    def block_of(self, region: Region, owner: Operation | None, what: str) -> Block:
        """The only block of a region, which must be linked well and terminated."""
        if len(region.blocks) != 1:
            fail(self.function, f"{what} has {len(region.blocks)} blocks, expected one", owner)
        (block,) = region.blocks
        if block.parent is not region:
            fail(self.function, f"the block of {what} belongs to another region", owner)
        for index, argument in enumerate(block.arguments):
            if argument.block is not block or argument.index != index:
                fail(self.function, f"argument {index} of {what} belongs to another block or place", owner)
        previous: Operation | None = None
        for op in block:
            if op.parent is not block or op.previous is not previous or op in self.seen:
                fail(self.function, "stands in two places: the links of its block are broken", op)
            self.seen.add(op)
            if previous is not None and previous.is_terminator:
                fail(self.function, f"nothing may follow a {previous.mnemonic}", op)
            previous = op
        if block.last is not previous:
            fail(self.function, f"the links of the block of {what} are broken", owner)
        expected = Return if owner is None else Yield
        if previous is None or not previous.is_terminator:
            fail(self.function, f"{what} does not end in a {expected.name}", previous or owner)
        if not isinstance(previous, expected):
            fail(self.function, f"{what} ends in a {previous.mnemonic}, expected a {expected.name}", previous)
        return block

    def region(self, region: Region, owner: Operation | None) -> None:
        """Check the operations of a region whose block is sound; what it defines is invisible afterwards."""
        block = region.block
        defined: list[Value] = list(block.arguments)
        self.visible.update(defined)
        for argument in block.arguments:
            self.known(argument.type.symbols, f"argument {argument.hint or argument.index}", owner)
        for op in block:
            self.operation(op)
            defined += op.results
            self.visible.update(op.results)
        self.visible.difference_update(defined)

    def operation(self, op: Operation) -> None:
        self.declared(op)
        for index, operand in enumerate(op.operands):
            if operand not in self.visible:
                self.invisible(op, index)
        for index, result in enumerate(op.results):
            if result.op is not op or result.index != index:
                fail(self.function, f"result {index} belongs to another operation or place", op)
        for name, value in op.attributes.items():
            if (culprit := _unwritable(value)) is not None:
                fail(
                    self.function,
                    f"attribute '{name}' holds {culprit}",
                    op,
                    help="attributes are numbers, strings, sizes, types, arrays and tuples of these",
                )
        if op.regions:
            self.nested(op)
        for name, value in op.attributes.items():  # behind the regions: an if states types of sizes that they bind
            self.known(symbols_in(value), f"attribute '{name}'", op)
        if isinstance(op, Bind):
            self.bind(op)
        for index, result in enumerate(op.results):
            self.known(result.type.symbols, f"result {index} of type {result.type}", op)
        self.types(op)

    def declared(self, op: Operation) -> None:
        """The operation has the fields that its class declares."""
        found = operation_class(op.mnemonic)
        if found is None or found[0] is not type(op):
            fail(self.function, "is not a declared operation", op)
        attributes = {f.name for f in op.fields if f.role == "attribute"}
        if attributes != op.attributes.keys():
            wrong = min(attributes ^ op.attributes.keys())
            state = "lacks" if wrong in attributes else "does not declare"
            fail(self.function, f"{state} the attribute '{wrong}'", op)
        regions = [f.name for f in op.fields if f.role == "region"]
        if len(regions) != len(op.regions):
            fail(self.function, f"has {len(op.regions)} regions, declares {len(regions)}", op)
        counted = 0
        for field in op.fields:
            if field.role in ("operand", "optional", "variadic"):
                start, count = op._segments.get(field.name, (-1, 0))
                low, high = {"operand": (1, 1), "optional": (0, 1)}.get(field.role, (0, len(op.operands)))
                if start != counted or not low <= count <= high:
                    fail(self.function, f"operand '{field.name}' has {count} values at place {start}", op)
                counted += count
        if counted != len(op.operands):
            fail(self.function, f"has {len(op.operands)} operands, its fields hold {counted}", op)

    def nested(self, op: Operation) -> None:
        """Regions of `op`. Sizes that every way through it binds are known behind it."""
        names = [f.name for f in op.fields if f.role == "region"]
        for name, region in zip(names, op.regions, strict=True):
            if region.parent is not op:
                fail(self.function, f"region '{name}' belongs to another operation", op)
            self.block_of(region, op, f"region '{name}'")
        before, visible = set(self.sizes), self.visible
        learned: list[set[str]] = []
        for region in op.regions:
            if op.is_isolated:
                self.visible = set()
            self.region(region, op)
            learned.append(self.sizes - before)
            if not (isinstance(op, While) and region is op.condition):  # the condition runs before the body
                self.sizes = set(before)
            self.visible = visible
        self.sizes = before
        if isinstance(op, If):
            self.sizes |= learned[0] & learned[1]
        elif isinstance(op, While) or op.is_isolated:
            self.sizes |= learned[0]

    # -- sizes ---------------------------------------------------------------------------------
    def known(self, names: Iterable[str], where: str, op: Operation | None) -> None:
        unknown = sorted(set(names) - self.sizes)
        if unknown:
            fail(
                self.function,
                f"{where} mentions the size '{unknown[0]}', which nothing has bound here",
                op,
                help="sizes come from the function's arguments or from a bind that always runs before",
            )

    def bind(self, op: Bind) -> None:
        if op.symbol in self.inputs:
            fail(self.function, f"'{op.symbol}' is a size of the function's arguments and stays as it is", op)
        self.sizes.add(op.symbol)

    # -- values --------------------------------------------------------------------------------
    def invisible(self, op: Operation, index: int) -> NoReturn:
        """Say why operand `index` cannot be read here."""
        value = op.operands[index]
        name = value_name(self.function, value)
        block = _block_of(value)
        why, help = f"operand {index} reads {name}, which ", ""
        home = _function_of(block)
        if home is None:
            why += "is defined nowhere in the module"
        elif home is not self.function:
            why += f"belongs to function '{home.name}'"
        elif (isolated := _isolated_between(op, block)) is not None:
            why += f"is outside of the {isolated.mnemonic}"
            help = f"a {isolated.mnemonic} reads only its own operands, through the arguments of its region"
        elif _encloses(block, op):
            why += "is defined later"
        else:
            why += "belongs to a region that ends before"
            help = "a region hands out values through its yield"
        fail(self.function, why, op, index, help=help)

    def types(self, op: Operation) -> None:
        """Result types are those that the declaration infers."""
        try:
            inferred = op.infer()
            op.verify()
        except CompileError as error:
            what = error.what.removeprefix(f"{op.mnemonic}: ")
            fail(self.function, what, op, help=error.help)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError, ArithmeticError) as error:
            fail(self.function, f"attributes of the wrong form ({error})", op)
        types = [inferred] if isinstance(inferred, TensorType) else list(inferred)
        stated = [r.type for r in op.results]
        if len(types) != len(stated):
            fail(self.function, f"has {len(stated)} results, its declaration gives {len(types)}", op)
        for index, (a, b) in enumerate(zip(stated, types)):
            if a != b:
                fail(self.function, f"result {index} has the type {a}, its declaration gives {b}", op)
        if isinstance(op, Composite):
            pairs = all(isinstance(o, tuple) and len(o) == 2 and isinstance(o[0], str) for o in op.options)
            if not op.callee or not pairs:
                fail(self.function, "needs a name, and options that are pairs of a name and a value", op)


def _unwritable(value: Any) -> str | None:
    """What in an attribute's value is mutable or has no text form."""
    match value:
        case tuple():
            return next((c for c in map(_unwritable, value) if c is not None), None)
        case None | bool() | int() | float() | str() | np.generic() | np.ndarray() | DType() | TensorType() | Expr():
            return None
    return f"a {type(value).__name__}"


def _block_of(value: Value) -> Block | None:
    """The block that defines a value."""
    if isinstance(value, OpResult):
        return value.op.parent
    return value.block if isinstance(value, BlockArgument) else None


def _function_of(block: Block | None) -> Function | None:
    """The function that a block stands in, if it stands in one."""
    while block is not None and block.parent is not None:
        owner = block.parent.parent
        if owner is None or isinstance(owner, Function):
            return owner
        block = owner.parent
    return None


def _owners(op: Operation) -> Iterable[Operation]:
    """The operations whose regions `op` stands in, inner first."""
    block = op.parent
    while block is not None and block.parent is not None and isinstance(block.parent.parent, Operation):
        owner = block.parent.parent
        yield owner
        block = owner.parent


def _encloses(block: Block | None, op: Operation) -> bool:
    return block is op.parent or any(owner.parent is block for owner in _owners(op))


def _isolated_between(op: Operation, block: Block | None) -> Operation | None:
    """The isolated operation around `op` that hides the values of `block`."""
    if block is op.parent or not _encloses(block, op):
        return None
    for owner in _owners(op):
        if owner.is_isolated:
            return owner
        if owner.parent is block:
            return None
    return None
