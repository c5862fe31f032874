"""``dsc dump --all`` on a published model: the module after every pass of the pipeline, with the model's node names."""

from __future__ import annotations

import re

import pytest

from bench.models import MODELS
from tests.cli.tiny import run
from tests.models.fetch import ModelUnavailable


def test_a_dump_shows_every_pass() -> None:
    try:
        path = MODELS["silero_vad"].path()
    except ModelUnavailable as error:
        pytest.skip(str(error))
    parts = re.split(r"(?m)^// ---- after ([\w-]+)$", run("dump", path, "--all").stdout)
    passes, modules = parts[1::2], parts[2::2]
    assert passes[0] == "import" and passes[-1] == "fuse" and len(passes) > 10
    for module in modules:
        assert module.count("func @main(%input: ") == 1
        assert "(Conv)" in module and "(LSTM)" in module
    assert "fusion" in modules[-1] and "fusion" not in modules[0]
