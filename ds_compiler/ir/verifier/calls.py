"""Whether calls fit the functions that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ds_compiler.ir.dims import Dim, Expr, substitute
from ds_compiler.ir.module import Function, Module
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.types import TensorType
from ds_compiler.ir.verifier.failing import fail
from ds_compiler.ops import Call, CustomCall, Jvp, Vjp, callees


def verify_calls(module: Module) -> None:
    """Calls fit the functions that they name, and no function is reached from itself."""
    calls: dict[str, list[tuple[Function, Operation]]] = {}
    for function in module.functions.values():
        calls[function.name] = [(function, op) for op in function.walk() if callees(op)]
        for _, call in calls[function.name]:
            for name in callees(call):
                if name not in module.functions:
                    known = ", ".join(sorted(module.functions))
                    fail(function, f"there is no function '{name}'", call, help=f"functions: {known}")
            _verify_call(module, function, call)
    done: set[str] = set()
    for name in calls:
        _verify_no_recursion(name, (), calls, done)


def _verify_no_recursion(
    name: str, path: tuple[str, ...], calls: Mapping[str, list[tuple[Function, Operation]]], done: set[str]
) -> None:
    for function, call in calls[name] if name not in done else ():
        for callee in callees(call):
            if callee in (*path, name):
                circle = (*path, name)[(*path, name).index(callee) :]
                chain = " → ".join((*circle, callee))
                fail(function, f"calls itself ({chain})", call, help="memory is planned ahead, so recursion has no end")
            _verify_no_recursion(callee, (*path, name), calls, done)
    done.add(name)


def _verify_call(module: Module, function: Function, call: Operation) -> None:
    """What is given fits the named functions' arguments, what is stated their results."""
    functions = module.functions
    match call:
        case Call():
            returned = _returned(function, call, functions[call.callee], [v.type for v in call.inputs])
            _compare(function, call, functions[call.callee], call.types, returned)
        case Vjp():
            returned = _returned(function, call, functions[call.callee], [v.type for v in call.inputs])
            _compare(function, call, functions[call.callee], [c.type for c in call.cotangents], returned)
        case Jvp():
            returned = _returned(function, call, functions[call.callee], [v.type for v in call.inputs])
            _compare(function, call, functions[call.callee], call.types, returned)
        case CustomCall():
            _verify_custom(module, function, call)


def _verify_custom(module: Module, function: Function, call: CustomCall) -> None:
    primal, forward, backward = (module.functions[name] for name in callees(call))
    inputs = [v.type for v in call.inputs]
    _compare(function, call, primal, call.types, _returned(function, call, primal, inputs))
    returned = _returned(function, call, forward, inputs)
    count = len(call.types)
    _compare(function, call, forward, call.types, returned[:count])
    cotangents = [t for t in call.types if t.dtype.is_float]
    gradients = _returned(function, call, backward, [*returned[count:], *cotangents])
    _compare(function, call, backward, [t for t in inputs if t.dtype.is_float], gradients)


def _returned(function: Function, call: Operation, callee: Function, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Types that `callee`, given `inputs`, returns, in the caller's sizes."""
    if len(inputs) != len(callee.arguments):
        fail(function, f"{len(inputs)} arguments given, '{callee.name}' takes {len(callee.arguments)}", call)
    sizes = argument_sizes(callee, inputs)
    for index, (given, argument) in enumerate(zip(inputs, callee.arguments)):
        if not _fits(given, with_sizes(argument.type, sizes)):
            place = index if index < len(call.operands) and call.operands[index].type is given else None
            fail(function, f"argument {index} is {given}, '{callee.name}' takes {argument.type}", call, place)
    for index, type_ in enumerate(callee.result_types):
        unknown = sorted(type_.symbols - sizes.keys())
        if unknown:
            fail(
                function,
                f"result {index} of '{callee.name}' has the size '{unknown[0]}', which its arguments do not tell",
                call,
                help="a function that others call returns only sizes that follow from its arguments",
            )
    return [with_sizes(t, sizes) for t in callee.result_types]


def _compare(
    function: Function,
    call: Operation,
    callee: Function,
    stated: Sequence[TensorType],
    returned: Sequence[TensorType],
) -> None:
    if len(returned) != len(stated):
        fail(function, f"states {len(stated)} results, '{callee.name}' returns {len(returned)}", call)
    for index, (a, b) in enumerate(zip(stated, returned)):
        if a != b:
            fail(function, f"states {a} for result {index}, '{callee.name}' returns {b}", call)


def argument_sizes(callee: Function, inputs: Sequence[TensorType]) -> dict[str, Dim]:
    """The caller's sizes that the symbols of `callee`'s arguments stand for, given arguments of types `inputs`."""
    sizes: dict[str, Dim] = {}
    for given, argument in zip(inputs, callee.arguments):
        wanted = argument.type
        if (given.rank, given.dtype) == (wanted.rank, wanted.dtype):
            for dim, size in zip(wanted.shape, given.shape):
                if str(dim).isidentifier():
                    sizes.setdefault(str(dim), size)
    return sizes


def with_sizes(type_: TensorType, sizes: Mapping[str, Dim]) -> TensorType:
    """`type_` with the callee's symbols replaced, all at once."""
    return type_.with_shape([substitute(d, sizes) for d in type_.shape])


def _fits(given: TensorType, wanted: TensorType) -> bool:
    """Equal rank, element type and known sizes; symbolic sizes are checked at run time."""
    return (given.rank, given.dtype) == (wanted.rank, wanted.dtype) and all(
        isinstance(a - b, Expr) or a == b for a, b in zip(given.shape, wanted.shape)
    )
