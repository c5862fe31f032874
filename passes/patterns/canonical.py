"""The pattern set that `canonicalize` runs; order of registration is order of trial."""

from __future__ import annotations

from ds_compiler.passes.rewriter import PatternSet

pattern = PatternSet("canonicalize")
