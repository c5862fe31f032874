"""Python functions of arrays → a module: the function runs once on `TracedArray`s, which record what is done to them.

In:   a function, and the types of its arguments.
Out:  a `ds_compiler.ir.Module` whose operations carry the user's file:line.
Read: `frame` (where operations go), `array`, then `elementwise` and its neighbours; `function` ties it together.
"""

from ds_compiler.frontends.trace import namespace
from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.errors import TraceError

__all__ = ["TraceError", "TracedArray", "namespace"]
