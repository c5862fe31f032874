"""A lowering is broken on purpose; the search must name it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from ds_compiler.backends.llvm import scalars
from ds_compiler.cli.bisect import find_first_wrong, with_outputs
from ds_compiler.cli.loading import load_ir
from tests.cli import tiny
from tests.cli.tiny import floats, run


@pytest.fixture
def broken_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    """``tanh`` compiles to the sine."""
    monkeypatch.setitem(scalars._FUNCTIONS, "tanh", scalars._FUNCTIONS["sin"])


def test_the_broken_operation_is_named(perceptron: Path, broken_tanh: None) -> None:
    result = run("check", perceptron, "--against", "reference", "--bisect", code=1)
    assert "FAILED" in result.stdout
    assert "first wrong operation is tanh at node 'act' (Tanh)" in result.stdout
    finding = json.loads(run("check", perceptron, "--against", "reference", "--bisect", "--json", code=1).stdout)[
        "bisect"
    ]
    assert finding["operation"] == "tanh" and finding["nodes"] == ["act"]
    assert finding["difference"]["relative"] > 1e-3


def branches(folder: Path) -> Path:
    """Two chains that meet: the left one ends in ``tanh``, operations of the right one stand after it."""
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], name="left/exp"),
        helper.make_node("Tanh", ["a"], ["b"], name="left/tanh"),
        *(helper.make_node("Sin", [f"r{i}" if i else "x"], [f"r{i + 1}"], name=f"right/sin{i}") for i in range(6)),
        helper.make_node("Add", ["b", "r6"], ["s"], name="join"),
        helper.make_node("Neg", ["s"], ["y"], name="last"),
    ]
    return tiny.save(tiny.model(nodes, [floats("x", "n")], [floats("y", "n")]), folder)


def test_an_operation_in_another_branch_is_found(tmp_path: Path, broken_tanh: None) -> None:
    feeds = {"x": np.linspace(-1, 1, 9, dtype=np.float32)}
    finding = find_first_wrong(load_ir(branches(tmp_path)), feeds)
    assert finding.nodes == ("left/tanh",)
    assert finding.compilations <= 12


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    finding = find_first_wrong(load_ir(branches(tmp_path)), {"x": np.ones(3, np.float32)})
    assert finding.operation is None and "where they are fused" in finding.text()


def test_outputs_are_added_to_a_copy(perceptron: Path) -> None:
    from ds_compiler.reference import interpret

    module = load_ir(perceptron)
    before = [op.mnemonic for op in module.walk()]
    tanh = next(op for op in module.walk() if op.mnemonic == "tanh")
    copy = with_outputs(module, [tanh.result, module.main.arguments[0]], ["t", "x"])
    x = np.ones((1, 8), np.float32)
    t, same = interpret(copy, {"x": x})
    assert np.array_equal(same, x) and np.abs(t).max() <= 1
    assert copy.main.result_names == ["t", "x"] and [op.mnemonic for op in module.walk()] == before
