"""A malformed or hostile model is one line of error: no crash, no traceback, nothing read outside of its folder."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

import ds_compiler as ds
from tests.faults.models import FAULTS, Fault

MEMORY = 2 << 30
"""Bytes that a process may grow by for any of these models."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_error_is_one_line(fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(fault.make(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    with pytest.raises(ds.CompileError) as caught:
        ds.compile(folder / "model.onnx", cache=False)
    text = str(caught.value)
    assert re.search(fault.expected, text), text
    assert "\n" not in text and len(text) < 1000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY


def test_each_fault_is_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60


def test_links_inside_of_the_folder_are_followed(tmp_path: Path) -> None:
    """As the caches of model hubs lay files out: names that are links to blobs beside them."""
    from tests.faults.tensors import external

    (tmp_path / "blob").write_bytes(bytes(24))
    (tmp_path / "data").symlink_to(tmp_path / "blob")
    (tmp_path / "model.onnx").write_bytes(external("data").SerializeToString())
    assert ds.compile(tmp_path / "model.onnx", cache=False).inputs[0].name == "x"
