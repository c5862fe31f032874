"""ONNX models become modules of primitives.

In:   a path, bytes or `onnx.ModelProto`.
Out:  a `Module` whose ``main`` has the model's input and output names.
Read: `importer` (the walk), `emitter` (what handlers build with), then any file of `operators`.
      `loader` holds the checks of a file, `shapes` what is computed at import, `registry` the table of operators.
"""

from ds_compiler.frontends.onnx.importer import import_model
from ds_compiler.frontends.onnx.registry import supported_operators

__all__ = ["import_model", "supported_operators"]
