"""Matrix products."""

from __future__ import annotations

from ds_compiler.frontends.torch.emitter import Emitter, Operand
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Value


@aten("aten.mm.default")
def mm(e: Emitter, a: Value, b: Value) -> Value:
    return e.product(a, b)


@aten("aten.bmm.default")
def bmm(e: Emitter, a: Value, b: Value) -> Value:
    return e.product(a, b, (0,), (2, 1))


@aten("aten.mv.default", "aten.dot.default")
def mv(e: Emitter, a: Value, b: Value) -> Value:
    return e.product(a, b)


@aten("aten.addmm.default")
def addmm(e: Emitter, bias: Value, a: Value, b: Value, beta: Operand = 1, alpha: Operand = 1) -> Value:
    return _plus(e, bias, e.product(a, b), beta, alpha)


@aten("aten.baddbmm.default")
def baddbmm(e: Emitter, bias: Value, a: Value, b: Value, beta: Operand = 1, alpha: Operand = 1) -> Value:
    return _plus(e, bias, e.product(a, b, (0,), (2, 1)), beta, alpha)


def _plus(e: Emitter, bias: Value, product: Value, beta: Operand, alpha: Operand) -> Value:
    if alpha != 1:
        product = e.binary("mul", product, alpha)
    if beta == 0:  # what the bias holds, NaN included, does not matter then
        return product
    if beta != 1:
        bias = e.binary("mul", bias, beta)
    return e.binary("add", product, e.broadcast_to(bias, product.type.shape))
