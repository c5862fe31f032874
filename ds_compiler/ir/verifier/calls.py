"""Whether calls fit the functions that they name."""

from __future__ import annotations

from collections.abc import Mapping

from ds_compiler.ir.dims import Dim, Expr, substitute
from ds_compiler.ir.module import Function, Module
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.verifier.failing import fail
from ds_compiler.ops import Call


def verify_calls(module: Module) -> None:
    """Calls fit the functions that they name, and no function is reached from itself."""
    calls: dict[str, list[tuple[Function, Call]]] = {}
    for function in module.functions.values():
        calls[function.name] = [(function, op) for op in function.walk() if isinstance(op, Call)]
        for _, call in calls[function.name]:
            callee = module.functions.get(call.callee)
            if callee is None:
                known = ", ".join(sorted(module.functions))
                fail(function, f"there is no function '{call.callee}'", call, help=f"functions: {known}")
            _verify_call(function, call, callee)
    done: set[str] = set()
    for name in calls:
        _verify_no_recursion(name, (), calls, done)


def _verify_no_recursion(
    name: str, path: tuple[str, ...], calls: Mapping[str, list[tuple[Function, Call]]], done: set[str]
) -> None:
    for function, call in calls[name] if name not in done else ():
        if call.callee in (*path, name):
            circle = (*path, name)[(*path, name).index(call.callee) :]
            chain = " → ".join((*circle, call.callee))
            fail(function, f"calls itself ({chain})", call, help="memory is planned ahead, so recursion has no end")
        _verify_no_recursion(call.callee, (*path, name), calls, done)
    done.add(name)


def _verify_call(function: Function, call: Call, callee: Function) -> None:
    """Arguments fit the callee's; results are the callee's with its sizes replaced by the caller's."""
    if len(call.inputs) != len(callee.arguments):
        fail(function, f"{len(call.inputs)} arguments given, '{callee.name}' takes {len(callee.arguments)}", call)
    sizes: dict[str, Dim] = {}
    for value, argument in zip(call.inputs, callee.arguments):
        given, wanted = value.type, argument.type
        if (given.rank, given.dtype) == (wanted.rank, wanted.dtype):
            for dim, size in zip(wanted.shape, given.shape):
                if str(dim).isidentifier():
                    sizes.setdefault(str(dim), size)
    for index, (value, argument) in enumerate(zip(call.inputs, callee.arguments)):
        if not _fits(value.type, _with_sizes(argument.type, sizes)):
            fail(function, f"argument {index} is {value.type}, '{callee.name}' takes {argument.type}", call, index)
    returned = callee.result_types
    if len(returned) != len(call.types):
        fail(function, f"states {len(call.types)} results, '{callee.name}' returns {len(returned)}", call)
    for index, (stated, type_) in enumerate(zip(call.types, returned)):
        unknown = sorted(type_.symbols - sizes.keys())
        if unknown:
            fail(
                function,
                f"result {index} of '{callee.name}' has the size '{unknown[0]}', which its arguments do not tell",
                call,
                help="a function that others call returns only sizes that follow from its arguments",
            )
        expected = _with_sizes(type_, sizes)
        if stated != expected:
            fail(function, f"states {stated} for result {index}, '{callee.name}' returns {expected}", call)


def _with_sizes(type_: TensorType, sizes: Mapping[str, Dim]) -> TensorType:
    """`type_` with the callee's symbols replaced, all at once."""
    return type_.with_shape([substitute(d, sizes) for d in type_.shape])


def _fits(given: TensorType, wanted: TensorType) -> bool:
    """Equal rank, element type and known sizes; symbolic sizes are checked at run time."""
    return (given.rank, given.dtype) == (wanted.rank, wanted.dtype) and all(
        isinstance(a - b, Expr) or a == b for a, b in zip(given.shape, wanted.shape)
    )
