"""What a kernel function is made of, and what the program must know to call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ds_compiler.backends.constants import Packing
from ds_compiler.backends.llvm.body import Body
from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.sizes import emit_size
from ds_compiler.backends.llvm.target import Target
from ds_compiler.ir import Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ops import Constant, Fusion

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KernelInfo:
    """What the program needs to know to call a kernel.

    Attributes:
        symbols: i64 arguments after the pointers: values of these symbols.
        scratch_bytes: private scratch of each thread.
        parallel: False: it cannot be split, and is called with task 0 of 1.
        packed: inputs that are constants and must be stored repacked, with the repacking function and its name.
        inplace: for a result, the inputs whose buffer it may overwrite.
    """

    symbols: tuple[str, ...] = ()
    scratch_bytes: int = 0
    parallel: bool = True
    packed: Mapping[int, Packing] = field(default_factory=dict)
    inplace: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class KernelFrame:
    """A kernel function under construction: its parameters by role.

    `task` is the number of one of `tasks` parts of the work; one thread may be given several of them.
    """

    fb: FunctionBuilder
    fusion: Fusion
    target: Target
    pointers: list[V]
    symbols: Mapping[str, V]
    scratch: V
    task: V
    tasks: V

    def body(self) -> Body:
        """An emitter of scalar code over the kernel's buffers."""
        block = self.fusion.body.block
        types = [a.type for a in block.arguments] + [o.type for o in block.terminator.operands]
        return Body(self.fb, [(p, t.dtype) for p, t in zip(self.pointers, types, strict=True)], self.symbols)

    def size(self, dim: Dim) -> V:
        """A size as i64, computed here."""
        return emit_size(self.fb, dim, self.symbols)

    def pointer(self, value: Value) -> V:
        """The buffer of a block argument."""
        return self.pointers[self.fusion.body.block.arguments.index(value)]  # type: ignore[arg-type]

    def constant_input(self, value: Value) -> int | None:
        """The input number of a block argument, when a constant is passed for it."""
        number = self.fusion.body.block.arguments.index(value)  # type: ignore[arg-type]
        return number if isinstance(self.fusion.inputs[number].defining_op, Constant) else None
