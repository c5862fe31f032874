"""Whole programs: ONNX models interpreted from end to end, and the machine code of every kernel they have."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime
import pytest

from bench.models import MODELS
from ds_compiler.backends.triton.program import Lowered, lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.build import pipeline
from ds_compiler.gpu import GpuModel, build_for_gpu
from ds_compiler.passes import run as run_passes
from ds_compiler.runtime.cuda.plan import Launch
from ds_compiler.source import Source
from tests.backends.triton.interpreting import INTERPRETER, needs_triton
from tests.models.fetch import ModelUnavailable

pytestmark = needs_triton

INTERPRETED = {
    "gpt2_small": {"batch": 1, "seq": 7},
    "bert_small": {"batch": 2, "seq": 5},
    "llama_small": {"batch": 1, "seq": 6},
    "vit_small": {},
    "mobilenet_v2_small": {},
}
COMPILED = ["gpt2_small", "vit_small", "mobilenet_v2_small"]
ALL = sorted(MODELS)
#: What holds control flow, which the GPU back end does not take yet.
UNSUPPORTED = {"silero_vad", "silero_vad_16k_sequence"}


def lowered(name: str, target: str = "cuda:90") -> Lowered:
    try:
        module = Source.of(str(MODELS[name].path())).module()
    except ModelUnavailable as problem:
        pytest.skip(str(problem))
    run_passes(module, pipeline("gpu"))
    return lower(module, parse_target(target), name=name)


@pytest.mark.parametrize("name", INTERPRETED)
def test_interpreted_model_agrees_with_onnxruntime(name: str) -> None:
    spec = MODELS[name]
    low = lowered(name)
    dims = {k: v for k, v in INTERPRETED[name].items() if k in spec.dims[0]}
    feeds = spec.inputs(0, **dims)
    expected = onnxruntime.InferenceSession(str(spec.path()), providers=["CPUExecutionProvider"]).run(None, feeds)
    inputs = [np.asarray(feeds[t.name]) for t in low.program.manifest.inputs]
    got = INTERPRETER(low, b"".join(low.constants.pieces()), inputs, through_driver=name == "gpt2_small")
    for ours, reference in zip(got, expected, strict=True):
        assert ours.shape == reference.shape and ours.dtype == reference.dtype
        scale = max(float(np.abs(reference).max()), 1e-6)
        np.testing.assert_allclose(ours / scale, reference / scale, rtol=0, atol=spec.tolerance)


def check_code(model: GpuModel, shared: int) -> None:
    """What must hold of all machine code."""
    for kernel in model.kernels:
        text, source = kernel.code.assembly, kernel.kernel.source
        assert kernel.code.image and kernel.code.shared <= shared
        assert kernel.code.scratch == (0, 0)
        if model.program.target.startswith("cuda"):
            entry = re.search(r"\.entry [\w$]+\((.*?)\)", text, re.DOTALL)
            assert entry is not None
            # Triton adds two pointers to scratch.
            assert entry[1].count(".param") == len(kernel.kernel.signature) + 2
            if "tl.dot(" in source and "fp64" not in str(kernel.kernel.signature):
                assert "wgmma" in text or "mma.sync" in text, source
    launches = [s for s in model.program.steps if isinstance(s, Launch)]
    assert sum(k.launches for k in model.kernels) == len(launches)


@pytest.mark.parametrize(
    ("name", "target"), [*((n, "cuda:90") for n in COMPILED), ("gpt2_small", "cuda:80"), ("gpt2_small", "hip:gfx942")]
)
def test_every_kernel_compiles(name: str, target: str) -> None:
    model = build_for_gpu(Source.of(str(MODELS[name].path())), target, "gpu", False)
    check_code(model, {"cuda:90": 227 << 10, "cuda:80": 163 << 10, "hip:gfx942": 64 << 10}[target])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ALL if n not in COMPILED and n not in UNSUPPORTED])
def test_every_kernel_of_the_larger_models_compiles(name: str) -> None:
    try:
        source = Source.of(str(MODELS[name].path()))
    except ModelUnavailable as problem:
        pytest.skip(str(problem))
    check_code(build_for_gpu(source, "cuda:90", "gpu", False), 227 << 10)
