"""Structures of arrays to the device and back, as a whole."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from ds_compiler.frontends.trace import tree
from ds_compiler.runtime.cuda.arrays import DeviceArray, put
from ds_compiler.runtime.cuda.device import system_device

_T = TypeVar("_T")


def device_put(structure: _T, device: int = 0) -> _T:
    """The structure (a model, an optimizer's state, nested dicts and lists) with its NumPy arrays as `DeviceArray`s.

    Programs compiled with ``target="cuda"`` take these without a copy. What is no array stays as it is.

    Raises:
        LoadError: there is no driver, or no such GPU.
        OutOfMemory: they do not fit.
    """
    there = system_device(device)
    leaves, form = tree.flatten(structure)
    moved: _T = tree.unflatten(form, [put(there, x) if isinstance(x, np.ndarray | np.generic) else x for x in leaves])
    return moved


def device_get(structure: _T) -> _T:
    """The structure with its `DeviceArray`s as NumPy arrays; waits until they are computed."""
    leaves, form = tree.flatten(structure)
    moved: _T = tree.unflatten(form, [x.numpy() if isinstance(x, DeviceArray) else x for x in leaves])
    return moved
