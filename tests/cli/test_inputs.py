"""Random inputs fit the model and look like what it is for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_compiler.cli.errors import InputProblem
from ds_compiler.cli.inputs import gather, guess_size, random_inputs, shape_of


@dataclass(frozen=True)
class Spec:
    name: str
    dtype: str
    dims: tuple[str, ...]


def test_dims_by_symbol_by_axis_and_guessed() -> None:
    spec = Spec("x", "float32", ("batch", "3", "height", "2*width+1"))
    assert shape_of(spec, {}) == (1, 3, 224, 449)
    assert shape_of(spec, {"batch": 4, "width": 10, "x.2": 32}) == (4, 3, 32, 21)


def test_ids_masks_positions_and_rates() -> None:
    names = {"input_ids": 0, "attention_mask": 0, "position_ids": 0, "token_type_ids": 0}
    specs = [Spec(name, "int64", ("batch", "sequence")) for name in names] + [Spec("sr", "int64", ())]
    made = random_inputs(specs, {"batch": 2, "sequence": 6}, 0, {"input_ids": 5000})
    assert made["input_ids"].max() > 100 and made["input_ids"].max() < 5000
    assert (made["attention_mask"] == 1).all() and made["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert set(made["token_type_ids"].ravel()) <= {0, 1} and made["sr"] == 16000


@given(
    st.sampled_from(["float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool", "int4"]),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 100),
    st.sampled_from(["x", "input_ids", "mask", "state", "position", "segment_ids", "audio"]),
)
def test_inputs_have_the_declared_type_and_shape(dtype: str, shape: list[int], seed: int, name: str) -> None:
    spec = Spec(name, dtype, tuple(map(str, shape)))
    (made,) = random_inputs([spec], {}, seed, {}).values()
    assert made.dtype.name == dtype and made.shape == tuple(shape)
    (again,) = random_inputs([spec], {}, seed, {}).values()
    assert made.tobytes() == again.tobytes()
    if dtype not in ("bool", "int4"):
        assert np.isfinite(made.astype(np.float64)).all()


def test_a_size_is_guessed_alike_for_one_name() -> None:
    assert guess_size("batch", 0, 4) == guess_size("batch", 2, 2) == 1
    assert guess_size("seq", 1, 2) == guess_size("sequence_length", 2, 3)


def test_sizes_of_given_inputs_hold_for_random_ones() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    specs = [Spec("a", "float32", ("n",)), Spec("b", "float32", ("n", "2"))]
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "a.npy", np.zeros(7, np.float32))
        made = gather(specs, files=[("a", f"{folder}/a.npy")])
    assert made["b"].shape == (7, 2) and list(made) == ["a", "b"]


def test_an_unknown_input_is_named() -> None:
    with pytest.raises(InputProblem, match="'a' is missing"):
        gather([Spec("a", "float32", ())], random=False)
