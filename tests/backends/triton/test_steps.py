"""A training loop through `ds.compile(target="cuda")`: state donated and on the device, graphs, interpreted kernels."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from tests.backends.triton.interpreting import ROOT, needs_triton

pytestmark = needs_triton


def test_training_on_the_device_agrees_with_the_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.triton.steps"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["graphs"] >= 1
    assert found["gpu"]["losses"][3] < found["gpu"]["losses"][0]
    np.testing.assert_allclose(found["gpu"]["losses"], found["cpu"]["losses"], rtol=1e-5)
    np.testing.assert_allclose(found["gpu"]["weight"], found["cpu"]["weight"], rtol=0, atol=2e-4)
