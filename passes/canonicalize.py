"""Canonicalisation: constant folding and all patterns of `passes.patterns`, to a fixed point."""

from __future__ import annotations

from ds_compiler.ir import Module, operation_class, operation_names
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.fold import fold
from ds_compiler.passes.manager import register
from ds_compiler.passes.patterns import arithmetic, contraction, control, motion, movement
from ds_compiler.passes.patterns.canonical import pattern
from ds_compiler.passes.rewriter import PatternSet, rewrite

FAMILIES = (arithmetic, movement, motion, contraction, control)


@register("canonicalize")
def canonicalize(module: Module) -> None:
    """Bring operations to their simplest equivalent form.

    %2 = transpose %1 (1, 0)         %3 = mul %1, %1
    %3 = transpose %2 (1, 0)   →
    %4 = pow %3, 2.0
    """
    rewrite(module, _PATTERNS)
    eliminate_dead_code(module)


def _with_folding() -> PatternSet:
    """Folding is tried first, on every operation class."""
    patterns = PatternSet("canonicalize")
    classes = {entry[0] for entry in map(operation_class, operation_names()) if entry is not None}
    patterns(*sorted(classes, key=lambda c: c.name))(fold)
    for root, functions in pattern.by_root.items():
        for function in functions:
            patterns(root)(function)
    return patterns


_PATTERNS = _with_folding()
