"""Random inputs that look like what a model was made for: speech, pages of text, pictures, tokens, bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Inputs = dict[str, NDArray[np.generic]]


def audio(rng: np.random.Generator, batch: int, samples: int, sample_rate: int = 16000) -> FloatArray:
    """Speech-like sound in -1..1, `[batch, samples]`: harmonics of a moving pitch, syllables, some noise."""
    time = np.arange(samples) / sample_rate
    pitch = rng.uniform(90, 220, (batch, 1)) * (1 + 0.1 * np.sin(2 * np.pi * 2.5 * time))
    phase = 2 * np.pi * np.cumsum(pitch, axis=1) / sample_rate
    voice = sum(np.sin(k * phase + rng.uniform(0, 6.28, (batch, 1))) / k for k in range(1, 16))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6.28, (batch, 1)))
    sound = 0.2 * voice * syllables + 0.01 * rng.standard_normal((batch, samples))
    return np.clip(sound, -1, 1).astype(np.float32)


def pictures(rng: np.random.Generator, batch: int, height: int, width: int) -> FloatArray:
    """Normalised RGB pictures `[batch, 3, height, width]`, mean about 0 and deviation about 1: patches and grain."""
    picture = 0.3 * rng.standard_normal((batch, 3, height, width))
    for size in (8, 32, 64):
        grid = rng.standard_normal((batch, 3, -(-height // size), -(-width // size)))
        patches = grid.repeat(size, axis=2).repeat(size, axis=3)
        picture += 0.55 * patches[:, :, :height, :width]
    return picture.astype(np.float32)


def pages(rng: np.random.Generator, batch: int, height: int, width: int, line_height: int = 32) -> FloatArray:
    """White pages in -1..1, `[batch, 3, height, width]`, with dark strokes in text lines."""
    page = np.full((batch, height, width), 0.95)
    stroke = max(2, line_height // 12)
    for top in range(line_height // 4, height - line_height // 2, line_height * 3 // 2):
        tall = min(line_height, height - top) // stroke
        ink = rng.random((batch, tall, width // stroke)) < 0.35
        ink &= (np.arange(width // stroke) % 9 < 7)[None, None, :]  # the gaps between letters
        strokes = ink.repeat(stroke, axis=1).repeat(stroke, axis=2)
        area = page[:, top : top + strokes.shape[1], : strokes.shape[2]]
        area[strokes] = -0.9
    page += 0.02 * rng.standard_normal(page.shape)
    return np.broadcast_to(page[:, None], (batch, 3, height, width)).astype(np.float32)


def file_bytes(rng: np.random.Generator, batch: int, length: int, padding: int) -> NDArray[np.int32]:
    """Bytes of made-up text files as int32 `[batch, length]`; short files are filled up with the token `padding`."""
    words = [b"import", b"def", b"return", b"value", b"for", b"in", b"range(10):\n", b"#", b"=", b"print(x)\n", b"\t"]
    files = np.full((batch, length), padding, np.int32)
    for row in files:
        text = b" ".join(words[i] for i in rng.integers(0, len(words), length // 3))
        size = int(rng.integers(length // 2, length + 1))
        data = np.frombuffer(text[:size], np.uint8)
        row[: data.size] = data
    return files


def tokens(rng: np.random.Generator, batch: int, sequence: int, vocabulary: int) -> NDArray[np.int64]:
    """Token ids `[batch, sequence]`, frequent ones low as in a real vocabulary (a Zipf-like draw)."""
    draw = np.exp(rng.uniform(0, np.log(vocabulary), (batch, sequence)))
    return np.minimum(draw.astype(np.int64), vocabulary - 1)
