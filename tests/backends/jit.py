"""Run generated LLVM text in tests and benchmarks: parse, generate code without IR passes, call through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm

from ds_compiler.backends.llvm.target import Target, host


class Compiled:
    """A compiled module. Functions obtained from it keep it alive."""

    def __init__(self, text: str, target: Target) -> None:
        # One target machine an engine: two engines on one machine crash when the first is freed.
        self.machine = target.machine()
        module = llvm.parse_assembly(text)
        module.verify()
        module.triple = self.machine.triple
        module.data_layout = str(self.machine.target_data)
        self.engine = llvm.create_mcjit_compiler(module, self.machine)
        self.module = module
        self.engine.finalize_object()

    def function(self, name: str, arguments: Sequence[Any], result: Any = None) -> Callable[..., Any]:
        """The function as a Python callable; `arguments` and `result` are ctypes types (None: void).

        Pass arrays as ``array.ctypes.data`` for ``ctypes.c_void_p``; keep the array alive during the call.
        """
        address = self.engine.get_function_address(name)
        if not address:
            raise KeyError(f"no function '{name}' in the module")
        native = ctypes.CFUNCTYPE(result, *arguments)(address)

        def call(*values: Any, _keep: Compiled = self) -> Any:
            return native(*values)

        return call

    def assembly(self) -> str:
        """Assembly text, for looking at what came out."""
        return str(self.machine.emit_assembly(llvm.parse_assembly(str(self.module))))


def compile_module(text: str, target: Target | None = None) -> Compiled:
    """Compile LLVM text for `target` (this machine when None).

    Raises:
        RuntimeError: the text doesn't parse or verify, LLVM's message inside.
    """
    return Compiled(text, target or host())
