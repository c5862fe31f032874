"""Inside PyTorch: ``torch.compile(model, backend="ds")``, and `ds_compiler.compile` of a module.

In:   FX graphs from Dynamo and AOTAutograd, or from torch.export.
Out:  functions of tensors that run compiled programs on the tensors' own memory.
Read: `backend` (compiles graphs), `program` (one call), `partition` (what cannot be compiled runs in PyTorch),
      `exported` (whole modules).
"""

from ds_compiler.torch.accounts import GraphReport, report, reset

__all__ = ["GraphReport", "report", "reset"]
