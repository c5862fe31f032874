"""Reading a page of text with the PP-OCRv4 models: one finds lines of text, one reads a line.

The steps around the two models are those of PaddleOCR's DB text detector and CTC recogniser
(https://github.com/PaddlePaddle/PaddleOCR), for upright text. The models are passed in as functions,
so that any engine can run them. Needs NumPy and Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FloatArray = NDArray[np.float32]
Runner = Callable[[FloatArray], FloatArray]

PROBABILITY = 0.3
"""A pixel belongs to text from this detector output on."""
BOX_SCORE = 0.5
"""Mean detector output inside a box, below which the box is dropped."""
UNCLIP = 1.6
"""The detector marks shrunken lines; a box grows by area * UNCLIP / perimeter on each side."""
LINE_HEIGHT = 48
"""Height of a line as the recogniser wants it."""
LINE_WIDTH = 320
"""Least width of the recogniser's input; shorter lines are padded with grey on the right."""
TEXT_SCORE = 0.5
"""Mean probability of the characters of a line, below which the line is dropped."""

PAGE_TEXT = """\
A compiler for neural networks
This page was drawn by a program, then read back by
two networks that were compiled to native code.
Detection finds the lines, recognition spells them.
Invoice 20417 - 12 parts at 3.50 each = 42.00
Total: $ 42.00 (VAT included)"""


class Box(NamedTuple):
    """A rectangle in pixels of the picture; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int


class Line(NamedTuple):
    """A line of text that was read: where, what, and the mean probability of its characters."""

    box: Box
    text: str
    score: float


def read_page(image: Image.Image, run_det: Runner, run_rec: Runner, alphabet: Sequence[str]) -> list[Line]:
    """Find and read all lines of upright text, in reading order.

    `run_det` maps pictures `[1, 3, H, W]` (H and W multiples of 32) to the probability of text
    `[1, 1, H, W]`; `run_rec` maps lines `[1, 3, 48, W]` to the probabilities of characters
    `[1, steps, len(alphabet)]`. `alphabet` comes from `character_table`.
    """
    image = image.convert("RGB")
    lines = []
    for box in find_lines(image, run_det):
        text, score = read_line(image.crop(box), run_rec, alphabet)
        if text and score >= TEXT_SCORE:
            lines.append(Line(box, text, score))
    return lines


def find_lines(image: Image.Image, run_det: Runner) -> list[Box]:
    """Boxes around the lines of text, in reading order. See `read_page` for `run_det`."""
    width, height = (max(32, round(size / 32) * 32) for size in image.size)
    probability = run_det(_network_input(image.resize((width, height), Image.Resampling.BILINEAR)))[0, 0]
    boxes = []
    mask = probability > PROBABILITY
    mask[1:] |= mask[:-1]  # the detector was tuned with its marks thickened by a pixel
    mask[:, 1:] |= mask[:, :-1]
    for left, top, right, bottom in connected_boxes(mask):
        if min(right - left, bottom - top) < 3 or probability[top:bottom, left:right].mean() < BOX_SCORE:
            continue
        grow = (right - left) * (bottom - top) * UNCLIP / (2 * (right - left + bottom - top))
        x, y = image.width / width, image.height / height
        boxes.append(
            Box(
                max(0, round((left - grow) * x)),
                max(0, round((top - grow) * y)),
                min(image.width, round((right + grow) * x)),
                min(image.height, round((bottom + grow) * y)),
            )
        )
    return _reading_order(boxes)


def read_line(image: Image.Image, run_rec: Runner, alphabet: Sequence[str]) -> tuple[str, float]:
    """Text of a picture of one line, and the mean probability of its characters (0 if there are none)."""
    width = math.ceil(image.width * LINE_HEIGHT / image.height)
    line = _network_input(image.resize((width, LINE_HEIGHT), Image.Resampling.BILINEAR))
    padding = max(0, LINE_WIDTH - width)  # zero is the mean colour
    return decode(run_rec(np.pad(line, ((0, 0), (0, 0), (0, 0), (0, padding))))[0], alphabet)


def decode(probabilities: FloatArray, alphabet: Sequence[str]) -> tuple[str, float]:
    """Greedy CTC: the likeliest character of each step `[steps, characters]`; repeats and blanks are dropped."""
    if probabilities.shape[1] != len(alphabet):
        raise ValueError(f"the recogniser knows {probabilities.shape[1]} characters, the alphabet has {len(alphabet)}")
    best = probabilities.argmax(axis=1)
    keep = best != 0
    keep[1:] &= best[1:] != best[:-1]
    if not keep.any():
        return "", 0.0
    return "".join(alphabet[i] for i in best[keep]), float(probabilities.max(axis=1)[keep].mean())


def character_table(metadata: str) -> list[str]:
    """The recogniser's alphabet from its metadata entry 'character': CTC's blank, the lines of it, space."""
    return ["", *metadata.split("\n"), " "]


def connected_boxes(mask: NDArray[np.bool_]) -> list[Box]:
    """Bounding boxes of the groups of True pixels that touch at a side or a corner, `mask` being `[height, width]`.

    Works on the runs of True in each row: runs of neighbouring rows that touch are joined.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = np.arange(rows.size)

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = int(parent[run])
        return run

    row_begin = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for run in range(rows.size):
        above = rows[run] - 1
        if above < 0:
            continue
        first, last = row_begin[above], row_begin[above + 1]
        touching = np.nonzero((starts[first:last] <= ends[run]) & (ends[first:last] >= starts[run]))[0]
        for other in touching + first:
            parent[root(int(other))] = root(run)
    groups: dict[int, Box] = {}
    for run in range(rows.size):
        row, start, end = int(rows[run]), int(starts[run]), int(ends[run])
        box = groups.get(root(run), Box(start, row, end, row + 1))
        groups[root(run)] = Box(min(box.left, start), box.top, max(box.right, end), row + 1)
    return list(groups.values())


def render_page(text: str = PAGE_TEXT, width: int = 800, size: int = 28) -> Image.Image:
    """A white page with `text` in black, first line larger, in the typeface that comes with Pillow."""
    lines = text.splitlines()
    step = size * 9 // 5
    page = Image.new("RGB", (width, step * (len(lines) + 2)), "white")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        font = ImageFont.load_default(size * 4 // 3 if number == 0 else size)
        pen.text((size * 3 // 2, step // 2 + step * number + (step // 2 if number else 0)), line, "black", font)
    return page


def draw(image: Image.Image, lines: Sequence[Line]) -> Image.Image:
    """`image` with a box around each line and, to its right, what was read, at the same places."""
    both = Image.new("RGB", (image.width * 2, image.height), "white")
    both.paste(image, (0, 0))
    pen = ImageDraw.Draw(both)
    pen.line((image.width, 0, image.width, image.height), "lightgrey", 2)
    for (left, top, right, bottom), text, score in lines:
        pen.rectangle((left, top, right, bottom), outline="crimson", width=2)
        natural = pen.textlength(text, ImageFont.load_default(100))  # at size 100
        font = ImageFont.load_default(max(8, min(bottom - top, 100 * (right - left) / max(natural, 1))))
        pen.text((image.width + left, (top + bottom) / 2), text, "navy", font, anchor="lm")
        pen.text((right - 2, top - 1), f"{score:.2f}", "crimson", ImageFont.load_default(12), anchor="rb")
    return both


def _network_input(image: Image.Image) -> FloatArray:
    """RGB picture -> `[1, 3, height, width]` in -1..1, channels blue, green, red, as the models were trained."""
    pixels = np.asarray(image, np.float32)[:, :, ::-1] / 255
    return np.ascontiguousarray(((pixels - 0.5) / 0.5).transpose(2, 0, 1)[None])


def _reading_order(boxes: list[Box]) -> list[Box]:
    """Top to bottom; boxes whose middle lies within the first box of a row go left to right."""
    ordered: list[Box] = []
    rest = sorted(boxes, key=lambda box: box.top + box.bottom)
    while rest:
        row = [box for box in rest if box.top + box.bottom < 2 * rest[0].bottom]
        ordered += sorted(row)
        rest = [box for box in rest if box not in row]
    return ordered
