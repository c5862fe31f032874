"""Products with weights of a few bits, in blocks along the depth that have a scale each."""

from __future__ import annotations

from typing import Any

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.contraction import matmul
from ds_compiler.frontends.onnx.operators.microsoft.activation import DOMAIN
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dtypes import f32, u8

Array = np.ndarray[Any, Any]


def unpacked(packed: Array, bits: int, count: int) -> Array:
    """The first `count` integers of `bits` bits in each row of bytes, the lowest bits of a byte first."""
    each = 8 // bits
    parts = [(packed >> (bits * i)) & ((1 << bits) - 1) for i in range(each)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)[..., :count]


@onnx_op("MatMulNBits", domain=DOMAIN)
def matmul_few_bits(e: Emitter, n: Node) -> Value:
    """``A · Bᵀ`` where B's rows hold blocks of `block_size` unsigned integers, less a zero point, times a scale."""
    a, packed, scales, zeros, bias = n.input(0), n.input(1), n.input(2), n.optional(3), n.optional(5)
    depth, columns, block = int(n.required("K")), int(n.required("N")), int(n.required("block_size"))
    bits = n.int("bits", 4)
    if bits not in (2, 4, 8):
        n.fail(f"attribute bits={bits} is not supported", help="supported: 2, 4, 8")
    if n.optional(4) is not None:
        n.fail("g_idx is not supported")
    if min(depth, columns, block) < 1:
        n.fail(f"K={depth}, N={columns} and block_size={block} must be positive")
    blocks = -(-depth // block)
    contents = e.array(packed)
    if contents is None or contents.size != columns * blocks * (block * bits // 8):
        n.fail(f"the weights {packed.type} are not known, or do not hold {columns} rows of {blocks} blocks")
    quantised = unpacked(contents.reshape(columns, blocks, -1), bits, block)
    whole = e.constant(quantised.astype(np.uint8))
    shape = (columns, blocks, 1)
    wide = e.cast(whole, f32)
    if zeros is None:
        wide = e.binary("sub", wide, float(1 << (bits - 1)))
    elif zeros.type.dtype == u8:
        known = e.array(zeros)
        if known is None:
            n.fail("packed zero points must be known")
        points = unpacked(known.reshape(columns, -1), bits, blocks)
        wide = e.binary("sub", wide, e.constant(points.reshape(shape).astype(np.float32)))
    else:
        wide = e.binary("sub", wide, e.cast(e.reshape(zeros, shape), f32))
    weights = e.binary("mul", wide, e.cast(e.reshape(scales, shape), f32))
    weights = e.slice(e.reshape(weights, (columns, blocks * block)), 1, 0, depth)
    result = matmul(e, e.wide(a), e.transpose(weights, (1, 0)))
    if bias is not None:
        result = e.binary("add", result, e.cast(bias, f32))
    return e.cast(result, a.type.dtype)
