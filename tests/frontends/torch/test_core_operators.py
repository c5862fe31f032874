"""Which operators of PyTorch's core set are not compiled, and why."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from ds_compiler.frontends.torch import decompositions  # noqa: E402
from ds_compiler.frontends.torch.registry import find_handler  # noqa: E402

LEFT = {
    "aten._cdist_forward.default": "distances of all pairs under any norm; no network that was looked at has it",
    "aten._embedding_bag.default": "bags are ragged: their sizes are in the data",
    "aten._fft_c2r.default": "complex numbers",
    "aten._fft_r2c.default": "complex numbers",
    "aten._local_scalar_dense.default": "a number of the data becomes one of Python's",
    "aten._pdist_forward.default": "as _cdist_forward",
    "aten.atan2.out": "functionalisation removes it",
    "aten.nonzero.default": "the result's size is in the data",
    "aten.resize_.default": "changes the size of a tensor in place, which Dynamo does not capture",
    "aten.sym_storage_offset.default": "functionalisation removes it",
}


def test_every_core_operator_is_compiled_or_stands_in_the_list() -> None:
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten)]
    overloads = [getattr(p, name) for p in packets if hasattr(p, "overloads") for name in p.overloads()]
    core = [op for op in overloads if torch.Tag.core in op.tags]
    simpler = decompositions()
    left = {str(op) for op in core if find_handler(op) is None and op not in simpler}
    assert len(core) > 180
    assert left <= set(LEFT), "neither compiled nor explained"
