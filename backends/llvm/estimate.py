"""How long kernels take on one thread, roughly: what decides whether sharing them is worth its cost.

Times are sizes (`ds_compiler.ir.dims.Dim`) in ns, so that a program evaluates them for the sizes of the call. The rates
are those of one core with 256-bit vectors at 3 to 4 GHz; half or twice as much changes little.
"""

from __future__ import annotations

from collections.abc import Collection

from ds_compiler.ir import Block, Value
from ds_compiler.ir.dims import Dim, symbols_of
from ds_compiler.ops import Fusion, Gather, Scan

# Times are counted in parts of a ns, so that sizes of many kernels add up to one polynomial before they are divided.
_PARTS = 600
_PRODUCT_FLOP = 6  # 100 a ns
_LOOP_FLOP = 15  # 40 a ns
_BYTE = 25  # 24 a ns: from the second-level cache or beyond


def kernel_ns(fusion: Fusion) -> Dim:
    """Estimated time of a kernel on one thread, in ns."""
    return _parts(fusion) // _PARTS


def total_ns(block: Block, kernels: Collection[Fusion], unknown: Collection[str]) -> Dim:
    """Estimated time of those `kernels` that are in `block`, without those whose sizes hold symbols in `unknown`.

    Both branches of an ``if`` count, the body of a ``while`` counts once.
    """
    return _total_parts(block, kernels, unknown) // _PARTS


def _parts(fusion: Fusion) -> Dim:
    products: Dim = 0
    others: Dim = 0
    for op in fusion.body.walk():
        if op.mnemonic in ("dot_general", "conv", "conv_transpose", "conv_weight_gradient"):
            products = products + op.cost().flops
        else:
            others = others + op.cost().flops
    moved: Dim = 0
    for argument, value in zip(fusion.body.block.arguments, fusion.inputs, strict=True):
        if not _is_only_looked_up(argument, fusion.body.block):
            moved = moved + value.type.bytes
    for result in fusion.results:
        moved = moved + result.type.bytes
    return products * _PRODUCT_FLOP + others * _LOOP_FLOP + moved * _BYTE


def _total_parts(block: Block, kernels: Collection[Fusion], unknown: Collection[str]) -> Dim:
    total: Dim = 0
    for op in block:
        cost: Dim = 0
        if isinstance(op, Fusion):
            cost = _parts(op) if op in kernels else 0
        else:
            for region in op.regions:
                cost = cost + _total_parts(region.block, kernels, unknown)
            if isinstance(op, Scan):
                cost = cost * op.length
        if isinstance(cost, int) or not symbols_of(cost) & set(unknown):
            total = total + cost
    return total


def _is_only_looked_up(argument: Value, block: Block) -> bool:
    """Whether a kernel reads only some rows of a table."""
    uses = [op for op in block if argument in op.operands]
    return bool(uses) and all(isinstance(op, Gather) and op.operands[0] is argument for op in uses)
