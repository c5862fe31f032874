"""Compile neural networks to native code.

    import ds_compiler as ds
    model = ds.compile("model.onnx")     # or ds.load("model.dsa")
    outputs = model(x=array)

In: ONNX models or IR modules. Out: `CompiledModel`. Start reading at `api`, then docs/architecture.md.
Names are imported when first used, so that this import costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds_compiler.api import compile, load
    from ds_compiler.compiled import CompiledModel
    from ds_compiler.ir.errors import CompileError
    from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError

__all__ = ["CompileError", "CompiledModel", "ExecutionError", "InputError", "LoadError", "compile", "load"]

_HOMES = {
    "compile": "ds_compiler.api",
    "load": "ds_compiler.api",
    "CompiledModel": "ds_compiler.compiled",
    "CompileError": "ds_compiler.ir.errors",
    "ExecutionError": "ds_compiler.runtime.errors",
    "InputError": "ds_compiler.runtime.errors",
    "LoadError": "ds_compiler.runtime.errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("ds_compiler")
    raise AttributeError(f"module 'ds_compiler' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
