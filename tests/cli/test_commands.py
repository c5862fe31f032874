"""What each command does when all is well, on a model of four nodes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ds_compiler.cli.group import COMMANDS
from tests.cli import tiny
from tests.cli.tiny import run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    text = run(command, "--help").stdout
    assert "Example" in text and f"dsc {command}" in text
    assert "--json" in text


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    assert all(f"  {command}" in text for command in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from ds_compiler.cli import dsc; dsc.main(['--help'], standalone_mode=False)"
    program = f"import atexit, sys; atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr)); {code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for heavy in ("numpy", "onnx", "llvmlite", "rich", "onnxruntime", "ds_compiler.ir"):
        assert f"'{heavy}'" not in done.stderr, heavy


def test_run_computes(perceptron: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    result = run("run", perceptron, "--input", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "out.npz")
    assert "5x4" in result.stdout and "float32" in result.stdout
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["y"], tiny.perceptron_in_numpy(x), rtol=1e-5, atol=1e-5)


def test_run_takes_an_archive_of_inputs(perceptron: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((2, 8), np.float32))
    answer = json.loads(run("run", perceptron, "--inputs", tmp_path / "in.npz", "--json").stdout)
    assert answer["outputs"]["y"]["shape"] == [2, 4]


def test_run_makes_random_inputs_from_the_seed(perceptron: Path) -> None:
    def outputs(*more: str) -> object:
        return json.loads(run("run", perceptron, "--random", "--json", *more).stdout)["outputs"]

    assert outputs() == outputs() != outputs("--seed", "1")
    assert json.loads(json.dumps(outputs("--dim", "batch=3")))["y"]["shape"] == [3, 4]


def test_an_artifact_runs_like_its_model(perceptron: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "tiny.dsa"
    answer = json.loads(run("compile", perceptron, "-o", artifact, "--json").stdout)
    assert answer["files"]["dsa"] == {"path": str(artifact), "bytes": artifact.stat().st_size}
    direct, loaded = (
        json.loads(run("run", path, "--random", "--json").stdout)["outputs"] for path in (perceptron, artifact)
    )
    assert direct == loaded


def test_compile_writes_every_stage(perceptron: Path, tmp_path: Path) -> None:
    run("compile", perceptron, "-o", tmp_path / "tiny.dsa", "--emit", "dsa,ir,llvm,asm,obj")
    assert "func @main" in (tmp_path / "tiny.dsir").read_text()
    assert "define" in (tmp_path / "tiny.ll").read_text() and "@dsc_main" in (tmp_path / "tiny.ll").read_text()
    assert "dsc_main:" in (tmp_path / "tiny.s").read_text()
    assert (tmp_path / "tiny.o").read_bytes()[:4] == b"\x7fELF"
    assert {path.name for path in tmp_path.glob(".*")} == set()


def test_compile_for_another_target_uses_its_registers(perceptron: Path, tmp_path: Path) -> None:
    for target, register, wider in (("x86-64", "xmm", "ymm"), ("x86-64-v3", "ymm", "zmm")):
        run("compile", perceptron, "-o", tmp_path / "tiny.s", "--emit", "asm", "--target", target)
        assembly = (tmp_path / "tiny.s").read_text()
        assert register in assembly and wider not in assembly


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to link with")
def test_compile_links_a_shared_library(perceptron: Path, tmp_path: Path) -> None:
    import ctypes

    run("compile", perceptron, "-o", tmp_path / "tiny.so", "--emit", "so")
    assert ctypes.CDLL(str(tmp_path / "tiny.so")).dsc_main


def test_a_shared_library_needs_a_c_compiler(perceptron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "needs a C compiler" in tiny.fails("compile", perceptron, "-o", tmp_path / "tiny.so", "--emit", "so")
    assert not (tmp_path / "tiny.so").exists()


def test_check_against_the_interpreter(perceptron: Path) -> None:
    answer = json.loads(run("check", perceptron, "--against", "reference", "--dim", "batch=3", "--json").stdout)
    (output,) = answer["cases"][0]["outputs"]
    assert answer["passed"] and output["shape"] == [3, 4] and output["relative"] < 1e-6


def test_check_against_onnxruntime(perceptron: Path) -> None:
    pytest.importorskip("onnxruntime")
    text = run("check", perceptron, "--threads", "2").stdout
    assert "against onnxruntime" in text and " ok" in text


def data_set(folder: Path, x: np.ndarray, y: np.ndarray) -> None:  # type: ignore[type-arg]
    folder.mkdir(parents=True)
    (folder / "input_0.pb").write_bytes(numpy_helper.from_array(x, "x").SerializeToString())
    (folder / "output_0.pb").write_bytes(numpy_helper.from_array(y, "y").SerializeToString())


def test_check_with_test_data(perceptron: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(5).standard_normal((2, 8)).astype(np.float32)
    y = tiny.perceptron_in_numpy(x).astype(np.float32)
    data_set(tmp_path / "data" / "test_data_set_0", x, y)
    assert "against the test data, test_data_set_0" in run("check", perceptron, "--data", tmp_path / "data").stdout
    data_set(tmp_path / "data" / "test_data_set_1", x, y + np.float32(0.01))
    result = run("check", perceptron, "--data", tmp_path / "data", code=1)
    assert "FAILED" in result.stdout and result.stderr == ""


def test_dump_shows_node_names_after_each_pass(perceptron: Path) -> None:
    text = run("dump", perceptron, "--all").stdout
    assert "after import" in text and "after fuse" in text
    assert "square" in text and "difference" in text
    assert text.count("func @main") >= 3
    assert run("dump", perceptron, "--after", "import").stdout in text


def test_dumped_text_runs_to_the_same_result(perceptron: Path, tmp_path: Path) -> None:
    lowered = tmp_path / "tiny.dsir"
    run("opt", perceptron, "--passes", "cleanup", "-o", lowered)
    assert run("opt", lowered).stdout == run("opt", lowered, "--passes", "cleanup").stdout
    first, second = (
        json.loads(run("run", path, "--random", "--json").stdout)["outputs"] for path in (perceptron, lowered)
    )
    assert first == second
    run("check", lowered, "--against", "reference")


def test_dump_writes_a_page(perceptron: Path, tmp_path: Path) -> None:
    run("dump", perceptron, "--all", "--html", tmp_path / "passes.html")
    page = (tmp_path / "passes.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "difference" in page


def test_opt_says_what_passes_took(perceptron: Path) -> None:
    answer = json.loads(run("opt", perceptron, "--passes", "canonicalize,cse", "--json").stdout)
    assert set(answer["seconds"]) == {"canonicalize", "cse"} and "func @main" in answer["ir"]


def test_opt_lists_passes() -> None:
    text = run("opt", "--list").stdout
    assert "canonicalize" in text and "pipeline:" in text


def test_ops_comes_from_the_registry() -> None:
    from ds_compiler.frontends.onnx import supported_operators

    answer = json.loads(run("ops", "--json").stdout)
    assert len(answer["operators"]) == len(supported_operators()) > 50
    assert "MatMul" in run("ops", "MatMul").stdout
    assert "Nonsense: not supported" in run("ops", "Nonsense", code=1).stdout


def test_bench_measures_in_turn(perceptron: Path) -> None:
    pytest.importorskip("onnxruntime")
    answer = json.loads(run("bench", perceptron, "--repeat", "5", "--no-cost", "--json").stdout)
    ours, theirs = answer["timings"]
    assert (ours["engine"], theirs["engine"]) == ("ds_compiler", "onnxruntime")
    assert ours["ratio"] is None and 0 < theirs["ratio_p10"] <= theirs["ratio"] <= theirs["ratio_p90"]
    assert 0 < ours["best"] <= ours["p10"] <= ours["median"] <= ours["p90"]
    assert answer["peak_gflops_one_core"] > 1


def test_bench_reports_load_and_memory(perceptron: Path) -> None:
    text = run("bench", perceptron, "--repeat", "3", "--against", "").stdout
    assert "ds_compiler cold" in text and "peak memory" in text


def test_an_integer_input_stays_inside_its_table(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axis"], ["column"]),
        helper.make_node("Gather", ["table", "column"], ["y"], name="embedding"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 1000])
    weights = {"table": np.eye(3, dtype=np.float32), "axis": np.array([0], np.int64)}
    path = tiny.save(tiny.model(nodes, [ids], [tiny.floats("y", 1, "batch", 1000, 3)], weights), tmp_path)
    run("check", path, "--against", "reference")
    answer = json.loads(run("run", path, "--random", "--json").stdout)
    assert answer["outputs"]["y"]["mean"] == pytest.approx(1 / 3)


def test_the_installed_script_answers_quickly() -> None:
    script = Path(sys.executable).with_name("dsc")
    if not script.is_file():
        pytest.skip("the package is not installed with its script")
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([script, "--help"], check=True, capture_output=True, env={**os.environ, "COLUMNS": "100"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 0.3  # seconds of CPU, twice the goal: machines differ


def test_a_broken_pipe_is_no_error(perceptron: Path) -> None:
    command = f"{sys.executable} -m ds_compiler.cli ops | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
