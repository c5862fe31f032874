"""What exists while a program runs: loading, calling, threads, memory, caching.

In: one relocatable object with ``dsc_main``, the pool object, a `Manifest`, and constants (from a back end, or from
an artifact on disk). Out: an `Executable` that takes and returns NumPy arrays.
Neither LLVM, ONNX nor the compiler's IR is imported here: an artifact runs without them.

Start reading at `abi` (what generated code and runtime agree on), then `executable` (a call), `plan` (shapes),
`threads`, `elf` (the loader), `artifact` and `cache` (files).
"""

from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError
from ds_compiler.runtime.executable import Executable, KernelTime
from ds_compiler.runtime.manifest import Constant, Constraint, Kernel, Manifest, Symbol, Tensor

__all__ = [
    "Constant",
    "Constraint",
    "Executable",
    "ExecutionError",
    "InputError",
    "Kernel",
    "KernelTime",
    "LoadError",
    "Manifest",
    "Symbol",
    "Tensor",
]
