"""ONNX's backend test suite: its cases with models and data, loaded once."""

from __future__ import annotations

import tomllib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, SequenceProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

GROUPS = ("node", "simple", "pytorch-converted", "pytorch-operator")
"""Kinds of case; those of whole published networks need downloads and are tests of their own (`tests/models`)."""

EXCLUSIONS = Path(__file__).with_name("exclusions.toml")


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that ONNX expects.

    Attributes:
        name: of the case; ``_expanded`` at its end means that the model spells an operator's definition out.
        folder: where model and data lie, if not in memory.
    """

    name: str
    group: str
    folder: Path | None
    held: ModelProto | None
    data: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...]
    rtol: float
    atol: float

    def __repr__(self) -> str:
        return self.name

    @property
    def model(self) -> ModelProto:
        if self.held is not None:
            return self.held
        assert self.folder is not None
        return onnx.load(self.folder / "model.onnx")

    def data_sets(self) -> list[tuple[list[Any], list[Any]]]:
        """(inputs, expected outputs) for each run, as NumPy arrays (lists of these, None) where the type has them."""
        if self.held is not None:
            return [([array(x) for x in ins], [array(y) for y in outs]) for ins, outs in self.data]
        assert self.folder is not None
        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value.type for value in graph.input if value.name not in constants]
        outputs = [value.type for value in graph.output]
        folders = sorted(self.folder.glob("test_data_set_*"))
        return [(_read(f, "input", inputs), _read(f, "output", outputs)) for f in folders]


def _read(folder: Path, side: str, types: list[onnx.TypeProto]) -> list[Any]:
    values = []
    for index, type_ in enumerate(types):
        message = SequenceProto() if type_.HasField("sequence_type") else TensorProto()
        message.ParseFromString((folder / f"{side}_{index}.pb").read_bytes())
        values.append(array(message))
    return values


def array(value: Any) -> Any:
    """A message of the suite as NumPy has it."""
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, SequenceProto):
        return numpy_helper.to_list(value)
    return value if isinstance(value, list) or value is None else np.asarray(value)


@lru_cache
def cases(group: str) -> tuple[Case, ...]:
    """All cases of a group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases' own arithmetic overflows on purpose
        loaded = load_model_tests(kind=group)
    found = []
    for case in loaded:
        data = () if case.data_sets is None else tuple((tuple(i), tuple(o)) for i, o in case.data_sets)
        folder = None if case.model_dir is None else Path(case.model_dir)
        found.append(Case(case.name, group, folder, case.model, data, case.rtol, case.atol))
    return tuple(found)


@lru_cache(maxsize=1)
def exclusions() -> dict[str, str]:
    """Reason by the case that is not run for it."""
    return {name: reason for name, reason in _listed().items() if isinstance(reason, str)}


@lru_cache(maxsize=1)
def strict() -> dict[str, str]:
    """Reason by the case that is compiled strictly: it expects each step's rounding, or ONNX's reference alone."""
    return dict(_listed().get("strict", {}))


@lru_cache(maxsize=1)
def random() -> dict[str, str]:
    """Reason by the case whose outputs' values ONNX does not define: element types and shapes alone are compared."""
    return dict(_listed().get("random", {}))


def _listed() -> dict[str, Any]:
    return tomllib.loads(EXCLUSIONS.read_text(encoding="utf-8"))


def compare(results: list[Any], expected: list[Any], case: Case) -> None:
    """Check outputs as ONNX's own runner does, element types and shapes included.

    Raises:
        AssertionError: they differ.
    """
    assert len(results) == len(expected), f"{len(results)} outputs, expected {len(expected)}"
    for result, wanted in zip(results, expected, strict=True):
        _compare(result, wanted, case)


def _compare(result: Any, wanted: Any, case: Case) -> None:
    if isinstance(wanted, list) or wanted is None:
        assert type(result) is type(wanted)
        for a, b in zip(result or [], wanted or [], strict=True):
            _compare(a, b, case)
        return
    assert result.dtype == wanted.dtype, f"{result.dtype}, expected {wanted.dtype}"
    assert result.shape == wanted.shape, f"{result.shape}, expected {wanted.shape}"
    if case.name in random():
        return
    if wanted.dtype.kind in "OUS":
        np.testing.assert_array_equal(result, wanted)
        return
    if wanted.dtype.kind not in "fiubc":  # types of ml_dtypes
        result, wanted = result.astype(np.float32), wanted.astype(np.float32)
    np.testing.assert_allclose(result, wanted, case.rtol, case.atol)
