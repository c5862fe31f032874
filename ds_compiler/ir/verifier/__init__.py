"""Whether a module is well formed, and where it is not.

In:   a module, however broken.
Out:  nothing, or a `CompileError`: what is wrong, the line of IR with a caret, the source location.
Read: `function` (structure, values, sizes, types), then `uses` (use lists), `calls` (between functions).
"""

from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.module import Module
from ds_compiler.ir.verifier.calls import verify_calls
from ds_compiler.ir.verifier.function import FunctionVerifier
from ds_compiler.ir.verifier.uses import verify_uses

__all__ = ["verify"]


def verify(module: Module) -> None:
    """Check `module`.

    Raises:
        CompileError: it is broken; the first fault found.
    """
    for name, function in module.functions.items():
        if name != function.name:
            raise CompileError(f"function '{function.name}' is kept under the name '{name}'")
    if "main" not in module.functions:
        known = ", ".join(sorted(module.functions)) or "none"
        raise CompileError("the module has no function 'main'", help=f"functions: {known}")
    for function in module.functions.values():
        FunctionVerifier(function).run()
    verify_uses(module)
    verify_calls(module)
