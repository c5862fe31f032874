"""Compile modules for the GPU in tests and run them under Triton's interpreter, in a process that lives on."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ds_compiler.backends.triton.program import Lowered, lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.ir import Module
from ds_compiler.ir.dtypes import from_numpy
from ds_compiler.passes.fuse import fuse
from tests.passes.helpers import random_inputs
from tests.passes.interpreting import interpret

Array = np.ndarray[Any, Any]

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
ROOT = Path(__file__).resolve().parents[3]
#: Relative error allowed to a float, by the type of the result.
EPSILON = {"f64": 1e-9, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}


class Interpreter:
    """The worker process; started at the first request, anew after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(
        self, lowered: Lowered, constants: bytes, inputs: Sequence[Array], through_driver: bool = False
    ) -> list[Array]:
        """Results of a call, made by the runtime on a driver that interprets, or on plain memory with canaries.

        Raises:
            AssertionError: a kernel failed, wrote outside of its buffers, or ended the process.
        """
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "tests.backends.triton.worker"]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        pickle.dump((lowered.program, constants, list(inputs), through_driver), process.stdin)
        process.stdin.flush()
        try:
            outcome, value = pickle.load(process.stdout)
        except EOFError:
            raise AssertionError(f"the interpreter ended with {process.wait()}: an access out of range?") from None
        if outcome == "error":
            raise AssertionError(value)
        results: list[Array] = value
        return results


INTERPRETER = Interpreter()


def run(module: Module, *calls: Sequence[Array], max_ops: int = 64) -> tuple[Lowered, list[list[Array]]]:
    """Fuse a copy of `module`, lower it, and run it on the inputs of each call."""
    fused = module.clone()
    fuse(fused, max_ops=max_ops)
    lowered = lower(fused, parse_target("cuda:90"))
    constants = b"".join(lowered.constants.pieces())
    return lowered, [INTERPRETER(lowered, constants, inputs) for inputs in calls]


def check(
    module: Module,
    *sizes: dict[str, int],
    inputs: Sequence[Array] | None = None,
    scale: float = 1.0,
    max_ops: int = 64,
) -> Lowered:
    """Kernels under Triton's interpreter must agree with the operations' NumPy semantics, for all `sizes`."""
    calls = [random_inputs(module, s, seed=n) if inputs is None else inputs for n, s in enumerate(sizes or ({},))]
    lowered, results = run(module, *calls, max_ops=max_ops)
    for arrays, got in zip(calls, results, strict=True):
        compare(got, interpret(module, arrays), scale, lowered)
    return lowered


def compare(got: Sequence[Array], expected: Sequence[Array], scale: float, lowered: Lowered) -> None:
    """Equal integers and truth values; floats within the error of their type."""
    for ours, reference in zip(got, expected, strict=True):
        assert ours.dtype == reference.dtype and ours.shape == reference.shape
        error = EPSILON.get(from_numpy(reference.dtype).name)
        message = "\n".join(k.source for k in lowered.program.kernels[:4])
        if error is None:
            np.testing.assert_array_equal(ours, reference, err_msg=message)
        else:
            wide = reference.astype(np.float64)
            np.testing.assert_allclose(
                ours.astype(np.float64), wide, rtol=error * scale, atol=error * scale, err_msg=message
            )
