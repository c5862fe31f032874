"""Models after onnxruntime's own tools: transformer optimizer, float16 conversion, quantisation.

The files are made at test time from the cached ones. onnxruntime runs the same file and is the reference. Weights are
quantised to 7 bits (``reduce_range``): with 8, onnxruntime's kernels saturate sums on processors without VNNI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import pytest

import ds_compiler as ds
from bench.models import MODELS, ModelSpec
from tests.models.fetch import ModelUnavailable
from tests.models.parted import parted, with_all_outputs
from tests.models.rounded import run_rounded

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sympy")  # onnxruntime's tools need it

_REFUSED = onnxruntime.capi.onnxruntime_pybind11_state.Fail

Array = np.ndarray[Any, Any]

TRANSFORMERS = {
    "bert_small": "bert", "bert_small_eager": "bert", "gpt2_small": "gpt2", "llama_small": "gpt2", "vit_small": "vit",
    "bert_base": "bert", "gpt2": "gpt2", "llama": "gpt2", "vit_base": "vit",
}  # fmt: skip
"""Exported transformers, and what the optimizer takes them for."""

PUBLISHED = ("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "ppocr_det", "ppocr_rec", "ppocr_cls",
             "magika", "vit_s_focus", "wakeword_embedding", "wakeword_melspectrogram")  # fmt: skip
CONVERTED = (*TRANSFORMERS, "mobilenet_v2_small", "mobilenet_v2", *PUBLISHED)

TOOL_FAILS = {
    ("float16", "silero_vad"): "the tool leaves an If whose branches' types differ from what it states; invalid",
    (
        "float16",
        "silero_vad_16k_op15",
    ): "the tool leaves an If whose branches' types differ from what it states; invalid",
    ("float16", "vit_s_focus"): "onnxruntime's cubic Resize, which takes float32 only, refuses the converted scales",
    ("qdq", "channel", "magika"): "the tool compares an array of scales as if it were one number, and raises",
    ("qoperator", "channel", "magika"): "the tool compares an array of scales as if it were one number, and raises",
}
"""Cases in which no model comes out that onnxruntime itself runs, and why."""

ROUNDING = 1e-6
"""By how much numbers are moved to see how far roundings move a model's outputs: eight steps of float32."""


def cases(*tool: str, names: Iterable[str]) -> list[Any]:
    """A parameter for each model; those that the tool fails on must go on failing in it or in onnxruntime."""
    found = []
    for name in names:
        reason = TOOL_FAILS.get((*tool, name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True, raises=(ValueError, _REFUSED))]
        found.append(pytest.param(*tool, name, id="-".join((*tool, name)), marks=marks))
    return found


def path_of(spec: ModelSpec) -> Path:
    try:
        return spec.path()
    except ModelUnavailable as error:
        pytest.skip(str(error))


def check_model(
    path: Path, spec: ModelSpec, tolerance: float, further: Callable[[dict[str, Array]], list[Array]] | None = None
) -> None:
    """Both engines agree at two sizes, within `tolerance` as the ratio of 2-norms.

    Roundings amplify in deep networks, and a value next to a tie of a quantisation moves what follows by a whole step.
    No more is asked of ours than to be as close to one of the reference's results as these are to each other: with and
    without its optimisations, and with numbers that differ by a rounding. `further` gives one more such result.
    """
    sessions = [session_of(path, "ORT_DISABLE_ALL"), session_of(path)]
    shaken = [session_of(shaken_model(path, seed)) for seed in range(3)]
    model = ds.compile(path, threads=1)
    for seed, dims in enumerate(spec.dims[:2]):
        given = spec.inputs(seed=seed, **dims)
        feeds = {i.name: given[i.name].astype(np.float16) if "float16" in i.type else given[i.name]
                 for i in sessions[0].get_inputs()}  # fmt: skip
        rng = np.random.default_rng(seed)
        results = [session.run(None, feeds) for session in sessions]
        results += [session.run(None, {name: shaken_array(rng, x) for name, x in feeds.items()}) for session in shaken]
        if further is not None:
            results.append(further(feeds))
        for got, *wanted in zip(model.run(None, feeds), *results, strict=True):
            assert (got.shape, got.dtype) == (wanted[0].shape, wanted[0].dtype)
            error = min(_distance(got, want) for want in wanted)
            spread = max(_distance(a, b) for a in wanted for b in wanted)
            assert error <= max(tolerance, spread), f"{dims}: error {error:.2g} of the norm, spread {spread:.2g}"


def session_of(path: Path, level: str = "ORT_ENABLE_ALL") -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def shaken_model(path: Path, seed: int) -> Path:
    """The model, in which float32 weights, biases and scales are moved by a rounding: those inside a quantised model
    decide what lies next to a tie, while its inputs' roundings vanish in their own quantisation."""
    model, rng = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            moved = shaken_array(rng, onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    target = path.with_name(f"shaken-{seed}.onnx")
    onnx.save(model, target)
    return target


def shaken_array(rng: np.random.Generator, x: Array) -> Array:
    if x.dtype != np.float32:
        return x
    limits = np.finfo(np.float32)  # masks hold the lowest number
    return np.clip(x * (1 + rng.uniform(-ROUNDING, ROUNDING, x.shape)), limits.min, limits.max).astype(np.float32)


def _distance(a: Array, b: Array) -> float:
    difference, size = np.linalg.norm(a.astype(np.float64) - b), np.linalg.norm(b.astype(np.float64))
    return float(difference / max(float(size), 1e-30))


def optimised(spec: ModelSpec, target: Path, half: bool) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    source = target.with_name("source.onnx")
    onnx.save(with_biases(onnx.load(path_of(spec))), source)
    heads, width = (4, 128) if "small" in spec.name else (12, 768)
    model = optimize_model(str(source), TRANSFORMERS[spec.name], num_heads=heads, hidden_size=width, use_gpu=False)
    assert any(node.domain == "com.microsoft" for node in model.model.graph.node)
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target))


def with_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a bias in every Gemm: exporters leave out zeros, and the optimizer cannot do without."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gemm" and len(node.input) == 2 and node.input[1] in weights:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            width = weights[node.input[1]].dims[0 if transposed else 1]
            bias = onnx.numpy_helper.from_array(np.zeros(width, np.float32), f"{node.name}_bias")
            model.graph.initializer.append(bias)
            node.input.append(bias.name)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_optimizer(name: str, half: bool, tmp_path: Path) -> None:
    spec, path = MODELS[name], tmp_path / "model.onnx"
    optimised(spec, path, half)
    check_model(path, spec, 1e-2 if half else spec.tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "name"), cases("float16", names=CONVERTED))
def test_float16_conversion(tool: str, name: str, tmp_path: Path) -> None:
    """onnxruntime computes such models in float32 throughout; ONNX says that each node's result is rounded."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    spec, path = MODELS[name], tmp_path / "model.onnx"
    model = convert_float_to_float16(onnx.load(path_of(spec)), keep_io_types=True)
    onnx.save(model, path)
    check_model(path, spec, 1e-2, lambda feeds: run_rounded(model, feeds))


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


PER_CHANNEL = 13
"""The opset from which scales may belong to channels; the tool writes such scales into older models too."""

TOOLS = {"dynamic": _dynamic, "qdq": _static(False), "qoperator": _static(True)}


def quantised(tool: str, channels: str, spec: ModelSpec, folder: Path) -> Path:
    from onnxruntime.quantization import shape_inference

    prepared, path = folder / "prepared.onnx", folder / "model.onnx"
    source = path_of(spec)
    if onnx.load(source).opset_import[0].version < PER_CHANNEL:
        source = folder / "newer.onnx"
        onnx.save(onnx.version_converter.convert_version(onnx.load(path_of(spec)), PER_CHANNEL), source)
    shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    TOOLS[tool](spec, prepared, path, channels == "channel")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "channels", "name"),
    [case for tool in TOOLS for channels in ("tensor", "channel") for case in cases(tool, channels, names=CONVERTED)],
)
def test_quantisation(tool: str, channels: str, name: str, tmp_path: Path) -> None:
    spec = MODELS[name]
    check_model(quantised(tool, channels, spec, tmp_path), spec, 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", ["mobilenet_v2_small", "bert_small"])
def test_each_quantised_node(name: str, tool: str, tmp_path: Path) -> None:
    """On the reference's own values each node gives its integers exactly, and floats within 1e-5: where whole models
    are further apart, that is what these last digits grow to."""
    spec = MODELS[name]
    model = onnx.load(quantised(tool, "channel", spec, tmp_path))
    feeds = spec.inputs(seed=0, **spec.dims[0])
    whole = tmp_path / "all.onnx"
    onnx.save(with_all_outputs(model), whole)
    session = session_of(whole, "ORT_DISABLE_ALL")
    values = dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True)) | feeds
    alone, owns = parted(model, values)
    results = ds.compile(alone, threads=1)({v.name: values[v.name] for v in alone.graph.input})
    assert len(owns) > 60
    for output, name_ in owns.items():
        got, want = results[output], values[name_]
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name_
        if want.dtype.kind == "f":
            scale = float(np.abs(want).max(initial=0)) or 1.0
            np.testing.assert_allclose(got, want, 0, 1e-5 * scale, err_msg=name_)
        else:
            np.testing.assert_array_equal(got, want, err_msg=name_)
