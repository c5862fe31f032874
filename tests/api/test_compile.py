"""`ds.compile` and what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import build
from ds_compiler.ir.printer import print_module
from ds_compiler.source import Source
from tests.api import models


def close(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_every_kind_of_model(tmp_path: Path) -> None:
    x = models.x_of(3)
    proto = models.perceptron()
    path = models.save(proto, tmp_path)
    module = Source.of(path).module()
    before = print_module(module)
    for model in (path, str(path), proto, proto.SerializeToString(), module):
        for cache in (False, True, tmp_path / "mine"):
            close(ds.compile(model, cache=cache)(x=x)["y"], models.perceptron_in_numpy(x))
    assert print_module(module) == before


def test_ir_text_is_a_model(tmp_path: Path) -> None:
    from ds_compiler.ir.printer import save_module

    path = tmp_path / "tiny.dsir"
    save_module(Source.of(models.perceptron()).module(), path)
    x = models.x_of(2)
    close(ds.compile(path)(x=x)["y"], models.perceptron_in_numpy(x))
    close(ds.compile(path)(x=x)["y"], models.perceptron_in_numpy(x))
    with pytest.raises(ds.CompileError, match="dims="):
        ds.compile(path, dims={"batch": 2})


def test_all_ways_to_call() -> None:
    program = ds.compile(models.two_outputs())
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2, 3], np.float32)
    for outputs in (program(a=a, b=b), program({"a": a, "b": b}), program(a, b)):
        assert list(outputs) == ["sum", "product"]
        assert np.array_equal(outputs["sum"], a + b) and np.array_equal(outputs["product"], a * b)
    total, product = program.run(None, {"a": a, "b": b})
    assert np.array_equal(total, a + b) and np.array_equal(product, a * b)
    (only,) = program.run(["product"], {"a": a, "b": b})
    assert np.array_equal(only, a * b)
    mine = np.empty((2, 3), np.float32)
    assert program(a, b, out={"sum": mine})["sum"] is mine and np.array_equal(mine, a + b)


def test_names_that_are_no_identifiers() -> None:
    program = ds.compile(models.odd_names())
    x = np.array([1.0, -2.0], np.float32)
    assert np.array_equal(program({"data/0:in": x})["out.put 1"], -x)
    assert np.array_equal(program.run(["out.put 1"], {"data/0:in": x})[0], -x)


def test_inputs_and_outputs_are_described() -> None:
    program = ds.compile(models.perceptron())
    (x,), (y,) = program.inputs, program.outputs
    assert (x.name, x.dtype, x.shape) == ("x", "float32", ("batch", 8))
    assert (y.name, y.dtype, y.shape) == ("y", "float32", ("batch", 4))


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"z": models.x_of(1)}, "unknown input 'z'"),
        ({}, "missing input 'x'"),
        ({"x": models.x_of(1).astype(np.float64)}, r"'x'.*f32\[batch,8\].*f64\[1,8\]"),
        ({"x": models.x_of(1)[0]}, r"'x'.*f32\[batch,8\]"),
        ({"x": models.x_of(1)[:, :7]}, r"'x'.*8"),
    ],
)
def test_wrong_inputs_are_told(feed: dict[str, Any], message: str) -> None:
    program = ds.compile(models.perceptron())
    with pytest.raises(ds.InputError, match=message):
        program(feed)
    with pytest.raises(ds.InputError, match=message):
        program.run(None, feed)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is compiled from here on."""
    seen: list[str] = []
    original = build.compile_module

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append(options["name"])
        return original(*arguments, **options)

    monkeypatch.setattr(build, "compile_module", counted)
    return seen


def test_one_compilation_serves_every_size(compilations: list[str]) -> None:
    program = ds.compile(models.perceptron())
    for batch in (1, 2, 7, 64, 1000):
        x = models.x_of(batch, seed=batch)
        for threads in (1, 2):
            program.threads = threads
            close(program(x=x)["y"], models.perceptron_in_numpy(x))
    assert len(compilations) == 1


def test_fixed_sizes(compilations: list[str]) -> None:
    program = ds.compile(models.perceptron(), dims={"batch": 3})
    assert program.inputs[0].shape == (3, 8)
    close(program(x=models.x_of(3))["y"], models.perceptron_in_numpy(models.x_of(3)))
    with pytest.raises(ds.InputError, match="'x'"):
        program(x=models.x_of(2))
    ds.compile(models.perceptron(), dims={"batch": 4})
    ds.compile(models.perceptron())
    assert len(compilations) == 3
    with pytest.raises(ds.CompileError, match="'depth'"):
        ds.compile(models.perceptron(), dims={"depth": 4})


def test_ir_after_each_pass(compilations: list[str]) -> None:
    for _ in range(2):  # the second time from the cache
        program = ds.compile(models.perceptron())
        assert "fusion" in program.ir() and program.ir() == program.ir(after="fuse")
        assert "fusion" not in program.ir(after="layout") and "dot_general" in program.ir(after="import")
        with pytest.raises(ds.CompileError, match=r"no pass called 'polish'.*fuse"):
            program.ir(after="polish")
    assert len(compilations) == 1


def test_the_report_accounts_for_the_program() -> None:
    fresh, again = (ds.compile(models.perceptron()).report() for _ in range(2))
    assert not fresh.cached and again.cached
    assert fresh.kernels == again.kernels and len(fresh.kernels) == fresh.distinct_kernels == 1
    assert fresh.kernels[0].nodes == ("fc", "act", "square", "difference")
    assert {"import", "passes", "generate code", "total"} <= set(again.seconds)
    assert {"canonicalize", "fuse"} <= set(again.pass_seconds)
    assert again.constant_bytes >= 8 * 4 * 4 and again.plan["buffers"]["constant"] == 1
    from ds_compiler.report import evaluate

    assert evaluate(again.flops, {"batch": 2}) == 2 * evaluate(again.flops, {"batch": 1}) > 2 * 2 * 32
    text = str(again)
    assert "from the cache" in text and "1 kernels" in text and "generate code" in text


def test_profiles_name_the_nodes() -> None:
    program = ds.compile(models.perceptron(), threads=1)
    kernel, *_ = program.profile({"x": models.x_of(100)}, repeat=3)
    assert kernel.nodes == ("fc", "act", "square", "difference") and kernel.seconds > 0 and kernel.flops > 100 * 64


def test_other_pipelines_compute_the_same() -> None:
    x = models.x_of(5)
    for passes in ("", "fuse", "cleanup", "fuse{max-ops=1}"):
        program = ds.compile(models.perceptron(), passes=passes, verify=True)
        close(program(x=x)["y"], models.perceptron_in_numpy(x))
    assert len(ds.compile(models.perceptron(), passes="fuse{max-ops=1}").report().kernels) == 4


@pytest.mark.parametrize("option", ["precision", "memory_budget", "mesh", "dynamic"])
def test_options_that_are_not_built_are_refused(option: str) -> None:
    with pytest.raises(ds.CompileError, match=f"{option}= yet"):
        ds.compile(models.perceptron(), **{option: "bf16"})  # type: ignore[arg-type]


def test_wrong_options_are_told() -> None:
    with pytest.raises(ds.CompileError, match="unknown target 'z80'"):
        ds.compile(models.perceptron(), target="z80")
    with pytest.raises(ds.CompileError, match="unknown pass 'polish'"):
        ds.compile(models.perceptron(), passes="polish")
    with pytest.raises(ValueError, match="threads"):
        ds.compile(models.perceptron(), threads=0)
    with pytest.raises(TypeError, match=r"expected a path.*got builtins\.int"):
        ds.compile(7)  # type: ignore[arg-type]


def test_artifacts(tmp_path: Path) -> None:
    program = ds.compile(models.perceptron(), target="x86-64-v2")
    path = tmp_path / "tiny.dsa"
    program.save(path)
    loaded = ds.load(path, threads=1)
    x = models.x_of(4)
    assert np.array_equal(loaded(x=x)["y"], program(x=x)["y"])
    assert (loaded.inputs, loaded.outputs, loaded.threads) == (program.inputs, program.outputs, 1)
    assert loaded.report().kernels == program.report().kernels and "kernels" in str(loaded.report())
    with pytest.raises(ValueError, match="compile its model"):
        loaded.ir()
    loaded.save(tmp_path / "copy.dsa")
    assert (tmp_path / "copy.dsa").read_bytes() == path.read_bytes()
    with pytest.raises(ds.LoadError, match=r"model\.onnx"):
        models.save(models.perceptron(), tmp_path, "model.onnx")
        ds.load(tmp_path / "model.onnx")


def test_names_may_hold_anything() -> None:
    proto = models.perceptron()
    proto.graph.node[1].name = 'a\nb ; } " \\ c\r\nd'
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = 'y "\n'
    program = ds.compile(proto)
    close(program(x=models.x_of(2))['y "\n'], models.perceptron_in_numpy(models.x_of(2)))
    assert 'a\nb ; } " \\ c\r\nd' in program.report().kernels[0].nodes
