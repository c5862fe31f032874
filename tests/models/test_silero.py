"""Voice activity detection: recurrence, and branches that data and sizes decide, interpreted and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.models import MODELS
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError, Module
from ds_compiler.ir.verifier import verify
from ds_compiler.reference import interpret
from ds_compiler.runtime import ExecutionError, InputError
from tests.frontends.onnx.native import executables
from tests.models.fetch import ModelUnavailable

NAMES = ("silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence")


def imported(name: str) -> tuple[Module, str]:
    try:
        path = str(MODELS[name].path())
    except ModelUnavailable as error:
        pytest.skip(str(error))
    module = import_model(path)
    verify(module)
    return module, path


def inputs(name: str, **dims: int) -> dict[str, Any]:
    """The model's inputs with a state that is not zero."""
    rng = np.random.default_rng(1)
    found = dict(MODELS[name].inputs(3, **dims))
    for key in ("state", "h", "c"):
        if key in found:
            found[key] = (rng.standard_normal(found[key].shape) * 0.3).astype(np.float32)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_against_onnxruntime(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module, path = imported(name)
    programs = executables(module, 1, 2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for dims in MODELS[name].dims:
        arrays = inputs(name, **dims)
        expected = session.run(None, arrays)
        for results in (interpret(module, arrays), *(p.run(None, arrays) for p in programs)):
            for ours, theirs in zip(results, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_rank_of_a_branch_is_assumed_and_checked() -> None:
    """The encoder's length must be 1 for the declared output; other lengths are refused, not computed wrongly."""
    wrong = r"/model/decoder/If.*sequence.* and 1 must be equal"
    module, _ = imported("silero_vad_16k_op15")
    assert [op.mnemonic for op in module.walk()].count("if") == 0
    arrays = inputs("silero_vad_16k_op15", samples=1000)
    with pytest.raises(CompileError, match=r"sequence.* and 1 must be equal, they are 2 and 1; at '/model/decoder/If'"):
        interpret(module, arrays)
    with pytest.raises(InputError, match=wrong):
        executables(module)[0].run(None, arrays)


def test_assumption_of_the_branch_not_taken_is_not_checked() -> None:
    """320 samples suit the 8 kHz branch and 640 the 16 kHz one, not the other way round."""
    module, _ = imported("silero_vad")
    (program,) = executables(module)
    program.run(None, inputs("silero_vad", samples=640, sample_rate=16000))
    with pytest.raises(ExecutionError, match=r"decoder/If \(assume\).*and 1 must be equal"):
        program.run(None, inputs("silero_vad", samples=640, sample_rate=8000))
    program.run(None, inputs("silero_vad", samples=320, sample_rate=8000))


def test_batch_of_the_state_must_be_that_of_the_input() -> None:
    module, _ = imported("silero_vad")
    (program,) = executables(module)
    arrays = inputs("silero_vad", batch=2)
    arrays["state"] = arrays["state"][:, :1].copy()
    with pytest.raises(ExecutionError, match=r"LSTM \(assume\): sizes: state_d1 and input_d0 must be equal"):
        program.run(None, arrays)
