"""The fine-tuning demos: their data, and that compiled training is eager training."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import torch

import ds_compiler.torch as backend
from ds_compiler.demo import finetune


def test_prose_and_code_are_told_apart() -> None:
    prose, code = finetune.prose_and_code(5_000)
    assert len(prose) == len(code) == 5_000
    assert " the " in prose and "self . " in code and "#" not in code


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_epoch_is_the_one_of_eager_mode(name: str) -> None:
    torch._dynamo.reset()
    backend.reset()
    compiled, eager = finetune.train(name, "ds"), finetune.train(name, None)
    assert finetune.apart(compiled, eager) < finetune.TOLERANCE
    assert compiled.score == pytest.approx(eager.score, rel=finetune.TOLERANCE)
    assert eager.score > 0.75 if name == "bert" else eager.score < 3.0
    report = backend.report()
    assert not report.fallbacks and [g.kind for g in report.graphs] == ["forward", "backward"]


def test_wrong_names_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main(["t5"]) == 2
    assert "usage: python -m ds_compiler.demo.finetune {bert,gpt2}" in capsys.readouterr().err
