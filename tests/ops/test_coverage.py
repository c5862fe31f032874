"""Every registered operation has tests here: by the registry, so that a new operation without tests fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ds_compiler.ir import operation_class, operation_names
from ds_compiler.ops.elementwise import BINARY, COMPARE, PREDICATE, UNARY

TESTS = "\n".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py") if p != Path(__file__))
CLASSES = sorted({found[0] for name in operation_names() if (found := operation_class(name))}, key=lambda c: c.__name__)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_the_class_is_built_in_a_test(cls: type) -> None:
    assert re.search(rf"\b{cls.__name__}\(", TESTS), f"no test in tests/ops makes a {cls.__name__}"


def test_scalar_functions_are_parametrized_over_their_tables() -> None:
    """`test_every_kind_has_a_formula` compares the tables of formulas with these."""
    kinds = {name for name in operation_names() if (found := operation_class(name)) and found[0].has_kinds}
    assert kinds == {*UNARY, *BINARY, *COMPARE, *PREDICATE}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_the_class_is_documented_and_priced(cls: type) -> None:
    assert (cls.__doc__ or "").strip() and "infer" in vars(cls) | vars(cls.__bases__[0])
