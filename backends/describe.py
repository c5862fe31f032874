"""What a program's manifest says of it, whatever its code: inputs and results, symbols, kernels."""

from __future__ import annotations

from collections.abc import Iterable

from ds_compiler.ir import Function, Value
from ds_compiler.ir.dims import Dim, Expr, symbol, symbols_of
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Fusion
from ds_compiler.runtime import manifest
from ds_compiler.runtime.manifest import Symbol


def describe_arguments(function: Function) -> tuple[manifest.Tensor, ...]:
    """The inputs; those without a name are numbered."""
    return tuple(_tensor(v, v.hint or f"input{i}") for i, v in enumerate(function.arguments))


def describe_results(function: Function) -> tuple[manifest.Tensor, ...]:
    """The outputs; those without a name are numbered."""
    values = function.block.terminator.operands
    names = [*function.result_names, *(f"output{i}" for i in range(len(function.result_names), len(values)))]
    return tuple(_tensor(v, n) for v, n in zip(values, names))


def _tensor(value: Value, name: str) -> manifest.Tensor:
    return manifest.Tensor(name, value.type.dtype.numpy.name, tuple(str(d) for d in value.type.shape))


def describe_kernel(fusion: Fusion) -> manifest.Kernel:
    """A fusion for profiles: the source nodes that it computes, and its work."""
    moved: Dim = 0
    for value in dict.fromkeys((*fusion.inputs, *fusion.results)):
        moved = moved + value.type.bytes
    names = fusion.location.names or (fusion.strategy,)
    title = names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"
    return manifest.Kernel(title, names, str(fusion.cost().flops), str(moved), fusion.strategy)


def program_symbols(function: Function, bound: Iterable[str]) -> tuple[Symbol, ...]:
    """The symbols of a program: those that inputs declare, by the axis that tells them, then those it binds itself.

    Raises:
        CompileError: an input's size is an expression of a symbol that no axis of an input states by itself.
    """
    found: dict[str, Symbol] = {}
    used: dict[str, str] = {}
    for index, argument in enumerate(function.arguments):
        for axis, dim in enumerate(argument.type.shape):
            for name in symbols_of(dim):
                used.setdefault(name, f"input '{argument.hint or index}' has the size '{dim}' on axis {axis}")
                if isinstance(dim, Expr) and dim == symbol(name):
                    found.setdefault(name, Symbol(name, index, axis))
    for name, where in used.items():
        if name not in found:
            raise CompileError(f"{where}, but no input has an axis of size '{name}'")
    return (*found.values(), *(Symbol(name) for name in sorted(set(bound))))
