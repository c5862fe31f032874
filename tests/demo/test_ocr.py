"""The OCR demo around onnxruntime reads a page that Pillow drew, and its parts do what they say."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.models.fetch import ModelUnavailable, fetch

Image = pytest.importorskip("PIL.Image")
from ds_compiler.demo import ocr  # noqa: E402  (needs Pillow)


def runner(path: Path) -> ocr.Runner:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def models() -> tuple[ocr.Runner, ocr.Runner, list[str]]:
    try:
        detection, recognition = fetch("ppocr_det"), fetch("ppocr_rec")
    except ModelUnavailable as error:
        pytest.skip(str(error))
    metadata = {entry.key: entry.value for entry in onnx.load(recognition).metadata_props}
    return runner(detection), runner(recognition), ocr.character_table(metadata["character"])


def test_reads_the_rendered_page() -> None:
    lines = ocr.read_page(ocr.render_page(), *models())
    assert [line.text for line in lines] == ocr.PAGE_TEXT.splitlines()
    assert all(line.score > 0.9 for line in lines)


@pytest.mark.parametrize(("width", "size"), [(640, 22), (1000, 34)])
def test_reads_other_page_sizes(width: int, size: int) -> None:
    text = "Second page\nThe quick brown fox jumps over\nthe lazy dog 0123456789"
    lines = ocr.read_page(ocr.render_page(text, width, size), *models())
    assert [line.text for line in lines] == text.splitlines()


def test_a_blank_page_has_no_lines() -> None:
    assert ocr.read_page(Image.new("RGB", (320, 96), "white"), *models()) == []


def test_boxes_cover_the_ink_of_their_line() -> None:
    page = ocr.render_page()
    run_det, _, _ = models()
    dark = np.asarray(page.convert("L")) < 128
    ink = dark.sum()
    for box in ocr.find_lines(page, run_det):
        dark[box.top : box.bottom, box.left : box.right] = False
    assert dark.sum() < 0.001 * ink  # the detector may clip a serif by a pixel


def test_the_drawing_shows_page_and_text_side_by_side() -> None:
    page = ocr.render_page("Hello", 320)
    drawn = ocr.draw(page, [ocr.Line(ocr.Box(40, 20, 140, 60), "Hello", 0.98)])
    assert drawn.size == (640, page.height)
    assert drawn.getpixel((90, 20)) == (220, 20, 60)
    assert (np.asarray(drawn.convert("L"))[:, 360:] < 128).any()


def flood_boxes(mask: NDArray[np.bool_]) -> list[ocr.Box]:
    """The same as `connected_boxes`, pixel by pixel."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(mask))))
    boxes = []
    while left:
        group, queue = [], deque([left.pop()])
        while queue:
            y, x = queue.popleft()
            group.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        ys, xs = zip(*group)
        boxes.append(ocr.Box(min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return boxes


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32), st.floats(0.1, 0.9))
def test_connected_boxes_are_those_of_a_flood_fill(height: int, width: int, seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    assert sorted(ocr.connected_boxes(mask)) == sorted(flood_boxes(mask))


def test_decoding_drops_repeats_and_blanks() -> None:
    alphabet = ocr.character_table("a\nb")
    steps = np.eye(4, dtype=np.float32)[[0, 1, 1, 0, 1, 2, 3, 2, 2, 0]]
    assert ocr.decode(steps, alphabet) == ("aab b", 1.0)
    assert ocr.decode(np.eye(4, dtype=np.float32)[[0, 0]], alphabet) == ("", 0.0)


def test_decoding_refuses_another_alphabet() -> None:
    with pytest.raises(ValueError, match="knows 5 characters, the alphabet has 4"):
        ocr.decode(np.zeros((3, 5), np.float32), ocr.character_table("a\nb"))
