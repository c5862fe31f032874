from __future__ import annotations

import pytest

from ds_compiler.ir import CompileError, Module
from ds_compiler.ops import Binary, Unary
from ds_compiler.passes import manager
from tests.passes.helpers import module_of, names


def test_pipeline_text_round_trips_and_expands_names() -> None:
    assert [str(i) for i in manager.parse_pipeline(" cse , dce{}, cleanup")] == [
        "cse",
        "dce",
        "simplify-shapes",
        "canonicalize",
        "cse",
        "dce",
    ]


@pytest.fixture
def noted() -> object:
    seen: list[object] = []

    @manager.register("test-note")
    def note(module: Module, max_ops: int = 64, fast: bool = False, scale: float = 1.0, mode: str = "a") -> None:
        """Notes its options."""
        seen.append((max_ops, fast, scale, mode))

    yield seen
    del manager.PASSES["test-note"]


def test_options_are_typed(noted: list[object]) -> None:
    module = module_of(lambda b, x: x, "4")
    manager.run(module, "test-note{max-ops=7,fast,scale=0.5,mode=z},test-note")
    assert noted == [(7, True, 0.5, "z"), (64, False, 1.0, "a")]
    assert str(manager.parse_pipeline("test-note{max-ops=7, fast=false}")[0]) == "test-note{max-ops=7,fast=false}"
    assert manager.PASSES["test-note"].summary == "Notes its options."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", r"unknown pass 'nope'.*known:.*canonicalize.*cse"),
        ("test-note{max-op=1}", r"has no option 'max-op'.*known: max-ops, fast"),
        ("test-note{max-ops=x}", r"option 'max-ops' takes int, not 'x'"),
        ("test-note{fast=1}", r"option 'fast' takes bool"),
        ("test-note{max-ops=1", "closing brace"),
        ("cleanup{a=1}", "takes no options"),
    ],
)
def test_bad_text_is_explained(noted: object, text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        manager.parse_pipeline(text)


def test_dump_and_timing_see_every_pass() -> None:
    module = module_of(lambda b, x: b.emit(Unary(x, "exp")), "4")
    seen: list[str] = []
    timing: dict[str, float] = {}
    manager.run(module, "cse,dce,cse", dump=lambda name, m: seen.append(name), timing=timing)
    assert seen == ["cse", "dce", "cse"] and set(timing) == {"cse", "dce"}


def test_two_passes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        manager.register("cse")(lambda module: None)


def test_dce_and_cse_together() -> None:
    def body(b, x, y):  # type: ignore[no-untyped-def]
        b.emit(Unary(x, "exp"))
        return b.emit(Binary(b.emit(Binary(x, y, "add")), b.emit(Binary(y, x, "add")), "mul"))

    module = module_of(body, "4", "4")
    manager.run(module, "dce,cse")
    assert names(module) == ["add", "mul"]
