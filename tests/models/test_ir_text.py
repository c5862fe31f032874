"""The IR of whole models, before and after the passes, parses back to the same text and the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.models import MODELS, ModelSpec
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir.parser import load_module
from ds_compiler.ir.printer import print_module, save_module
from ds_compiler.ir.verifier import verify
from ds_compiler.passes import manager
from ds_compiler.reference import interpret
from tests.models.fetch import ModelUnavailable


def check(spec: ModelSpec, folder: Path) -> None:
    try:
        module = import_model(spec.path())
    except ModelUnavailable as error:
        pytest.skip(str(error))
    feeds = spec.inputs(seed=0)
    expected = interpret(module, feeds)
    for pipeline in ("", "default"):
        manager.run(module, pipeline, verify=True)
        save_module(module, folder / "model.dsir")
        read = load_module(folder / "model.dsir")
        verify(read)
        assert print_module(read) == print_module(module)
        found, again = interpret(module, feeds), interpret(read, feeds)
        for a, b, c in zip(found, again, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.abs(a.astype(np.float64) - c).max() <= spec.tolerance * max(float(np.abs(c).max()), 1e-30)


@pytest.mark.parametrize("spec", [s for s in MODELS.values() if s.small], ids=lambda spec: spec.name)
def test_small_model(spec: ModelSpec, tmp_path: Path) -> None:
    check(spec, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [s for s in MODELS.values() if not s.small], ids=lambda spec: spec.name)
def test_large_model(spec: ModelSpec, tmp_path: Path) -> None:
    check(spec, tmp_path)
