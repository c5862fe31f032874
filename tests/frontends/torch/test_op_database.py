"""Operators of PyTorch's own test database, imported and interpreted, against eager mode."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="PyTorch's test database needs it")

from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

from ds_compiler.frontends.torch import decompositions, import_graph  # noqa: E402
from ds_compiler.frontends.torch.importer import to_numpy  # noqa: E402
from ds_compiler.ir import CompileError  # noqa: E402
from ds_compiler.reference import interpret  # noqa: E402
from ds_compiler.torch import partition  # noqa: E402

TYPES = (torch.float32, torch.float64, torch.int64, torch.bool)
TOLERANCE = {torch.float32: (1e-4, 1e-5), torch.float64: (1e-7, 1e-8)}
LEFT_OUT = {
    "empty": "the elements are whatever memory holds", "empty_like": "as empty", "empty_strided": "as empty",
    "empty_permuted": "as empty", "new_empty": "as empty", "new_empty_strided": "as empty",
    "sort": "the order of equal elements is open", "argsort": "as sort", "topk": "as sort",
    "bfloat16": "NumPy's arrays of it are no tensors",
}  # fmt: skip
SAMPLE = ("amax", "gather", "unfold", "index_add", "scatter_reduce_sum", "floor_divide", "cumsum")


def _constant(graph: Any, name: str) -> Any:
    return getattr(graph, name, None)


def _outcome(op: Any, sample: Any) -> str:
    """``equal``; or why it was not compared: PyTorch does not capture it, or an operator is left to PyTorch.

    Raises:
        AssertionError: results differ.
        CompileError: an operator that is said to be imported is not.
    """
    leaves, form = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    tensors = [leaves[i].detach().clone() for i in places]

    def call(*given: Any) -> list[Any]:
        filled = list(leaves)
        for place, tensor in zip(places, given, strict=True):
            filled[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(filled, form)
        return [t for t in pytree.tree_leaves(op(first, *args, **kwargs)) if isinstance(t, torch.Tensor)]

    expected = call(*(t.clone() for t in tensors))
    if any(t.is_complex() or t.layout != torch.strided for t in (*tensors, *expected)):
        return "complex or sparse"
    functional = torch.func.functionalize(call, remove="mutations_and_views")
    try:
        graph = make_fx(functional, decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return "not captured"
    if partition.unsupported(graph):
        return "left to PyTorch"
    imported = import_graph(graph.graph, functools.partial(_constant, graph), preserve_strides=False)
    if imported.random:
        return "random"
    results = interpret(imported.module, [to_numpy(tensors[a.index]) for a in imported.arguments])
    for output, wanted in zip(imported.outputs, expected, strict=True):
        if output.result is not None:
            found = torch.from_numpy(np.array(results[output.result]))
        else:
            found = tensors[output.argument]
        rtol, atol = TOLERANCE.get(wanted.dtype, (0, 0))
        torch.testing.assert_close(found, wanted.detach().contiguous(), rtol=rtol, atol=atol, equal_nan=True)
    return "equal"


def _sweep(ops: list[Any], samples: int) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    wrong = []
    for op in ops:
        for dtype in (t for t in TYPES if op.supports_dtype(t, "cpu")):
            for index, sample in zip(range(samples), op.sample_inputs("cpu", dtype)):
                torch.manual_seed(0)
                try:
                    outcome = _outcome(op, sample)
                except (AssertionError, CompileError) as error:
                    outcome = "wrong"
                    wrong.append(f"{op.formatted_name} {dtype} sample {index}: {error}")
                counts[outcome] += 1
    return counts, wrong


def test_a_sample_of_operators() -> None:
    counts, wrong = _sweep([op for op in op_db if op.formatted_name in SAMPLE], 3)
    assert not wrong
    assert counts["equal"] > 40, counts


@pytest.mark.slow
def test_every_operator() -> None:
    ops = [op for op in op_db if op.formatted_name not in LEFT_OUT and not op.formatted_name.startswith("jiterator")]
    ops = [op for op in ops if op.formatted_name != "as_strided_partial_views"]
    counts, wrong = _sweep(ops, 6)
    assert not wrong
    assert counts["equal"] > 5000, counts
