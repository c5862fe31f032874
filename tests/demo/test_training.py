"""The training demos: data, a few steps, the picture, the command."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ds_compiler.demo import history, training
from ds_compiler.demo.history import History, save_curve


def test_digits_are_read_after_two_epochs() -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    said: list[tuple[int, int]] = []
    model, history = training.train_digits(epochs=2, say=lambda step, steps, loss: said.append((step, steps)))
    assert said[-1] == (44, 44) and len(history.losses) == 44
    assert history.score > 0.9 and history.name == "accuracy"
    assert not model.training


def test_pythons_text_is_printable_and_of_the_wanted_length() -> None:
    text = training.python_text(10_000)
    assert len(text) == 10_000
    assert all(c == "\n" or " " <= c <= "~" for c in text)


@pytest.mark.slow
def test_digits_reach_what_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    pytest.importorskip("matplotlib", reason="it draws the curve")
    assert training.main(["digits", str(tmp_path / "curve.png")]) == 0
    said = capsys.readouterr().out
    assert _number(r"accuracy (\S+) after 264 steps", said) >= 0.98
    assert _number(r"steps in (\S+) s", said) < 120
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_characters_reach_what_is_stated() -> None:
    (model, alphabet), history = training.train_characters()
    assert history.score < 1.75 and history.seconds < 120
    assert len(training.continued(model, alphabet, "def ", 5)) == 9


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws the curve")
    save_curve(History("loss", list(np.linspace(3, 1, 50)), 1.0, 2.0), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_names_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["faces"]) == 2
    assert "usage: python -m ds_compiler.demo.training {digits,characters}" in capsys.readouterr().err


def test_missing_packages_are_named_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(history, "find_spec", lambda name: None)
    assert training.main(["digits"]) == 2
    assert "error: matplotlib, sklearn not installed; pip install 'ds_compiler[demo]'" in capsys.readouterr().err
