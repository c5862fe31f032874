"""How calls of a compiled function are told apart: what each leaf of the arguments is to the program."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.dtypes import element_type
from ds_compiler.frontends.trace.errors import TraceError
from ds_compiler.frontends.trace.number import type_of
from ds_compiler.frontends.trace.places import here
from ds_compiler.frontends.trace.tree import Structure
from ds_compiler.guards import LARGEST_INT, Watch
from ds_compiler.ir import Dim, TensorType, symbol
from ds_compiler.runtime.cuda import arrays as arrays_there

Signature = tuple[Any, ...]
_NUMBERS = {int: np.int64, float: np.float64}


@dataclass(frozen=True)
class Static:
    """An argument that is no array: its value is part of the program."""

    type: type
    value: Any


@dataclass(frozen=True)
class Scalar:
    """A Python number that is an input of the program."""

    type: type


@dataclass(frozen=True)
class Call:
    """The arguments of one call.

    Attributes:
        signature: an entry for each leaf: `Static`, `Scalar`, or element type and shape of an array.
        arrays: the leaves that are inputs of the program.
        sizes: values of the open sizes.
    """

    signature: Signature
    arrays: list[Any]
    sizes: Mapping[str, int]


@dataclass
class Numbers:
    """Which Python numbers are inputs: those that were seen to change, unless the function needs their values while
    it is traced (in an ``if``, as a size). By the form of the arguments, and the number of the leaf.

    Attributes:
        open: they are inputs.
        needed: they are part of the program, and why.
    """

    enabled: bool
    open: dict[Structure, frozenset[int]] = field(default_factory=dict)
    needed: dict[tuple[Structure, int], str] = field(default_factory=dict)

    def of(self, structure: Structure) -> frozenset[int]:
        return self.open.get(structure, frozenset())

    def learn(self, structure: Structure, leaves: Sequence[Any], known: Iterable[Signature]) -> None:
        """Open the numbers that differ from those of programs compiled before."""
        if not self.enabled:
            return
        found = set(self.of(structure))
        for signature in known:
            for index, (was, now) in enumerate(zip(signature, leaves)):
                changed = isinstance(was, Static) and was.type is type(now) in _NUMBERS and was.value != now
                if changed and (structure, index) not in self.needed:
                    found.add(index)
        self.open[structure] = frozenset(found)

    def fix(self, structure: Structure, numbers: frozenset[int], why: str) -> None:
        """Make them part of the program."""
        self.open[structure] = self.of(structure) - numbers
        self.needed.update(dict.fromkeys(((structure, index) for index in numbers), why))


@dataclass
class OuterNumbers:
    """Which Python numbers of the function's closure and globals are inputs: those that were seen to change, unless
    their values are needed while it is traced, or other functions read them too.

    Attributes:
        open: they are inputs, by name.
        fixed: they are part of the program, and why.
    """

    enabled: bool
    open: set[str] = field(default_factory=set)
    fixed: dict[str, str] = field(default_factory=dict)

    def learn(self, known: Iterable[tuple[Watch, str]]) -> None:
        """Open the numbers that differ from those of programs compiled before.

        Args:
            known: what those found, each with the reason against opening it, or "".
        """
        for watch, against in known:
            if not self.enabled or watch.kind != "equal" or not watch.failure():
                continue
            if against:
                self.fixed.setdefault(watch.path, against)
            if watch.path not in self.fixed and type(watch.fetch()) is type(watch.value):
                self.open.add(watch.path)

    def fix(self, names: Iterable[str], why: str) -> None:
        """Make them part of the program."""
        for name in names:
            self.open.discard(name)
            self.fixed[name] = why

    def told(self, path: str, failure: str) -> str:
        """Why a guard on a variable failed, and what becomes of the variable."""
        if path in self.open:
            return f"{failure}: from now on it is an input"
        return f"{failure} (part of the program: {self.fixed[path]})" if path in self.fixed else failure


class Parameters:
    """What a function takes, and which sizes stay open.

    Args:
        dynamic: as `ds_compiler.compile` takes it.
        on_device: arrays on a CUDA device are taken as they are, not copied to the host.
    """

    def __init__(
        self, function: Any, name: str, dynamic: bool | Mapping[str, Any] | None, on_device: bool = False
    ) -> None:
        self.name, self.dynamic, self.on_device = name, dynamic, on_device
        try:
            self.names = list(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            self.names = []

    def check(self, named: Iterable[str]) -> None:
        """
        Raises:
            ValueError: one of them is no parameter.
        """
        for name in named:
            if name not in self.names:
                raise ValueError(f"{self.name} has no parameter {name!r}; it has: {', '.join(self.names)}")

    def paths(self, structure: Structure) -> list[str]:
        """How the user names each leaf of the arguments."""
        args, kwargs = structure.children
        paths: list[str] = []
        for index, child in enumerate(args.children):
            paths += child.paths(self.names[index] if index < len(self.names) else f"argument {index}")
        for name, child in zip(kwargs.context, kwargs.children):  # type: ignore[call-overload]
            paths += child.paths(str(name))
        return paths

    def describe(self, leaves: Sequence[Any], structure: Structure, open_numbers: frozenset[int]) -> Call:
        """What a call's leaves are.

        Raises:
            TraceError: one is a traced array, or neither an array nor hashable; or open sizes contradict each other.
        """
        described: list[Any] = []
        arrays: list[Any] = []
        for index, leaf in enumerate(leaves):
            if index in open_numbers and type(leaf) in _NUMBERS and (type(leaf) is float or abs(leaf) <= LARGEST_INT):
                described.append(Scalar(type(leaf)))
                arrays.append(np.asarray(leaf, _NUMBERS[type(leaf)]))
                continue
            if self.on_device and arrays_there.on_device(leaf):
                described.append(arrays_there.described(leaf))
                arrays.append(leaf)
                continue
            array = leaf if isinstance(leaf, np.ndarray | np.generic) else _foreign(leaf)
            if array is not None:
                described.append((array.dtype, array.shape))
                arrays.append(array)
            else:
                described.append(Static(type(leaf), leaf))
        sizes: dict[str, int] = {}
        if self.dynamic is not None and self.dynamic is not False:
            described = self._with_symbols(described, structure, sizes)
        signature = tuple(described)
        try:
            hash(signature)
        except TypeError:
            path = next(p for p, d in zip(self.paths(structure), described) if not _hashable(d))
            raise TraceError(
                f"{self.name}: argument {path} is neither an array nor hashable",
                location=here(),
                help="pass an array, or register its class with ds.register_node",
            ) from None
        return Call(signature, arrays, sizes)

    def _with_symbols(self, described: list[Any], structure: Structure, sizes: dict[str, int]) -> list[Any]:
        """Open sizes replaced by their symbols, so that the key is one for all of them; `sizes` gets their values."""
        paths = self.paths(structure)
        result = list(described)
        for index, (path, item) in enumerate(zip(paths, described)):
            if isinstance(item, Static | Scalar):
                continue
            dtype, shape = item
            new: list[Dim] = list(shape)
            if isinstance(self.dynamic, Mapping):
                names = axis_names(self.dynamic.get(path.split("[")[0].split(".")[0]), len(shape))
                for axis, name in names.items():
                    if axis >= len(shape):
                        raise TraceError(f"dynamic: {path} has no axis {axis}", location=here())
                    if sizes.setdefault(name, shape[axis]) != shape[axis]:
                        raise TraceError(
                            f"{self.name}: the size '{name}' is {sizes[name]} in one argument and "
                            f"{shape[axis]} in {path}",
                            location=here(),
                        )
                    new[axis] = symbol(name)
            elif path.isidentifier() and shape and sizes.get("batch", shape[0]) == shape[0]:
                sizes["batch"] = shape[0]
                new[0] = symbol("batch")
            result[index] = (dtype, tuple(new))
        return result


def _foreign(leaf: Any) -> Any:
    """An array of another library as NumPy's, without a copy where that library can; None: it is no array.

    Raises:
        TraceError: it is an array that is traced, or that cannot be read.
    """
    if isinstance(leaf, TracedArray):
        raise TraceError(
            "a traced array is given to a compiled function outside of any trace",
            location=here(),
            help=f"it was made at {leaf.made}; return it from the traced function instead",
        )
    if type(leaf) in _NUMBERS or not hasattr(leaf, "__array__"):
        return None
    try:
        return np.asarray(leaf)
    except (TypeError, RuntimeError, ValueError) as error:
        raise TraceError(f"an argument of type {type(leaf).__name__}: {error}", location=here()) from None


def type_in_program(path: str, described: Any) -> TensorType | None:
    """The type of a leaf that is an input.

    Raises:
        TraceError: its element type does not exist.
    """
    if isinstance(described, Static):
        return None
    if isinstance(described, Scalar):
        return type_of(described.type)
    dtype, shape = described
    try:
        return TensorType(shape, element_type(dtype))
    except TraceError as error:
        raise TraceError(f"{path}: {error.what}", location=error.location, help=error.help) from None


def shown(described: Any) -> str:
    """An entry of a signature in messages."""
    if isinstance(described, Static):
        return repr(described.value)
    if isinstance(described, Scalar):
        return f"any {described.type.__name__}"
    dtype, shape = described
    return f"{dtype}[{', '.join(map(str, shape))}]"


def axis_names(given: Any, rank: int) -> dict[int, str]:
    """Names of open sizes by axis, from a dict, a sequence with None for fixed ones, or one name for the first axis."""
    if given is None:
        return {}
    if isinstance(given, str):
        return {0: given}
    if isinstance(given, Mapping):
        return {axis % rank if rank and axis < 0 else axis: str(name) for axis, name in given.items()}
    return {axis: str(name) for axis, name in enumerate(given) if name is not None}


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
