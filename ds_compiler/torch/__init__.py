"""Inside PyTorch: ``torch.compile(model, backend="ds")``, and `ds_compiler.compile` of a module.

In:   FX graphs from Dynamo and AOTAutograd, or from torch.export.
Out:  functions of tensors that run compiled programs on the tensors' own memory.
Read: `backend` (compiles graphs), `program` (one call), `partition` (what cannot be compiled runs in PyTorch),
      `exported` (whole modules).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ds_compiler.torch.accounts import GraphReport, report, reset

if TYPE_CHECKING:
    from ds_compiler.torch.exported import ExportedModule

__all__ = ["ExportedModule", "GraphReport", "report", "reset"]


def __getattr__(name: str) -> Any:
    if name == "ExportedModule":
        from ds_compiler.torch.exported import ExportedModule

        return ExportedModule
    raise AttributeError(f"module 'ds_compiler.torch' has no attribute {name!r}")
