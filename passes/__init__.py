"""Module → module: the pass manager, the pattern rewriter, then a file per pass.

In:   a `ds_compiler.ir.Module`.
Out:  the same module, rewritten in place; what was done is told through `remarks`.
Read: `manager` (names, options, pipelines), `rewriter`, `canonicalize` with `patterns/`, then any pass.
"""

# Importing a pass's file registers it.
from ds_compiler.passes import (
    attention,
    canonicalize,
    conv_forms,
    cse,
    dce,
    dequantised_products,
    fold,
    fold_affine,
    fuse,
    grad,
    hoist,
    inline,
    integer_products,
    layout,
    merge_matmuls,
    simplify_shapes,
)
from ds_compiler.passes.manager import PASSES, PIPELINES, parse_pipeline, register, run
from ds_compiler.passes.remarks import collect

__all__ = [
    "PASSES",
    "PIPELINES",
    "attention",
    "canonicalize",
    "collect",
    "conv_forms",
    "cse",
    "dce",
    "dequantised_products",
    "fold",
    "fold_affine",
    "fuse",
    "grad",
    "hoist",
    "inline",
    "integer_products",
    "layout",
    "merge_matmuls",
    "parse_pipeline",
    "register",
    "run",
    "simplify_shapes",
]
