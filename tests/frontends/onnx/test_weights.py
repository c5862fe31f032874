"""Weights cut out of a model file: nothing changes but who holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ds_compiler.frontends.onnx import import_model, loader, weights
from ds_compiler.ir import CompileError
from ds_compiler.reference import interpret

KINDS = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT8", "UINT8", "BOOL", "INT64", "INT4"]


def model(kind: str, name: str = "w") -> onnx.ModelProto:
    """``w`` (3000 x 7) as output, its data raw and more than what is left in the message."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind))
    values = np.random.default_rng(0).integers(0, 2 if kind == "BOOL" else 7, (3000, 7)).astype(dtype)
    tensor = numpy_helper.from_array(values, name)
    node = helper.make_node("Identity", [name], ["y"])
    output = helper.make_tensor_value_info("y", tensor.data_type, [3000, 7])
    small = numpy_helper.from_array(np.ones(3, np.float32), "small")
    graph = helper.make_graph([node], "g", [], [output], [small, tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="tester")


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGE", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_make_the_whole(kind: str, tmp_path: Path) -> None:
    path, proto = tmp_path / "model.onnx", model(kind)
    onnx.save(proto, path)
    cut = weights.cut_file(path)
    assert set(cut.weights) == {"w"} and len(cut.model) < 1000
    rest = onnx.ModelProto.FromString(cut.model)
    assert not rest.graph.initializer[1].HasField("raw_data")
    rest.graph.initializer[1].raw_data = bytes(cut.weights["w"])
    assert rest == proto
    expected = numpy_helper.to_array(proto.graph.initializer[1])
    loaded = loader.load_model(path)
    found = loader.read_initializer(loaded.proto.graph.initializer[1], loaded)
    assert found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


def test_the_module_is_the_same(tmp_path: Path) -> None:
    path, proto = tmp_path / "model.onnx", model("FLOAT")
    onnx.save(proto, path)
    (ours,), (whole,) = interpret(import_model(path), []), interpret(import_model(proto), [])
    assert np.array_equal(ours, whole)


def test_too_little_data(tmp_path: Path) -> None:
    path, proto = tmp_path / "model.onnx", model("FLOAT")
    proto.graph.initializer[1].dims[0] = 3001
    onnx.save(proto, path)
    with pytest.raises(CompileError, match="initializer 'w' holds too little"):
        import_model(path)


def test_names_given_twice_are_still_refused(tmp_path: Path) -> None:
    path, proto = tmp_path / "model.onnx", model("FLOAT")
    proto.graph.initializer.append(proto.graph.initializer[1])
    onnx.save(proto, path)
    assert not weights.cut_file(path).weights
    with pytest.raises(CompileError, match="'w' is defined twice"):
        import_model(path)


@pytest.mark.parametrize("seed", range(30))
def test_damage_is_left_to_protobuf(seed: int, tmp_path: Path) -> None:
    path, data = tmp_path / "model.onnx", bytearray(model("FLOAT").SerializeToString())
    rng = np.random.default_rng(seed)
    for _ in range(3):
        data[rng.integers(0, 200) * (1 if rng.random() < 0.5 else -1)] = rng.integers(0, 256)
    path.write_bytes(data[: rng.integers(1, len(data) + 1)] if seed % 3 == 0 else data)
    try:
        whole = onnx.ModelProto.FromString(path.read_bytes())
    except Exception:
        with pytest.raises(CompileError):
            loader.load_model(path)
        return
    try:
        loaded = loader.load_model(path)
    except CompileError:
        return
    for tensor, original in zip(loaded.proto.graph.initializer, whole.graph.initializer, strict=True):
        if tensor.name in loaded.weights and not tensor.HasField("raw_data"):
            assert bytes(loaded.weights[tensor.name]) == original.raw_data


@pytest.mark.parametrize("kind", KINDS)
def test_external_data_is_mapped(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAPPED", 0)
    path, proto = tmp_path / "model.onnx", model(kind)
    expected = numpy_helper.to_array(proto.graph.initializer[1])
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    loaded = loader.load_model(path)
    found = loader.read_initializer(loaded.proto.graph.initializer[1], loaded)
    assert found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()
    assert kind == "INT4" or "weights.bin" in Path("/proc/self/maps").read_text()
