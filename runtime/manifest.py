"""The manifest: what the runtime must know of a program besides its machine code; plain data, JSON on disk.

Sizes are text over the program's symbols (`ds_compiler.runtime.dims`); a static size is a number as text.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from ds_compiler.runtime.abi import ABI_VERSION, ALIGNMENT
from ds_compiler.runtime.cpu import architecture
from ds_compiler.runtime.dtypes import dtype_of, short_name
from ds_compiler.runtime.errors import LoadError


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, element type (NumPy's or ml_dtypes' name) and sizes."""

    name: str
    dtype: str
    dims: tuple[str, ...]

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Sizes: numbers where they are static, else the text of an expression."""
        return tuple(int(dim) if dim.isdigit() else dim for dim in self.dims)

    def __str__(self) -> str:
        return f"{short_name(self.dtype)}[{','.join(self.dims)}]"


@dataclass(frozen=True)
class Symbol:
    """A symbolic size: bound to axis `axis` of input `input`, or, when both are None, stored by the program."""

    name: str
    input: int | None = None
    axis: int | None = None


@dataclass(frozen=True)
class Constraint:
    """A comparison over symbols that must hold for every call (``seq <= 512``), and what to tell if it does not."""

    expression: str
    message: str = ""


@dataclass(frozen=True)
class Kernel:
    """One step of the program, for profiles: its name, the source nodes it computes, its work, the schedule used."""

    name: str
    nodes: tuple[str, ...] = ()
    flops: str = "0"
    bytes: str = "0"
    tier: str = ""


@dataclass(frozen=True)
class Constant:
    """A constant: where it lies in the constant block (a multiple of 64), and the hash of its content if known."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    hash: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes the constant takes."""
        size = dtype_of(self.dtype).itemsize
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class Overwritable:
    """Output number `output` may be written into the memory of input number `input`, of the same type."""

    output: int
    input: int


@dataclass(frozen=True)
class Manifest:
    """All of it.

    Attributes:
        arena: bytes of the arena.
        scratch: bytes of private scratch a task.
        constants_bytes: size of the constant block; 0 stands for the end of the last constant.
        checks: what the program's run-time checks say when they fail, by the index in the status word.
        overwritable: outputs that may take an input's memory, where the caller gives it up.
        features: CPU features (LLVM's names) the code uses; see `ds_compiler.runtime.cpu.required_features`.
        name, version: of the model and of the project that compiled it, for people.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    symbols: tuple[Symbol, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    arena: str = "0"
    scratch: str = "0"
    kernels: tuple[Kernel, ...] = ()
    constants: tuple[Constant, ...] = ()
    constants_bytes: int = 0
    checks: tuple[str, ...] = ()
    overwritable: tuple[Overwritable, ...] = ()
    features: tuple[str, ...] = ()
    arch: str = field(default_factory=architecture)
    abi: int = ABI_VERSION
    name: str = ""
    version: str = ""

    def constant_block_bytes(self) -> int:
        """Size of the constant block in bytes."""
        return max([self.constants_bytes, *(c.offset + c.nbytes for c in self.constants)])

    def validate(self) -> None:
        """Check the references between the parts.

        Raises:
            LoadError: naming the part that is wrong.
        """
        for tensor in (*self.inputs, *self.outputs):
            dtype_of(tensor.dtype)
        for tensors, what in ((self.inputs, "input"), (self.outputs, "output")):
            if len({t.name for t in tensors}) != len(tensors):
                raise LoadError(f"manifest: two {what}s have the same name")
        for symbol in self.symbols:
            if symbol.input is None:
                continue
            if not 0 <= symbol.input < len(self.inputs):
                raise LoadError(
                    f"manifest: symbol {symbol.name!r} is bound to input {symbol.input}, which does not exist"
                )
            if symbol.axis is None or not 0 <= symbol.axis < len(self.inputs[symbol.input].dims):
                raise LoadError(
                    f"manifest: symbol {symbol.name!r} is bound to axis {symbol.axis}, which does not exist"
                )
        for pair in self.overwritable:
            if not (0 <= pair.output < len(self.outputs) and 0 <= pair.input < len(self.inputs)):
                raise LoadError(f"manifest: output {pair.output} or input {pair.input} does not exist")
            if dataclasses.replace(self.outputs[pair.output], name="") != dataclasses.replace(
                self.inputs[pair.input], name=""
            ):
                raise LoadError(f"manifest: output {pair.output} and input {pair.input} differ in type")
        end = 0
        for constant in sorted(self.constants, key=lambda c: c.offset):
            if constant.offset < end or constant.offset % ALIGNMENT or min(constant.shape, default=0) < 0:
                raise LoadError(
                    f"manifest: constant {constant.name!r} overlaps another or is not {ALIGNMENT}-byte aligned"
                )
            end = constant.offset + constant.nbytes
        if self.constants_bytes and self.constants_bytes < end:
            raise LoadError("manifest: a constant lies outside of the constant block")

    def to_json(self) -> str:
        """JSON text, one key a line at the top level."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @staticmethod
    def from_json(text: str | bytes) -> Manifest:
        """Inverse of `to_json`.

        Raises:
            LoadError: not a manifest, or one of another version.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LoadError(f"manifest: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise LoadError("manifest: not a JSON object")
        if data.get("abi") != ABI_VERSION:
            raise LoadError(
                f"manifest: compiled for runtime interface {data.get('abi')!r}, this is {ABI_VERSION}; compile it again"
            )
        manifest: Manifest = _decode(Manifest, data, "manifest")
        manifest.validate()
        return manifest


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Build a value of annotated type `kind` from JSON data, or raise `LoadError` saying where it does not fit."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise LoadError(f"{where}: expected an object")
        assert isinstance(kind, type)
        hints = _hints(kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise LoadError(f"{where}: unknown entry {sorted(unknown)[0]!r}")
        parts = {key: _decode(hints[key], item, f"{where}.{key}") for key, item in value.items()}
        try:
            return kind(**parts)
        except TypeError as error:
            raise LoadError(f"{where}: {error}") from None
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise LoadError(f"{where}: expected a list")
        element = typing.get_args(kind)[0]
        return tuple(_decode(element, item, f"{where}[{index}]") for index, item in enumerate(value))
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise LoadError(f"{where}: expected {kind.__name__}, got {value!r:.40}")
    return value
