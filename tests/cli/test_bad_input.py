"""Whatever is wrong with what a user gives: one line on stderr, exit code 2, no traceback, no half-written file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli import tiny
from tests.cli.tiny import fails, floats, run


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in fails("run", tmp_path / "none.onnx")


def test_an_unknown_command_and_option(perceptron: Path) -> None:
    assert "No such command 'fly'" in fails("fly")
    assert "--fast" in fails("run", perceptron, "--fast")


@pytest.mark.parametrize("command", ["compile", "run", "check", "bench", "dump", "opt"])
@pytest.mark.parametrize("content", ["empty", "garbage", "truncated", "text"])
def test_damaged_files(command: str, content: str, tmp_path: Path) -> None:
    whole = tiny.perceptron().SerializeToString()
    garbage = np.random.default_rng(1).bytes(1000)
    data = {"empty": b"", "garbage": garbage, "truncated": whole[: len(whole) * 2 // 3], "text": b"not a model\n" * 9}
    path = tmp_path / "model.onnx"
    path.write_bytes(data[content])
    text = fails(command, path, *(["-o", tmp_path / "out.dsa"] if command == "compile" else []))
    assert "model.onnx" in text
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for name in (b"square", b"Tanh", b"batch", b"difference"):
        path.write_bytes(tiny.perceptron().SerializeToString().replace(name, b"\xff" + name[1:]))
        assert "not UTF-8" in fails("run", path, "--random")


@pytest.mark.parametrize("keep", [0, 10, 3000, -1])
def test_damaged_artifacts(keep: int, perceptron: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "tiny.dsa"
    run("compile", perceptron, "-o", artifact)
    artifact.write_bytes(artifact.read_bytes()[:keep])
    assert "tiny.dsa" in fails("run", artifact, "--random")


def test_an_artifact_is_no_model(perceptron: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "tiny.dsa"
    run("compile", perceptron, "-o", artifact)
    assert "give the model" in fails("dump", artifact)


def test_missing_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny.perceptron(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    run("run", path, "--random")
    (tmp_path / "weights.bin").write_bytes(b"short")
    assert "weights.bin" in fails("run", path, "--random")
    (tmp_path / "weights.bin").unlink()
    text = fails("compile", path, "-o", tmp_path / "out.dsa")
    assert "initializer 'w'" in text and "weights.bin" in text and "missing" in text
    assert not (tmp_path / "out.dsa").exists()


def test_a_cyclic_graph(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="one"),
        helper.make_node("Neg", ["a"], ["b"], name="two"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    path = tiny.save(tiny.model(nodes, [floats("x", 4)], [floats("y", 4)]), tmp_path)
    assert "cycle" in fails("run", path, "--random")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (helper.make_node("Frobnicate", ["x"], ["y"], name="strange"), "Frobnicate"),
        (helper.make_node("Neg", ["x"], ["y"], name="strange", domain="com.example"), "com.example"),
    ],
)
def test_unknown_operators_and_domains(node: onnx.NodeProto, expected: str, tmp_path: Path) -> None:
    proto = tiny.model([node], [floats("x", 4)], [floats("y", 4)])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    text = fails("compile", tiny.save(proto, tmp_path), "-o", tmp_path / "out.dsa")
    assert expected in text and "strange" in text
    assert not (tmp_path / "out.dsa").exists()


@pytest.mark.parametrize("opset", [0, 999])
def test_unknown_opsets(opset: int, tmp_path: Path) -> None:
    proto = tiny.perceptron()
    proto.opset_import[0].version = opset
    assert f"opset {opset}" in fails("run", tiny.save(proto, tmp_path), "--random")


def array(folder: Path, value: np.ndarray[Any, Any]) -> str:
    np.save(folder / "value.npy", value)
    return f"x={folder / 'value.npy'}"


def test_wrong_inputs_to_run(perceptron: Path, tmp_path: Path) -> None:
    good = array(tmp_path, np.ones((2, 8), np.float32))
    text = fails("run", perceptron, "--input", good.replace("x=", "z="))
    assert "no input 'z'" in text and "x" in text
    assert "'x' is missing" in fails("run", perceptron)
    assert "name=value" in fails("run", perceptron, "--input", "x")
    for value, expected in (
        (np.ones((2, 8), np.int64), "f32"),
        (np.ones(8, np.float32), "f32[batch,8]"),
        (np.ones((2, 9), np.float32), "8"),
    ):
        text = fails("run", perceptron, "--input", array(tmp_path, value), "-o", tmp_path / "out.npz")
        assert "'x'" in text and expected in text
    assert not (tmp_path / "out.npz").exists()


def test_files_that_are_no_arrays(perceptron: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.npy"
    for data in (b"", b"garbage", b"\x93NUMPY\x01\x00"):
        bad.write_bytes(data)
        assert "bad.npy" in fails("run", perceptron, "--input", f"x={bad}")
        assert "bad.npy" in fails("run", perceptron, "--inputs", bad)
    assert "nothing.npy" in fails("run", perceptron, "--input", f"x={tmp_path / 'nothing.npy'}")


def test_wrong_dims(perceptron: Path) -> None:
    assert "no such dimension" in fails("run", perceptron, "--random", "--dim", "depth=3")
    assert "whole number" in fails("run", perceptron, "--random", "--dim", "batch=-1")
    assert "8" in fails("run", perceptron, "--random", "--dim", "x.1=9")


def test_inputs_that_do_not_fit_into_memory(perceptron: Path) -> None:
    assert "do not fit into memory" in fails("run", perceptron, "--random", "--dim", f"batch={10**14}")


def test_a_huge_declared_shape(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["x"], ["y"], name="huge")
    big = 1 << 40
    path = tiny.save(tiny.model([node], [floats("x", big, big)], [floats("y", big, big)]), tmp_path)
    assert "'x'" in fails("compile", path, "-o", tmp_path / "out.dsa")
    assert not (tmp_path / "out.dsa").exists()


def test_nan_weights(tmp_path: Path) -> None:
    proto = tiny.perceptron()
    weights = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[0, :3] = np.nan
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    path, out = tiny.save(proto, tmp_path), tmp_path / "out.dsa"
    for command in (["check", path, "--against", "reference"], ["compile", path, "-o", out]):
        text = fails(*command)
        assert "initializer 'w' holds NaN in 3 of 32 elements" in text and "--allow-nan" in text
    assert not out.exists()
    run("check", path, "--against", "reference", "--allow-nan")


def test_outputs_that_cannot_be_written(perceptron: Path, tmp_path: Path) -> None:
    assert "does not exist" in fails("compile", perceptron, "-o", tmp_path / "none" / "out.dsa")
    assert "none" in fails("run", perceptron, "--random", "-o", tmp_path / "none" / "out.npz")


def test_unknown_targets_kinds_and_passes(perceptron: Path, tmp_path: Path) -> None:
    assert "z80" in fails("compile", perceptron, "-o", tmp_path / "out.dsa", "--target", "z80")
    assert "z80" in fails("compile", perceptron, "-o", tmp_path / "out.s", "--emit", "asm", "--target", "z80")
    assert "ptx9" in fails("compile", perceptron, "--emit", "ptx9")
    assert "unknown pass 'polish'" in fails("opt", perceptron, "--passes", "polish")
    assert "'polish'" in fails("dump", perceptron, "--after", "polish")
    assert not list(tmp_path.glob("out.*"))


def test_unknown_engines(perceptron: Path) -> None:
    assert "warp" in fails("bench", perceptron, "--against", "warp")
    assert "warp" in fails("check", perceptron, "--against", "warp")


def test_an_engine_that_is_not_installed(perceptron: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in fails("check", perceptron)


def test_malformed_ir_text_shows_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.dsir"
    path.write_text("func @main(%x: tensor<4xf32>) -> (y: tensor<4xf32>) {\n  %y = frob %x : tensor<4xf32>\n}\n")
    result = run("opt", path, code=2)
    assert result.stderr.startswith("error: ") and "frob" in result.stderr and "Traceback" not in result.stderr


def test_bad_test_data(perceptron: Path, tmp_path: Path) -> None:
    assert "holds no test data" in fails("check", perceptron, "--data", tmp_path)
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    (folder / "input_0.pb").write_bytes(b"garbage")
    assert "input_0.pb" in fails("check", perceptron, "--data", tmp_path)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"garbage")
    result = run("run", path, "--debug", code=2)
    assert "Traceback" in result.stderr and "error: " in result.stderr.splitlines()[-1]


def test_the_process_has_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(TensorProto(name="no model").SerializeToString())
    command = [sys.executable, "-m", "ds_compiler.cli", "run", str(path), "--random"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_a_fault_of_the_compiler_is_told_apart(perceptron: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("ds_compiler.cli.loading.open_model", explode)
    text = fails("run", perceptron, "--random", code=3)
    assert "internal error: ZeroDivisionError" in text and "--debug" in text
