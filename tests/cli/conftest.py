"""A compile cache of its own for each test, and a saved model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def perceptron(tmp_path: Path) -> Path:
    """The file of `tiny.perceptron`, alone in its folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    return tiny.save(tiny.perceptron(), folder)
