"""Fused attention of com.microsoft against onnxruntime: masks of every form, biases, pasts, head layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontends.onnx.contrib import Array, both, check

B, S, N, H = 2, 5, 3, 16  # grouped-query attention takes sizes of heads that are multiples of 16
D = N * H


def floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def raw_mask(rng: np.random.Generator, *shape: int) -> Array:
    mask = rng.integers(0, 2, shape).astype(np.int32)
    mask[..., 0] = 1
    return mask


MASKS = ("none", "lengths", "ends_and_starts", "keys", "queries_and_keys")


def mask_of(form: str, rng: np.random.Generator, keys: int) -> Array | None:
    match form:
        case "lengths":
            return np.array([3, keys], np.int32)
        case "ends_and_starts":
            return np.array([4, keys, 1, 0], np.int32)
        case "keys":
            return raw_mask(rng, B, keys)
        case "queries_and_keys":
            return raw_mask(rng, B, S, keys)
    return None


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize(("past", "causal"), [(0, 0), (0, 1), (4, 0), (4, 1)])
def test_attention(form: str, past: int, causal: int) -> None:
    rng = np.random.default_rng(past * 2 + causal)
    inputs: dict[str, Array | None] = {
        "x": floats(rng, B, S, 17),
        "w": floats(rng, 17, 3 * D) / 4,
        "b": floats(rng, 3 * D),
        "mask": mask_of(form, rng, past + S),
        "past": floats(rng, 2, B, N, past, H) if past else None,
    }
    outputs = 2 if past else 1
    check(both("Attention", inputs, constant=("w", "b"), outputs=outputs, num_heads=N, unidirectional=causal))


def test_attention_with_a_bias_of_scores_and_sizes_of_its_own() -> None:
    rng = np.random.default_rng(1)
    inputs: dict[str, Array | None] = {
        "x": floats(rng, B, S, 12),
        "w": floats(rng, 12, 2 * D + 2 * N) / 4,
        "b": floats(rng, 2 * D + 2 * N),
        "mask": None,
        "past": None,
        "bias": floats(rng, 1, N, S, S),
    }
    check(both("Attention", inputs, constant=("w", "b"), num_heads=N, qkv_hidden_sizes=[D, D, 2 * N], scale=0.3))


@pytest.mark.parametrize("mask", [None, "lengths", "keys"])
@pytest.mark.parametrize("keys", [S, 7])
@pytest.mark.parametrize("biased", [False, True])
def test_multi_head_attention(mask: str | None, keys: int, biased: bool) -> None:
    rng = np.random.default_rng(keys)
    inputs: dict[str, Array | None] = {
        "q": floats(rng, B, S, D),
        "k": floats(rng, B, keys, D),
        "v": floats(rng, B, keys, D),
        "b": floats(rng, 3 * D) if biased else None,
        "mask": mask_of(mask or "none", rng, keys),
        "bias": floats(rng, B, N, S, keys) if biased else None,
    }
    check(both("MultiHeadAttention", inputs, num_heads=N))


@pytest.mark.parametrize("causal", [0, 1])
def test_multi_head_attention_with_past(causal: int) -> None:
    rng = np.random.default_rng(3)
    inputs: dict[str, Array | None] = {
        "q": floats(rng, B, S, D),
        "k": floats(rng, B, S, D),
        "v": floats(rng, B, S, D),
        "b": None,
        "mask": None,
        "bias": None,
        "past_k": floats(rng, B, N, 3, H),
        "past_v": floats(rng, B, N, 3, H),
    }
    check(both("MultiHeadAttention", inputs, outputs=3, num_heads=N, unidirectional=causal))


def test_multi_head_attention_over_projected_keys() -> None:
    rng = np.random.default_rng(4)
    inputs: dict[str, Array | None] = {
        "q": floats(rng, B, S, D),
        "k": floats(rng, B, N, 7, H),
        "v": floats(rng, B, N, 7, H),
    }
    check(both("MultiHeadAttention", inputs, num_heads=N))


def rotary_tables(rng: np.random.Generator, half: int, positions: int = 32) -> dict[str, Array]:
    angles = np.outer(np.arange(positions), 1 / 10 ** (2 * np.arange(half) / half))
    return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rank", [3, 4])
def test_rotary_embedding(interleaved: int, first: bool, rank: int) -> None:
    rng = np.random.default_rng(5)
    x = floats(rng, B, S, D) if rank == 3 else floats(rng, B, N, S, H)
    positions = np.array([7], np.int64) if first else rng.integers(0, 32, (B, S)).astype(np.int64)
    tables = rotary_tables(rng, H // 2)
    inputs: dict[str, Array | None] = {"x": x, "positions": positions, **tables}
    check(both("RotaryEmbedding", inputs, constant=("cos", "sin"), interleaved=interleaved))


def test_rotary_embedding_of_a_part_of_each_head() -> None:
    rng = np.random.default_rng(6)
    positions = rng.integers(0, 32, (B, S)).astype(np.int64)
    inputs: dict[str, Array | None] = {"x": floats(rng, B, S, D), "positions": positions, **rotary_tables(rng, H // 4)}
    check(both("RotaryEmbedding", inputs, rotary_embedding_dim=H // 2, num_heads=N))


def cached(rng: np.random.Generator, queries: int, past: int, buffer: int, lengths: list[int]) -> dict[str, Any]:
    """Inputs 0 to 6 of GroupQueryAttention with 4 heads over 2; `lengths` are the sequences' own, queries included.

    onnxruntime takes a past and several queries for one sequence alone.
    """
    batch = len(lengths)
    return {
        "q": floats(rng, batch, queries, 4 * H),
        "k": floats(rng, batch, queries, 2 * H),
        "v": floats(rng, batch, queries, 2 * H),
        "past_k": floats(rng, batch, 2, buffer, H),
        "past_v": floats(rng, batch, 2, buffer, H),
        "lengths": np.array(lengths, np.int32) - 1,
        "total": np.array(past + queries, np.int32),
    }


@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("queries", [1, 3])
def test_group_query_attention(rotary: int, window: int, queries: int) -> None:
    rng = np.random.default_rng(7)
    lengths = [6 + queries] * (B if queries == 1 else 1)
    inputs: dict[str, Array | None] = cached(rng, queries, 6, 6, lengths)
    if rotary:
        inputs |= rotary_tables(rng, H // 2)
    attributes = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": rotary, "local_window_size": window}
    check(both("GroupQueryAttention", inputs, outputs=3, **attributes))


def test_group_query_attention_of_sequences_of_different_lengths() -> None:
    """One new token each, at places 3 and 5 of the cache; what lies behind the shorter one's end has no meaning."""
    rng = np.random.default_rng(8)
    inputs: dict[str, Array | None] = cached(rng, 1, 5, 5, [4, 6])
    pairs = both("GroupQueryAttention", inputs, outputs=3, num_heads=4, kv_num_heads=2)
    check(pairs[:1])
    for ours, theirs in pairs[1:]:
        for row, length in enumerate((4, 6)):
            np.testing.assert_array_equal(ours[row, :, :length], theirs[row, :, :length])


def test_a_first_prompt_of_group_query_attention() -> None:
    rng = np.random.default_rng(9)
    inputs: dict[str, Array | None] = cached(rng, S, 0, 0, [S, S])
    inputs["past_k"] = inputs["past_v"] = None
    check(both("GroupQueryAttention", inputs, outputs=3, num_heads=4, kv_num_heads=2))


def test_group_query_attention_with_packed_projections_and_a_cap() -> None:
    rng = np.random.default_rng(10)
    inputs: dict[str, Array | None] = cached(rng, 2, 4, 4, [6])
    inputs["q"], inputs["k"], inputs["v"] = floats(rng, 1, 2, 8 * H), None, None
    check(both("GroupQueryAttention", inputs, outputs=3, num_heads=4, kv_num_heads=2, softcap=2.0, scale=0.7))
