"""Initial values of parameters, as PyTorch draws them by default (distributions, not its numbers).

Numbers are Philox's, which is counter-based: array number i of a program has the key (seed, i), so that it depends on
nothing else. `seed` starts over; a layer that is given a key of its own draws from that instead.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Key = int | Array | Sequence[int] | np.random.Generator | None


class _Stream(threading.local):
    """Keys handed out in this thread."""

    seed = 0
    count = 0


_stream = _Stream()


def seed(number: int) -> None:
    """Start over: models made from here on in this thread get the values that belong to `number`."""
    _stream.seed, _stream.count = number, 0


def generator(key: Key = None) -> np.random.Generator:
    """The numbers of `key` (one or two integers; a generator goes on), or of the next key of this thread.

    Raises:
        ValueError: the key has more words.
    """
    if isinstance(key, np.random.Generator):
        return key
    if key is None:
        words = [_stream.seed, _stream.count]
        _stream.count += 1
    else:
        words = [int(word) for word in np.ravel(np.asarray(key))]
        if not 1 <= len(words) <= 2:
            raise ValueError(f"a key is one or two integers, got {len(words)}")
        words = [*words, 0][:2]
    return np.random.Generator(np.random.Philox(key=np.array([w % 2**64 for w in words], np.uint64)))


def uniform(shape: Sequence[int], bound: float, dtype: Any = np.float32, key: Key = None) -> Array:
    """Uniform in [-bound, bound)."""
    return generator(key).uniform(-bound, bound, tuple(shape)).astype(dtype)


def normal(shape: Sequence[int], std: float = 1.0, dtype: Any = np.float32, key: Key = None) -> Array:
    """Normal with mean 0."""
    return (generator(key).standard_normal(tuple(shape)) * std).astype(dtype)


def fan_in_uniform(shape: Sequence[int], fan_in: int, dtype: Any = np.float32, key: Key = None) -> Array:
    """PyTorch's default for linear layers and convolutions: uniform within 1/sqrt(fan_in)."""
    return uniform(shape, 1 / math.sqrt(fan_in) if fan_in else 0.0, dtype, key)


def xavier_uniform(shape: Sequence[int], dtype: Any = np.float32, key: Key = None) -> Array:
    """Glorot & Bengio 2010: uniform within sqrt(6 / (fan_in + fan_out)) of a matrix [out, in]."""
    return uniform(shape, math.sqrt(6 / (shape[0] + shape[1])), dtype, key)
