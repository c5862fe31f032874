"""Dead code elimination, through control flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ds_compiler.ir import Block, BlockArgument, Module, Operation, OpResult, Value
from ds_compiler.ir.symbols import mentioned_symbols
from ds_compiler.ops import Assume, Bind, Check, Composite, Fusion, If, Scan, While, callees
from ds_compiler.passes.manager import register


@register("dce")
def eliminate_dead_code(module: Module) -> None:
    """Remove what no result depends on.

        %2 = exp %0
        %3 = neg %1        →     %3 = neg %1
        return %3                return %3

    Carried values, yielded results and inputs of control flow that nobody needs go too. A ``bind`` stays while its
    symbol is mentioned by something live, an ``assume`` or ``check`` while its block runs. Functions that ``main`` does
    not reach are dropped.
    """
    _drop_unreachable_functions(module)
    live = _Liveness(module)
    for function in module.functions.values():
        _sweep(function.walk(), live)


def _drop_unreachable_functions(module: Module) -> None:
    if "main" not in module.functions:
        return
    reached = ["main"]
    for name in reached:
        for op in module.functions[name].walk():
            reached += [n for n in callees(op) if n not in reached and n in module.functions]
    for name in [n for n in module.functions if n not in reached]:
        for op in list(module.functions[name].block):
            op.drop()
        del module.functions[name]


class _Liveness:
    """Marks values and operations from the functions' results backwards."""

    def __init__(self, module: Module) -> None:
        self.values: set[Value] = set()
        self.ops: set[Operation] = set()
        self._symbols: set[str] = set()
        self._binds: dict[str, list[Operation]] = {}
        self._work: list[Value | Operation] = []
        for op in module.walk():
            if isinstance(op, Bind):
                self._binds.setdefault(op.symbol, []).append(op)
        for function in module.functions.values():
            for argument in function.arguments:
                self._need_symbols(argument.type.symbols)
            self._need_assumptions(function.block)
            self._need_op(function.block.terminator)
            self._need(*function.block.terminator.operands)
        while self._work:
            item = self._work.pop()
            if isinstance(item, Operation):
                self._visit_op(item)
            else:
                self._visit_value(item)

    def _need(self, *values: Value) -> None:
        for value in values:
            if value not in self.values:
                self.values.add(value)
                self._work.append(value)

    def _need_op(self, op: Operation) -> None:
        if op not in self.ops:
            self.ops.add(op)
            self._work.append(op)

    def _need_assumptions(self, block: Block) -> None:
        """What is assumed or checked is so wherever its block runs, whatever else lives there."""
        for op in block:
            if isinstance(op, Assume | Check):
                self._need_op(op)

    def _need_symbols(self, names: Iterable[str]) -> None:
        for name in set(names) - self._symbols:
            self._symbols.add(name)
            for bind in self._binds.get(name, ()):
                self._need_op(bind)

    def _visit_op(self, op: Operation) -> None:
        self._need_symbols(mentioned_symbols(op))
        block = op.parent
        if block is not None and block.parent is not None and isinstance(block.parent.parent, Operation):
            self._need_op(block.parent.parent)
        match op:
            case If():
                self._need(op.condition)
            case Scan():
                pass  # inits and inputs are needed as far as their block arguments are
            case While():
                self._need(*op.condition.block.terminator.operands)
            case _ if not op.is_terminator:
                self._need(*op.operands)
        for region in op.regions:
            self._need_assumptions(region.block)
            self._need_op(region.block.terminator)
            if isinstance(op, Fusion | Composite):
                self._need(*region.block.terminator.operands)
                self._need(*region.block.arguments)

    def _visit_value(self, value: Value) -> None:
        if isinstance(value, OpResult):
            self._need_op(value.op)
            self._need_slot(value.op, value.index)
        elif isinstance(value, BlockArgument):
            region = value.block.parent
            owner = region.parent if region is not None else None
            if isinstance(owner, Scan | While):
                self._need(owner.operands[value.index])
                self._need_op(owner)
                if value.index < len(owner.inits):
                    self._need_slot(owner, value.index)

    def _need_slot(self, op: Operation, index: int) -> None:
        """Result `index` of a structured operation is needed, hence what its regions yield there."""
        match op:
            case If():
                for region in op.regions:
                    self._need(region.block.terminator.operands[index])
            case Scan() | While():
                self._need(op.body.block.terminator.operands[index])
                if index < len(op.inits):
                    self._need(op.inits[index], op.results[index], op.body.block.arguments[index])
                    if isinstance(op, While):
                        self._need(op.condition.block.arguments[index])


def _sweep(ops: Iterable[Operation], live: _Liveness) -> None:
    """Drop dead operations, readers first; shrink live structured ones to their live slots, inner ones first."""
    for op in reversed(list(ops)):
        if op.parent is None:
            continue
        if op not in live.ops:
            op.drop()
        elif isinstance(op, If | Scan | While):
            _shrink(op, live)


def _shrink(op: If | Scan | While, live: _Liveness) -> None:
    keep = [i for i, r in enumerate(op.results) if r in live.values]
    changes: dict[str, Any] = {}
    if isinstance(op, If):
        if len(keep) == len(op.results):
            return
        for region in op.regions:
            _shrink_yield(region.block.terminator, keep)
        if op.types is not None:
            changes["types"] = tuple(op.types[i] for i in keep)
        operands: dict[str, Any] = {"condition": op.condition}
    else:
        carried = len(op.inits)
        arguments = [i for i, a in enumerate(op.body.block.arguments) if i < carried or a in live.values]
        kept_arguments = [i for i in arguments if i >= carried or i in keep]
        if len(keep) == len(op.results) and len(kept_arguments) == len(op.operands):
            return
        _shrink_yield(op.body.block.terminator, keep)
        for region in op.regions:
            for index in reversed(range(len(region.block.arguments))):
                if index not in kept_arguments:
                    region.block.remove_argument(index)
        operands = {"inits": tuple(v for i, v in enumerate(op.inits) if i in keep)}
        if isinstance(op, Scan):
            operands["inputs"] = tuple(op.operands[i] for i in kept_arguments if i >= carried)
            changes.update(length=op.length, reverse=op.reverse)
    names = [f.name for f in op.fields if f.role == "region"]
    regions = dict(zip(names, op.regions, strict=True))
    block = op.parent
    assert block is not None
    make: Callable[..., Operation] = type(op)
    replacement = make(**operands, **regions, **changes, location=op.location)
    block.insert_before(op, replacement)
    for new, index in zip(replacement.results, keep, strict=True):
        new.hint = op.results[index].hint
        op.results[index].replace_all_uses_with(new)
    op.regions = []
    live.ops.add(replacement)
    op.drop()


def _shrink_yield(terminator: Operation, keep: list[int]) -> None:
    block = terminator.parent
    assert block is not None
    values = tuple(terminator.operands[i] for i in keep)
    location = terminator.location
    kind = type(terminator)
    terminator.drop()
    block.append(kind(values, location=location))
