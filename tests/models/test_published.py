"""The model specs give inputs that onnxruntime accepts, at every size that they list."""

from __future__ import annotations

import numpy as np
import pytest

from bench.models import MODELS, ModelSpec
from ds_compiler.demo.published import check_hash
from tests.models import fetch
from tests.models.fetch import ModelUnavailable

SMALL = [spec for spec in MODELS.values() if spec.small]
LARGE = [spec for spec in MODELS.values() if not spec.small]
MANY_SIZES = [
    "silero_vad",
    "silero_vad_16k_op15",
    "silero_vad_16k_sequence",
    "ppocr_det",
    "ppocr_rec",
    "vit_s_focus",
    "wakeword_embedding",
    "wakeword_melspectrogram",
]


def run_all_sizes(spec: ModelSpec) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    try:
        path = spec.path()
    except ModelUnavailable as error:
        pytest.skip(str(error))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    for dims in spec.dims:
        feeds = spec.inputs(seed=1, **dims)
        assert feeds.keys() == names
        for output in session.run(None, feeds):
            assert np.isfinite(output).all(), dims
            assert output.size == 1 or np.ptp(output) > 0, f"constant output at {dims}"


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_onnxruntime_accepts_the_inputs(spec: ModelSpec) -> None:
    run_all_sizes(spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", LARGE, ids=lambda spec: spec.name)
def test_onnxruntime_accepts_the_inputs_of_large_models(spec: ModelSpec) -> None:
    run_all_sizes(spec)


@pytest.mark.parametrize("name", MANY_SIZES)
def test_dynamic_models_come_with_five_sizes(name: str) -> None:
    sizes = {tuple(sorted(dims.items())) for dims in MODELS[name].dims}
    assert len(sizes) >= 5


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_inputs_depend_on_the_seed_alone(spec: ModelSpec) -> None:
    first, again, other = spec.inputs(seed=3), spec.inputs(seed=3), spec.inputs(seed=4)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_an_unknown_dimension_is_named() -> None:
    with pytest.raises(KeyError, match="depth"):
        MODELS["ppocr_det"].inputs(depth=3)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(KeyError, match="no published model 'resnet'"):
        fetch.fetch("resnet")


def test_a_changed_file_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="not the pinned file"):
        check_hash(b"something else", "0" * 64, "model.onnx")


def test_no_network_is_one_clear_error(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSC_MODELS", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr("ds_compiler.demo.published.failed_downloads", lambda: {})
    with pytest.raises(ModelUnavailable, match="cannot download magika=="):
        fetch.fetch("magika")
