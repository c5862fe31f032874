"""What each operation's derivative is: reverse-mode rules beside the declarations, a file a family.

In:   an operation, the cotangent of its first result, and a builder (`Terms`).
Out:  the cotangents of its operands as new operations; None where there is none (integers, constants).
Read: `rules` (the table), then a family. Control flow and custom derivatives are in the pass ``grad``.
"""

from ds_compiler.ops.derivatives import contraction, elementwise, indexing, movement, reduction, window
from ds_compiler.ops.derivatives.rules import Cotangents, derivative, rule_of
from ds_compiler.ops.derivatives.terms import Terms

__all__ = [
    "Cotangents",
    "Terms",
    "contraction",
    "derivative",
    "elementwise",
    "indexing",
    "movement",
    "reduction",
    "rule_of",
    "window",
]
