"""Whole models, compiled once, against onnxruntime at every size that they serve."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

import ds_compiler as ds
from bench.models import MODELS, Dims, ModelSpec
from tests.models.fetch import ModelUnavailable

SMALL = [spec for spec in MODELS.values() if spec.small]
LARGE = [spec for spec in MODELS.values() if not spec.small]


def check_sizes(spec: ModelSpec, threads: int, sizes: Iterable[Dims]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    try:
        path = spec.path()
    except ModelUnavailable as error:
        pytest.skip(str(error))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = ds.compile(path, threads=threads)
    for seed, dims in enumerate(sizes):
        feeds = spec.inputs(seed=seed, **dims)
        found = model(feeds)
        wanted = dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))
        assert found.keys() == wanted.keys()
        for name, want in wanted.items():
            got = found[name]
            assert (got.shape, got.dtype) == (want.shape, want.dtype), f"{name} at {dims}"
            scale = max(float(np.abs(want).max(initial=0)), 1e-30)
            error = float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale
            assert error <= spec.tolerance, f"{name} at {dims}: error {error:.2g} of the output's scale"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)
def test_small_model(spec: ModelSpec, threads: int) -> None:
    check_sizes(spec, threads, spec.dims)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spec", LARGE, ids=lambda spec: spec.name)
def test_large_model(spec: ModelSpec, threads: int) -> None:
    check_sizes(spec, threads, spec.dims)


def random_sizes(spec: ModelSpec, count: int) -> list[Dims]:
    """Sizes between the smallest and the largest listed, in steps that all listed ones are multiples of; what a rate
    of samples goes with is not torn apart from it."""
    rng = np.random.default_rng(20)
    found: list[Dims] = []
    for _ in range(count):
        drawn = dict(spec.dims[rng.integers(len(spec.dims))])
        for key in drawn:
            listed = [dims[key] for dims in spec.dims]
            if "sample_rate" in drawn and key != "batch":
                continue
            step = math.gcd(*listed)
            drawn[key] = step * int(rng.integers(min(listed) // step, max(listed) // step + 1))
        found.append(drawn)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spec", [s for s in MODELS.values() if len(s.dims) > 1], ids=lambda spec: spec.name)
def test_twenty_random_sizes(spec: ModelSpec) -> None:
    check_sizes(spec, 2, random_sizes(spec, 20))
