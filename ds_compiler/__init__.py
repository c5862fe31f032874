"""Compile neural networks to native code.

    import ds_compiler as ds
    model = ds.compile("model.onnx")     # or ds.load("model.dsa")
    outputs = model(x=array)

    @ds.compile
    def step(weights, batch): ...         # traced on its first call; ds.numpy has the functions of arrays

In: ONNX models, IR modules, Python functions. Out: `CompiledModel`, `CompiledFunction`.
Start reading at `api`, then docs/architecture.md.
Names are imported when first used, so that this import costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds_compiler import nn, optim
    from ds_compiler.api import compile, load
    from ds_compiler.compiled import CompiledModel
    from ds_compiler.frontends.trace import namespace as numpy
    from ds_compiler.frontends.trace import random
    from ds_compiler.frontends.trace.control import cond, dynamic_slice, fori_loop, scan, while_loop
    from ds_compiler.frontends.trace.elementwise import where
    from ds_compiler.frontends.trace.errors import TraceError
    from ds_compiler.frontends.trace.tree import register_node, tree_leaves, tree_map
    from ds_compiler.function import CompiledFunction
    from ds_compiler.ir.errors import CompileError
    from ds_compiler.runtime.cuda.arrays import DeviceArray
    from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError, NonFiniteError
    from ds_compiler.transfer import device_get, device_put
    from ds_compiler.transforms import custom_vjp, grad, jvp, stop_gradient, value_and_grad, vjp, vmap

__all__ = [
    "CompileError",
    "CompiledFunction",
    "CompiledModel",
    "DeviceArray",
    "ExecutionError",
    "InputError",
    "LoadError",
    "NonFiniteError",
    "TraceError",
    "compile",
    "cond",
    "custom_vjp",
    "device_get",
    "device_put",
    "dynamic_slice",
    "fori_loop",
    "grad",
    "jvp",
    "load",
    "nn",
    "numpy",
    "optim",
    "random",
    "register_node",
    "scan",
    "stop_gradient",
    "tree_leaves",
    "tree_map",
    "value_and_grad",
    "vjp",
    "vmap",
    "where",
    "while_loop",
]

_HOMES = {
    "compile": "ds_compiler.api",
    "load": "ds_compiler.api",
    "CompiledFunction": "ds_compiler.function",
    "CompiledModel": "ds_compiler.compiled",
    "DeviceArray": "ds_compiler.runtime.cuda.arrays",
    "device_get": "ds_compiler.transfer",
    "device_put": "ds_compiler.transfer",
    "TraceError": "ds_compiler.frontends.trace.errors",
    "register_node": "ds_compiler.frontends.trace.tree",
    "tree_leaves": "ds_compiler.frontends.trace.tree",
    "tree_map": "ds_compiler.frontends.trace.tree",
    "CompileError": "ds_compiler.ir.errors",
    "ExecutionError": "ds_compiler.runtime.errors",
    "InputError": "ds_compiler.runtime.errors",
    "LoadError": "ds_compiler.runtime.errors",
    "NonFiniteError": "ds_compiler.runtime.errors",
    **dict.fromkeys(
        ("cond", "dynamic_slice", "fori_loop", "scan", "while_loop"), "ds_compiler.frontends.trace.control"
    ),
    "where": "ds_compiler.frontends.trace.elementwise",
    **dict.fromkeys(
        ("custom_vjp", "grad", "jvp", "stop_gradient", "value_and_grad", "vjp", "vmap"), "ds_compiler.transforms"
    ),
}

_MODULES = {
    "nn": "ds_compiler.nn",
    "numpy": "ds_compiler.frontends.trace.namespace",
    "optim": "ds_compiler.optim",
    "random": "ds_compiler.frontends.trace.random",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    if name in _MODULES:
        module = globals()[name] = importlib.import_module(_MODULES[name])
        return module
    if name == "__version__":
        from importlib.metadata import version

        return version("ds_compiler")
    raise AttributeError(f"module 'ds_compiler' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
