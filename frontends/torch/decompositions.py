"""Which operators PyTorch rewrites into simpler ones before we see a graph: all with a rule that we do not import."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table

from ds_compiler.frontends.torch import operators
from ds_compiler.frontends.torch.registry import find_handler

_ = operators  # importing the package registers the handlers


_KEPT = {"aten.lift.default", "aten.lift_fresh.default"}
"""They mark constants; functionalization, which comes later, rewrites them."""


@functools.cache
def decompositions() -> dict[Any, Any]:
    """PyTorch's table, without what is imported directly, and our rules."""
    table = {**decomposition_table, **core_aten_decompositions()}
    for op in list(table):
        name = str(op)
        if find_handler(op) is not None or name in _KEPT or name.endswith(("_out", ".out")):
            del table[op]
    table.update(_OWN)
    return table


def _dropout(x: Any, p: float, train: bool | None) -> tuple[Any, Any]:
    """The mask is what backward needs; a random operator is never computed twice."""
    if not train or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    if p == 1:
        return torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
    kept = torch.rand(x.shape, dtype=torch.float32, device=x.device) >= p
    return x * kept.to(x.dtype) * (1.0 / (1.0 - p)), kept


_OWN: dict[Any, Any] = {torch.ops.aten.native_dropout.default: _dropout}
