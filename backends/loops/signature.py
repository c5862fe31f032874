"""What identifies the kernel of a fusion: its symbols, a key that is equal for equal code, a name that people know.

kernel_key     equal keys: one kernel serves both fusions
"""

from __future__ import annotations

import re

import numpy as np

from ds_compiler.ir import Block, Value
from ds_compiler.ir.dims import Expr, symbols_of
from ds_compiler.ops import Constant, Fusion

_LONGEST_NAME = 48


def symbols_in(fusion: Fusion) -> tuple[str, ...]:
    """Symbols that the kernel's code may need, sorted."""
    names: set[str] = set()
    for value in fusion.inputs:
        names |= value.type.symbols
    for op in fusion.body.walk():
        for result in op.results:
            names |= result.type.symbols
        for attribute in op.attributes.values():
            for dim in attribute if isinstance(attribute, tuple) else (attribute,):
                if isinstance(dim, Expr):
                    names |= symbols_of(dim)
    return tuple(sorted(names))


def kernel_key(fusion: Fusion) -> str:
    """Text of everything that the kernel's code depends on, except the target."""
    numbers: dict[Value, int] = {}
    lines = [fusion.strategy]
    for argument, value in zip(fusion.body.block.arguments, fusion.inputs, strict=True):
        numbers[argument] = len(numbers)
        lines.append(f"{argument.type}{' constant' if isinstance(value.defining_op, Constant) else ''}")
    _key_of_block(fusion.body.block, numbers, lines)
    return "\n".join(lines)


def _key_of_block(block: Block, numbers: dict[Value, int], lines: list[str]) -> None:
    for op in block:
        operands = " ".join(str(numbers[o]) for o in op.operands)
        attributes = {
            k: (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for k, v in op.attributes.items()
        }
        for result in op.results:
            numbers[result] = len(numbers)
        types = " ".join(str(r.type) for r in op.results)
        lines.append(f"{op.mnemonic} {operands} {sorted(attributes.items())} {types}")
        for region in op.regions:
            for argument in region.block.arguments:
                numbers[argument] = len(numbers)
            _key_of_block(region.block, numbers, lines)


def kernel_name(fusion: Fusion, number: int) -> str:
    """A symbol name that shows the source node: ``k12_encoder_layer_0_MatMul``."""
    source = fusion.location.names[0] if fusion.location else fusion.strategy
    return f"k{number}_{re.sub(r'[^A-Za-z0-9]+', '_', source).strip('_')[-_LONGEST_NAME:]}"
