"""Attention in primitives is outlined, and computes the same on NumPy and as native code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Builder, Dim, Module, Value
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import (
    Binary,
    Broadcast,
    Compare,
    Composite,
    DotGeneral,
    Fusion,
    Iota,
    Predicate,
    Reduce,
    Reshape,
    Select,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.passes import collect
from ds_compiler.passes.manager import run
from tests.backends.programs import check_program, compiled
from tests.passes.helpers import check, const, module_of, spread

B, H, D = 2, 3, 8
Scores = Callable[[Builder, Value], Value]


def softmax(b: Builder, x: Value, guarded: bool = False) -> Value:
    last, kept = x.type.rank - 1, tuple(range(x.type.rank - 1))
    shape = x.type.shape
    top = b.emit(Broadcast(b.emit(Reduce(x, (last,), "max")), shape, kept))
    e = b.emit(Unary(b.emit(Binary(x, top, "sub")), "exp"))
    p = b.emit(Binary(e, b.emit(Broadcast(b.emit(Reduce(e, (last,), "sum")), shape, kept)), "div"))
    if guarded:
        p = b.emit(Select(b.emit(Predicate(p, "isnan")), spread(b, 0.0, p), p))
    return p


def scaled(b: Builder, x: Value, factor: float) -> Value:
    return b.emit(Binary(x, spread(b, factor, x), "mul"))


def heads(b: Builder, x: Value, count: int = H) -> Value:
    """[batch, seq, heads*dim] → [batch, heads, seq, dim]."""
    batch, seq, width = x.type.shape
    assert isinstance(width, int)
    return b.emit(Transpose(b.emit(Reshape(x, (batch, seq, count, width // count))), (0, 2, 1, 3)))


def merged(b: Builder, x: Value) -> Value:
    """[batch, heads, seq, dim] → [batch, seq, heads*dim]."""
    batch, count, seq, width = x.type.shape
    return b.emit(Reshape(b.emit(Transpose(x, (0, 2, 1, 3))), (batch, seq, count * width)))


def attend(b: Builder, q: Value, k: Value, v: Value, scores: Scores | None = None, guarded: bool = False) -> Value:
    """softmax(f(Q·Kᵀ))·V of [batch, heads, seq, dim] operands."""
    s = b.emit(DotGeneral(q, k, (0, 1), (0, 1), (3,), (3,)))
    s = scores(b, s) if scores is not None else s
    return b.emit(DotGeneral(softmax(b, s, guarded), v, (0, 1), (0, 1), (3,), (2,)))


# -- the ways in which exporters write it ------------------------------------------------------
def scale_after(b: Builder, q: Value, k: Value, v: Value) -> Value:
    q, k, v = (heads(b, x) for x in (q, k, v))
    return merged(b, attend(b, q, k, v, lambda b, s: b.emit(Binary(s, spread(b, 2.5, s), "div"))))


def explicit_transpose(b: Builder, q: Value, k: Value, v: Value, mask: Value) -> Value:
    """As exported from torch's fused attention: Kᵀ through [batch*heads, seq, dim], both sides scaled, NaN guard."""
    q, k, v = (heads(b, x) for x in (q, k, v))
    batch, count, seq, dim = k.type.shape
    k = b.emit(Transpose(b.emit(Reshape(k, (batch * count, seq, dim))), (0, 2, 1)))
    k = b.emit(Reshape(k, (batch, count, dim, seq)))
    s = b.emit(DotGeneral(scaled(b, q, 0.5), scaled(b, k, 0.5), (0, 1), (0, 1), (3,), (2,)))
    s = b.emit(Binary(s, b.emit(Broadcast(mask, s.type.shape, (0, 1, 2, 3))), "add"))
    return merged(b, b.emit(DotGeneral(softmax(b, s, True), v, (0, 1), (0, 1), (3,), (2,))))


def one_projection(b: Builder, qkv: Value) -> Value:
    """Q, K and V are slices of one tensor (GPT-2), with a causal mask made from positions, computed by the kernel."""
    batch, seq, width = qkv.type.shape
    assert isinstance(width, int)
    third = width // 3
    parts = [b.emit(Slice(qkv, (0, 0, n * third), (batch, seq, third), (1, 1, 1))) for n in range(3)]
    q, k, v = (heads(b, x) for x in parts)

    def causal(b: Builder, s: Value) -> Value:
        row, column = (b.emit(Iota(s.type.shape[2:], axis, i64)) for axis in (0, 1))
        allowed = b.emit(Compare(row, column, "ge"))
        allowed = b.emit(Broadcast(allowed, s.type.shape, (2, 3)))
        return b.emit(Select(allowed, scaled(b, s, 0.3), spread(b, -np.inf, s)))

    return merged(b, attend(b, q, k, v, causal))


def packed_heads(b: Builder, qkv: Value) -> Value:
    """[batch, seq, 3*heads*dim] regrouped with Q, K, V outermost (ViT in PaddleOCR)."""
    batch, seq, _ = qkv.type.shape
    t = b.emit(Transpose(b.emit(Reshape(qkv, (batch, seq, 3, H, D))), (2, 0, 3, 1, 4)))
    shape: tuple[Dim, ...] = (batch, H, seq, D)
    one = (1, *shape)
    parts = [b.emit(Reshape(b.emit(Slice(t, (n, 0, 0, 0, 0), one, (1,) * 5)), shape)) for n in range(3)]
    q, k, v = parts
    k = b.emit(Transpose(k, (0, 1, 3, 2)))
    s = b.emit(DotGeneral(scaled(b, q, 0.4), k, (0, 1), (0, 1), (3,), (2,)))
    return merged(b, b.emit(DotGeneral(softmax(b, s), v, (0, 1), (0, 1), (3,), (2,))))


def grouped_queries(b: Builder, q: Value, k: Value, v: Value) -> Value:
    """Four query heads share two key heads, repeated by a broadcast (Llama)."""
    q = heads(b, q, 4)

    def repeated(x: Value) -> Value:
        x = heads(b, x, 2)
        batch, count, seq, dim = x.type.shape
        wide = b.emit(Broadcast(x, (batch, count, 2, seq, dim), (0, 1, 3, 4)))
        return b.emit(Reshape(wide, (batch, 4, seq, dim)))

    return merged(b, attend(b, q, repeated(k), repeated(v), lambda b, s: scaled(b, s, 0.5)))


def capped(b: Builder, q: Value, k: Value, v: Value, bias: Value) -> Value:
    """Scores through tanh (Gemma) with a bias for each head and position (T5)."""
    q, k, v = (heads(b, x) for x in (q, k, v))

    def scores(b: Builder, s: Value) -> Value:
        s = scaled(b, b.emit(Unary(scaled(b, s, 0.1), "tanh")), 10.0)
        return b.emit(Binary(b.emit(Broadcast(bias, s.type.shape, (1, 2, 3))), s, "add"))

    return merged(b, attend(b, q, k, v, scores))


def flat_batch(b: Builder, q: Value, k: Value, v: Value, mask: Value) -> Value:
    """Products over [batch*heads, …], the mask added to [batch, heads, …] in between."""
    q, k, v = (heads(b, x) for x in (q, k, v))
    batch, count, seq, dim = q.type.shape
    q, k, v = (b.emit(Reshape(x, (batch * count, seq, dim))) for x in (q, k, v))
    s = b.emit(Reshape(b.emit(DotGeneral(q, k, (0,), (0,), (2,), (2,))), (batch, count, seq, seq)))
    s = b.emit(Binary(s, b.emit(Broadcast(mask, s.type.shape, (0, 1, 2, 3))), "add"))
    p = b.emit(Reshape(softmax(b, s), (batch * count, seq, seq)))
    out = b.emit(DotGeneral(p, v, (0,), (0,), (2,), (1,)))
    return merged(b, b.emit(Reshape(out, (batch, count, seq, dim))))


def one_head(b: Builder, q: Value, k: Value, v: Value) -> Value:
    s = b.emit(DotGeneral(q, k, (), (), (1,), (1,)))
    return b.emit(DotGeneral(softmax(b, s), v, (), (), (1,), (0,)))


def doubled_keys_are_values(b: Builder, q: Value, x: Value) -> Value:
    """K is a scaled tensor that V reads too: the factor of K must not be lost for V."""
    q = heads(b, q)
    y = heads(b, scaled(b, x, 3.0))
    return merged(b, attend(b, q, y, y))


@dataclass(frozen=True)
class Form:
    """`inputs`: main's arguments. `operands`: how many the composite reads."""

    make: Callable[..., Value]
    inputs: tuple[str, ...]
    operands: int
    kernels: int = 1


FORMS = {
    "scale_after": Form(scale_after, ("b s 24",) * 3, 3),
    "explicit_transpose": Form(explicit_transpose, ("b s 24", "b s 24", "b s 24", "b 1 1 s"), 4),
    "one_projection": Form(one_projection, ("b s 72",), 1),
    "packed_heads": Form(packed_heads, ("b s 72",), 1),
    "grouped_queries": Form(grouped_queries, ("b s 32", "b s 16", "b s 16"), 3),
    "capped": Form(capped, ("b s 24",) * 3 + ("3 s s",), 4),
    "flat_batch": Form(flat_batch, ("b s 24",) * 3 + ("b 1 s s",), 4),
    "one_head": Form(one_head, ("s 8", "12 8", "12 5"), 3),
    "doubled_keys_are_values": Form(doubled_keys_are_values, ("b s 24", "b s 24"), 2, 2),
}


def built(form: Form, pipeline: str = "cleanup,attention") -> tuple[Module, list[Composite]]:
    module = module_of(form.make, *form.inputs)
    changed = check(module, pipeline, rtol=2e-5, atol=2e-6, b=B, s=11)
    return changed, [op for op in changed.main.block if isinstance(op, Composite)]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("pipeline", ["attention", "cleanup,attention", "cleanup,attention,cleanup"])
def test_every_form_is_outlined(name: str, pipeline: str) -> None:
    module, (composite,) = built(FORMS[name], pipeline)
    assert composite.callee == "attention"
    assert len(composite.inputs) == FORMS[name].operands
    assert not any(isinstance(op, DotGeneral) for op in module.main.block)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_runs_as_one_kernel(name: str) -> None:
    form = FORMS[name]
    module = module_of(form.make, *form.inputs)
    outlined = module.clone()
    run(outlined, "cleanup,attention,cleanup")
    fused, _ = compiled(outlined)
    assert sum(isinstance(op, Fusion) for op in fused.main.block) == form.kernels
    check_program(outlined, {"b": B, "s": 11}, {"b": 1, "s": 1}, {"b": 3, "s": 40}, {"b": 1, "s": 2})


def test_no_keys_give_zero() -> None:
    module = module_of(one_head, "4 8", "s 8", "s 5")
    run(module, "cleanup,attention")
    fused, _ = compiled(module)
    assert [op.strategy for op in fused.main.block if isinstance(op, Fusion)] == ["attention"]
    check_program(module, {"s": 0}, {"s": 3})


@pytest.mark.parametrize("guarded", [False, True])
def test_rows_that_see_nothing(guarded: bool) -> None:
    def body(b: Builder, q: Value, k: Value, v: Value, mask: Value) -> Value:
        def scores(b: Builder, s: Value) -> Value:
            return b.emit(Binary(s, b.emit(Broadcast(mask, s.type.shape, (2, 3))), "add"))

        return attend(b, q, k, v, scores, guarded)

    module = module_of(body, "1 2 5 8", "1 2 7 8", "1 2 7 8", "5 7")
    run(module, "cleanup,attention")
    assert any(isinstance(op, Composite) for op in module.main.block)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)))
    mask = np.zeros((5, 7), np.float32)
    mask[1] = -np.inf
    mask[2, 3] = np.nan
    mask[3, 4] = np.inf
    mask[4, :5] = -np.inf
    check_program(module, inputs=[q, k, v, mask])


def test_float64_runs_as_attention() -> None:
    module = module_of(one_head, "9 8", "12 8", "12 5")
    wide = module_of(one_head, *(a.type.with_dtype(_f64()) for a in module.main.arguments))
    run(wide, "cleanup,attention")
    assert any(isinstance(op, Composite) for op in wide.main.block)
    check_program(wide, rtol=1e-12)


def _f64() -> Any:
    from ds_compiler.ir.dtypes import f64

    return f64


# -- near misses -------------------------------------------------------------------------------
def scores_returned(b: Builder, q: Value, k: Value, v: Value) -> list[Value]:
    s = b.emit(DotGeneral(q, k, (), (), (1,), (1,)))
    return [b.emit(DotGeneral(softmax(b, s), v, (), (), (1,), (0,))), s]


def weights_returned(b: Builder, q: Value, k: Value, v: Value) -> list[Value]:
    p = softmax(b, b.emit(DotGeneral(q, k, (), (), (1,), (1,))))
    return [b.emit(DotGeneral(p, v, (), (), (1,), (0,))), p]


def no_first_product(b: Builder, q: Value, k: Value, v: Value) -> Value:
    s = b.emit(Binary(q, q, "mul"))
    return b.emit(DotGeneral(softmax(b, s), b.emit(Binary(k, v, "add")), (), (), (1,), (0,)))


def over_queries(b: Builder, q: Value, k: Value, v: Value) -> Value:
    s = b.emit(DotGeneral(q, k, (), (), (1,), (1,)))
    return b.emit(DotGeneral(softmax(b, s), v, (), (), (0,), (0,)))


def on_the_right(b: Builder, q: Value, k: Value, v: Value) -> Value:
    s = b.emit(DotGeneral(q, k, (), (), (1,), (1,)))
    return b.emit(DotGeneral(v, softmax(b, s), (), (), (0,), (1,)))


MISSES = {
    scores_returned: ("read elsewhere", ("9 8",) * 3),
    weights_returned: ("read elsewhere", ("9 8",) * 3),
    no_first_product: ("does not come from one product", ("4 9", "9 6", "9 6")),
    over_queries: ("does not sum over the softmax's axis", ("9 8",) * 3),
    on_the_right: ("right operand", ("9 8",) * 3),
}


@pytest.mark.parametrize("make", MISSES, ids=lambda m: m.__name__)
def test_near_misses_stay_and_are_told(make: Callable[..., Any]) -> None:
    why, inputs = MISSES[make]
    module = module_of(make, *inputs)
    with collect() as remarks:
        changed = check(module, "cleanup,attention")
    assert not any(isinstance(op, Composite) for op in changed.main.block)
    assert [m for m in remarks.missed if m.what == "attention" and why in m.why], remarks.missed
    check_program(changed)


def test_unshifted_exponentials_are_no_softmax() -> None:
    def body(b: Builder, q: Value, k: Value, v: Value) -> Value:
        s = b.emit(DotGeneral(q, k, (), (), (1,), (1,)))
        e = b.emit(Unary(b.emit(Binary(s, b.emit(Broadcast(const(b, 1.0), s.type.shape, ())), "sub")), "exp"))
        total = b.emit(Broadcast(b.emit(Reduce(e, (1,), "sum")), s.type.shape, (0,)))
        return b.emit(DotGeneral(b.emit(Binary(e, total, "div")), v, (), (), (1,), (0,)))

    changed = check(module_of(body, "9 8", "7 8", "7 5"), "cleanup,attention")
    assert not any(isinstance(op, Composite) for op in changed.main.block)
