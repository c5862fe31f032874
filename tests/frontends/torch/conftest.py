"""PyTorch is an extra: without it these tests are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A graph that went to PyTorch as a whole, with a warning, would pass every comparison with it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error:ds. PyTorch runs:UserWarning"))
