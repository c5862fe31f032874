"""Inlining: calls become the code that they call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ds_compiler.ir import Block, Builder, Dim, Expr, Function, Module, Operation, Region, TensorType, Value, symbol
from ds_compiler.ir.dims import substitute
from ds_compiler.ir.symbols import mentioned_symbols
from ds_compiler.ir.verifier.calls import argument_sizes
from ds_compiler.ops import Bind, Call, Reshape, Return, callees
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register


@register("inline")
def inline_calls(module: Module) -> None:
    """Put the body of a function in the place of each call.

    %1 = call %0 callee="f"    →    %1 = exp %0
    """
    inliner = Inliner(module)
    for function in callees_first(module):
        inliner.inline_calls(function)
    eliminate_dead_code(module)


def callees_first(module: Module) -> list[Function]:
    """The module's functions, each behind those that it names."""
    order: dict[str, Function] = {}

    def visit(name: str) -> None:
        function = module.functions[name]
        for op in function.walk():
            for callee in callees(op):
                if callee not in order:
                    visit(callee)
        order.setdefault(name, function)

    for name in module.functions:
        visit(name)
    return list(order.values())


class Inliner:
    """Copies functions' bodies to where they are called, in the caller's sizes."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._taken = {name for op in module.walk() for name in mentioned_symbols(op)}
        self._taken |= {op.symbol for op in module.walk() if isinstance(op, Bind)}
        for function in module.functions.values():
            self._taken |= {name for a in function.arguments for name in a.type.symbols}

    def inline_calls(self, function: Function) -> None:
        """Inline every call in a function, whose callees hold none any more."""
        for op in list(function.walk()):
            if isinstance(op, Call):
                results = self.copy(Builder(before=op), self.module.functions[op.callee], op.inputs)
                op.replace_with(*(fitted(Builder(before=op), v, t) for v, t in zip(results, op.types, strict=True)))

    def copy(self, builder: Builder, callee: Function, inputs: Sequence[Value]) -> list[Value]:
        """Insert a copy of `callee`'s body; returns its results."""
        sizes = argument_sizes(callee, [v.type for v in inputs])
        for op in callee.walk():
            if isinstance(op, Bind):
                sizes.setdefault(op.symbol, symbol(self.fresh(op.symbol)))
        mapping: dict[Value, Value] = {}
        for argument, value in zip(callee.arguments, inputs, strict=True):
            mapping[argument] = fitted(builder, value, _substituted(argument.type, sizes))
        for op in callee.block:
            if isinstance(op, Return):
                return [mapping[v] for v in op.operands]
            builder.insert(_copied(op, mapping, sizes))
        raise AssertionError("a function without a return")

    def fresh(self, name: str) -> str:
        """A name for a size that nothing in the module has."""
        found = next(n for n in _numbered(name) if n not in self._taken)
        self._taken.add(found)
        return found


def _numbered(name: str) -> Iterator[str]:
    stem = name if name.startswith("_") else f"_{name}"
    return (f"{stem}_{count}" for count in itertools.count(1))


def fitted(builder: Builder, value: Value, type_: TensorType) -> Value:
    """`value`, said to have sizes that are equal at run time."""
    return value if value.type == type_ else builder.emit(Reshape(value, type_.shape))


def _copied(op: Operation, mapping: dict[Value, Value], sizes: dict[str, Dim]) -> Operation:
    if not sizes:
        return op.clone(mapping)
    changes: dict[str, Any] = {name: _substituted(value, sizes) for name, value in op.attributes.items()}
    if isinstance(op, Bind):
        changes["symbol"] = str(sizes[op.symbol])
    names = [f.name for f in op.fields if f.role == "region"]
    for name, region in zip(names, op.regions, strict=True):
        old = region.block
        block = Block([_substituted(a.type, sizes) for a in old.arguments], [a.hint for a in old.arguments])
        mapping.update(zip(old.arguments, block.arguments))
        for nested in old:
            block.append(_copied(nested, mapping, sizes))
        changes[name] = Region(block)
    return op.clone(mapping, **changes)


def _substituted(value: Any, sizes: dict[str, Dim]) -> Any:
    match value:
        case Expr():
            return substitute(value, sizes)
        case TensorType():
            return value.with_shape([substitute(d, sizes) for d in value.shape])
        case tuple():
            return tuple(_substituted(item, sizes) for item in value)
    return value
