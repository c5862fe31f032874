"""Matrix products and convolutions with transposes, factors, residual connections and activations in them."""

from __future__ import annotations

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.contraction import gemm, matmul
from ds_compiler.frontends.onnx.operators.convolution import conv
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN, activate
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value


@onnx_op("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def fused_matmul(e: Emitter, n: Node) -> Value:
    """``alpha * A · B``; each operand may be transposed, and its first axis moved in front of the last one before."""

    def operand(index: int, side: str) -> Value:
        x = n.input(index)
        order = list(range(x.type.rank))
        if n.int(f"transBatch{side}", 0) and x.type.rank > 2:
            order = [*order[1:-1], 0, order[-1]]
        if n.int(f"trans{side}", 0) and x.type.rank > 1:
            order[-2:] = order[:-3:-1]
        return e.transpose(x, order)

    product = matmul(e, operand(0, "A"), operand(1, "B"))
    alpha = n.float("alpha", 1.0)
    return product if alpha == 1 else e.binary("mul", product, alpha)


@onnx_op("FusedGemm", domain=DOMAIN)
def fused_gemm(e: Emitter, n: Node) -> Value:
    parameters = [n.float(f"activation_{name}", 0.0) for name in ("alpha", "beta") if n.has(f"activation_{name}")]
    return activate(e, n, gemm(e, n), n.string("activation", ""), parameters)


@onnx_op("FusedConv", domain=DOMAIN)
def fused_conv(e: Emitter, n: Node) -> Value:
    """The fourth input is added in front of the activation."""
    result, other = conv(e, n), n.optional(3)
    if other is not None:
        result = e.binary("add", result, other)
    parameters = [float(x) for x in n.attribute("activation_params", [])]
    return activate(e, n, result, n.string("activation", ""), parameters)
