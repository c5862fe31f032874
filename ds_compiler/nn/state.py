"""State dicts: arrays by name, in safetensors files and into models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ds_compiler.nn.model import Model

Array = np.ndarray[Any, Any]


class Mismatch(NamedTuple):
    """Names that only one side has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_into(model: Model, arrays: Mapping[str, Any], strict: bool) -> Mismatch:
    """See `Model.load_state_dict`."""
    own = model.state_dict()
    mismatch = Mismatch([n for n in own if n not in arrays], [n for n in arrays if n not in own])
    problems = [f"{n} is missing" for n in mismatch.missing_keys] if strict else []
    problems += [f"{n} is unexpected" for n in mismatch.unexpected_keys] if strict else []
    found: dict[str, Array] = {}
    for name, wanted in own.items():
        if name not in arrays:
            continue
        array = _numpy(arrays[name])
        if array.shape != wanted.shape:
            problems.append(f"{name} has shape {array.shape}, the model's has {tuple(wanted.shape)}")
        else:
            found[name] = array.astype(wanted.dtype, order="C", copy=True)
    if problems:
        raise ValueError(f"state dict for {type(model).__name__}: " + "; ".join(problems))
    model.assign(found)
    return mismatch


def _numpy(array: Any) -> Array:
    """Contents of a NumPy array or a torch tensor (bfloat16 too, which `Tensor.numpy` refuses)."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        return np.asarray(array.numpy())
    return np.asarray(array)


def save_file(arrays: Mapping[str, Any], path: str) -> None:
    """Write arrays as a safetensors file."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}, path)


def load_file(path: str) -> dict[str, Array]:
    """The arrays of a safetensors file."""
    from safetensors.numpy import load_file

    return dict(load_file(path))
