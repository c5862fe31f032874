"""Flash attention under Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Binary, Broadcast, Compare, DotGeneral, Iota, Reduce, Select, Unary
from ds_compiler.passes.attention import outline_attention
from tests.backends.triton.interpreting import check, needs_triton
from tests.passes.helpers import module_of, spread, tensor

pytestmark = needs_triton


def attention(b: Builder, q: Value, k: Value, v: Value, *, causal: bool = False) -> Value:
    """softmax(q kᵀ / 4) v over [batch, heads, positions, size]."""
    scores = b.emit(DotGeneral(q, k, (0, 1), (0, 1), (3,), (3,)))
    scores = b.emit(Binary(scores, spread(b, 0.25, scores), "mul"))
    shape = scores.type.shape
    if causal:
        rows, columns = (b.emit(Iota(shape, axis, i64)) for axis in (2, 3))
        scores = b.emit(Select(b.emit(Compare(columns, rows, "le")), scores, spread(b, -np.inf, scores)))
    top = b.emit(Broadcast(b.emit(Reduce(scores, (3,), "max")), shape, (0, 1, 2)))
    e = b.emit(Unary(b.emit(Binary(scores, top, "sub")), "exp"))
    total = b.emit(Broadcast(b.emit(Reduce(e, (3,), "sum")), shape, (0, 1, 2)))
    return b.emit(DotGeneral(b.emit(Binary(e, total, "div")), v, (0, 1), (0, 1), (3,), (2,)))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("q", "kv"), [("2 3 70 16", "2 3 70 16"), ("b 2 n 24", "b 2 n 24"), ("1 2 1 16", "1 2 90 16")])
def test_attention_is_one_kernel(q: str, kv: str, causal: bool, dtype: str) -> None:
    def make(b: Builder, x: Value, y: Value, z: Value) -> Value:
        return attention(b, x, y, z, causal=causal)

    module = module_of(make, tensor(q, dtype), tensor(kv, dtype), tensor(kv, dtype))
    outline_attention(module, narrow=True)
    lowered = check(module, {"b": 2, "n": 150}, {"b": 1, "n": 1}, scale=4)
    (kernel,) = lowered.program.kernels
    assert kernel.source.count("tl.dot(") == 2
    assert ("tl.minimum(" in kernel.source) == (causal and q == kv)
