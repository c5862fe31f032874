"""Exported models after onnxruntime's own tools: transformer optimizer, float16 conversion, quantisation.

The files are made at test time from the cached ones. onnxruntime runs the same file and is the reference. Weights are
quantised to 7 bits (``reduce_range``): with 8, onnxruntime's kernels saturate sums on processors without VNNI.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ds_compiler as ds
from bench.models import MODELS, ModelSpec
from tests.models.fetch import ModelUnavailable

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sympy")  # onnxruntime's tools need it

TRANSFORMERS = {"bert_small": "bert", "bert_small_eager": "bert", "gpt2_small": "bert", "vit_small": "vit"}
TRANSFORMERS |= {"llama_small": "gpt2"}  # the optimizer's fusions for "gpt2" fail on the other one's graph
MODELS_TO_QUANTIZE = (*TRANSFORMERS, "mobilenet_v2_small")
Array = np.ndarray[Any, Any]


def path_of(spec: ModelSpec) -> Path:
    try:
        return spec.path()
    except ModelUnavailable as error:
        pytest.skip(str(error))


def check_model(path: Path, spec: ModelSpec, tolerance: float, threads: int = 1) -> None:
    """Both engines agree at two sizes, within `tolerance` as the ratio of 2-norms.

    Where onnxruntime's own optimisations move its result further than that (random weights amplify roundings), no more
    is asked of ours than to be as close to one of its two results as they are to each other.
    """
    sessions = []
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    model = ds.compile(path, threads=threads)
    for seed, dims in enumerate(spec.dims[:2]):
        feeds = spec.inputs(seed=seed, **dims)
        feeds = {i.name: feeds[i.name].astype(np.float16) if "float16" in i.type else feeds[i.name]
                 for i in sessions[0].get_inputs()}  # fmt: skip
        wanted = [session.run(None, feeds) for session in sessions]
        for got, optimised, plain in zip(model.run(None, feeds), *wanted, strict=True):
            assert (got.shape, got.dtype) == (plain.shape, plain.dtype)
            error = min(_distance(got, optimised), _distance(got, plain))
            assert error <= max(tolerance, _distance(optimised, plain)), f"{dims}: error {error:.2g} of the norm"


def _distance(a: Array, b: Array) -> float:
    difference, size = np.linalg.norm(a.astype(np.float64) - b), np.linalg.norm(b.astype(np.float64))
    return float(difference / max(float(size), 1e-30))


def optimised(spec: ModelSpec, target: Path, half: bool) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    heads, width = 4, 128
    model = optimize_model(
        str(path_of(spec)), TRANSFORMERS[spec.name], num_heads=heads, hidden_size=width, use_gpu=False
    )
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target))


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_optimizer(name: str, half: bool, tmp_path: Path) -> None:
    spec, path = MODELS[name], tmp_path / "model.onnx"
    optimised(spec, path, half)
    check_model(path, spec, 1e-2 if half else spec.tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS_TO_QUANTIZE)
def test_float16_conversion(name: str, tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    spec, path = MODELS[name], tmp_path / "model.onnx"
    onnx.save(convert_float_to_float16(onnx.load(path_of(spec)), keep_io_types=True), path)
    check_model(path, spec, 1e-2)


class Samples:
    """What static quantisation calibrates with."""

    def __init__(self, spec: ModelSpec) -> None:
        self.feeds = iter([spec.inputs(seed=seed, **spec.dims[0]) for seed in range(2)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def _dynamic(spec: ModelSpec, source: Path, target: Path, channels: bool) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, per_channel=channels, reduce_range=True)


def _static(operators: bool) -> Callable[[ModelSpec, Path, Path, bool], None]:
    def quantize(spec: ModelSpec, source: Path, target: Path, channels: bool) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

        CalibrationDataReader.register(Samples)
        quantize_static(
            source,
            target,
            Samples(spec),
            quant_format=QuantFormat.QOperator if operators else QuantFormat.QDQ,
            per_channel=channels,
            reduce_range=True,
        )

    return quantize


TOOLS = {"dynamic": _dynamic, "qdq": _static(False), "qoperator": _static(True)}


@pytest.mark.slow
@pytest.mark.parametrize("channels", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", MODELS_TO_QUANTIZE)
def test_quantisation(name: str, tool: str, channels: bool, tmp_path: Path) -> None:
    """A value next to a tie is rounded up by one engine and down by the other, and moves what follows by a step."""
    from onnxruntime.quantization import shape_inference

    spec, prepared, path = MODELS[name], tmp_path / "prepared.onnx", tmp_path / "model.onnx"
    shape_inference.quant_pre_process(str(path_of(spec)), str(prepared), skip_symbolic_shape=True)
    TOOLS[tool](spec, prepared, path, channels)
    check_model(path, spec, 2e-2)
