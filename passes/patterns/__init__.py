"""Canonicalisation patterns by family; importing the package registers them all on `canonical.pattern`.

In:   one operation.
Out:  its simpler equivalent, or None.
Read: `arithmetic`, `movement` (transposes, broadcasts, slices …), `motion` (reshapes and broadcasts through
      elementwise code), `contraction`, `control`.
"""
