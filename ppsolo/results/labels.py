"""Labels on drawings: size, place, and which are left out; the legend; and the stamp."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ppsolo.results import fonts

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEAST_LETTER = 7  # pixels; lower letters cannot be read
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_MOST_COVERED = 0.35  # share of a label that labels of better instances may cover
_FULL_SIZE = 30  # number of labels; more labels are written smaller
_MOST_LABELS = 100  # with more, no label is written
_LEGEND_SHARE = 0.5  # largest share of the image's height for a legend

Color = tuple[int, int, int]  # red, green, blue, 0 .. 255
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive


class _Text(NamedTuple):
    """A rendered text: the ink, uint8 [rows, columns]."""

    ink: np.ndarray


class _Label(NamedTuple):
    box: Box  # the covered area
    text: _Text
    margin: int
    color: Color


def write_labels(canvas: np.ndarray, texts: Sequence[str], boxes: Sequence[Box], colors: Sequence[Color]) -> None:
    """Write a text next to each box, in place, except texts that would be too small or too covered to read.

    Up to 30 labels have the full size; more shrink; with more than 100 objects nothing is written.
    """
    if len(texts) > _MOST_LABELS:
        return
    shrink = min(1.0, (_FULL_SIZE / max(len(texts), 1)) ** 0.5)
    labels: list[_Label] = []
    for text, box, color in zip(texts, boxes, colors, strict=True):
        label = _lay_out(text, box, color, canvas.shape[:2], [other.box for other in labels], shrink=shrink)
        if label is not None:
            labels.append(label)
    for label in reversed(labels):  # the first labels are on top
        _write(canvas, label)


def write_legend(canvas: np.ndarray, names: Sequence[str], colors: Sequence[Color]) -> None:
    """List the names with their colours in the upper left corner, in place; only the first ones if there is no room."""
    height, width = canvas.shape[:2]
    letter = max(10.0, (height * width) ** 0.5 / 60)
    step = round(letter * 2)
    rows = min(len(names), max(1, int(height * _LEGEND_SHARE) // step))
    shown = list(names[:rows])
    if rows < len(names):
        shown[-1] = f"and {len(names) - rows + 1} more"
    texts = [_text(name, letter) for name in shown]
    right = min(width, round(letter) * 3 + max(text.ink.shape[1] for text in texts))
    bottom = min(height, step * rows + round(letter / 2))
    canvas[:bottom, :right] = (canvas[:bottom, :right].astype(np.uint16) // 4 + 191).astype(np.uint8)  # nearly white
    for row, (text, color) in enumerate(zip(texts, colors, strict=False)):
        top = row * step + round(letter / 2)
        if rows == len(names) or row < rows - 1:
            canvas[top : top + round(letter), round(letter / 2) : round(letter * 1.5)] = color
        _blend(canvas, text, round(letter * 2), top, (0, 0, 0))


def write_stamp(canvas: np.ndarray, text: str) -> None:
    """Write a text on a white strip along the lower edge of the canvas. The letters are as large as fits."""
    height, width = canvas.shape[:2]
    columns = _text(text, 20.0).ink.shape[1] / 20  # for each pixel of a letter's height
    letter = max(1.0, min(height / 20, 0.8 * width / columns))
    drawn = _text(text, letter)
    margin = max(2, round(letter / 2))
    top = max(0, height - drawn.ink.shape[0] - 2 * margin)
    canvas[top:] = 255
    _blend(canvas, drawn, max(0, (width - drawn.ink.shape[1]) // 2), top + margin, (176, 0, 0))


def _write(canvas: np.ndarray, label: _Label) -> None:
    x1, y1, x2, y2 = label.box
    canvas[y1:y2, x1:x2] = label.color
    ink = (0, 0, 0) if np.dot(label.color, _LUMA) > 115 else (255, 255, 255)
    _blend(canvas, label.text, x1 + label.margin, y1 + label.margin, ink)


def _blend(canvas: np.ndarray, text: _Text, x: int, y: int, color: Color) -> None:
    """Put the ink of a text on the canvas with its upper left corner at x, y; clip it to the canvas."""
    region = canvas[y : y + text.ink.shape[0], x : x + text.ink.shape[1]]
    ink = text.ink[: region.shape[0], : region.shape[1], None].astype(np.float32) / 255
    region[:] = np.rint(region * (1 - ink) + np.array(color, np.float32) * ink).astype(np.uint8)


def _text(text: str, letter: float) -> _Text:
    """Render a text with capitals of `letter` pixels: ASCII with OpenCV, other scripts with Pillow."""
    if not text.isascii():
        ink, _ = fonts.render(text, letter)
        rows = np.flatnonzero(ink.any(axis=1))
        return _Text(ink[rows[0] : rows[-1] + 1] if len(rows) else ink)
    (_, unit_height), _ = cv2.getTextSize(text, _FONT, 1.0, 1)
    scale = letter / unit_height
    thickness = max(1, round(scale * 1.4))
    (width, height), descent = cv2.getTextSize(text, _FONT, scale, thickness)
    ink = np.zeros((height + descent // 2 + thickness, width), np.uint8)
    cv2.putText(ink, text, (0, height), _FONT, scale, 255, thickness, cv2.LINE_AA)
    return _Text(ink)


def _lay_out(
    text: str, box: Box, color: Color, size: tuple[int, int], taken: list[Box], *, shrink: float
) -> _Label | None:
    """Return a label for the box in an image of (height, width), or None if it would not be readable."""
    height, width = size
    letter = max(10.0, (height * width) ** 0.5 / 50) * shrink  # pixels
    columns = _text(text, 20.0).ink.shape[1] / 20  # width of the text per pixel of a letter's height
    letter = min(letter, 0.6 * width / columns, 0.3 * height)
    if letter < _LEAST_LETTER:
        return None
    drawn = _text(text, letter)
    margin = max(2, round(letter) // 4)
    extent = (drawn.ink.shape[0] + 2 * margin, drawn.ink.shape[1] + 2 * margin)
    place = _free_place(box, extent, size, taken)
    if _covered(place, taken) > _MOST_COVERED * extent[0] * extent[1]:
        return None
    return _Label(place, drawn, margin, color)


def _free_place(box: Box, extent: tuple[int, int], size: tuple[int, int], taken: list[Box]) -> Box:
    """Find the place for a label of (height, width) that covers least: above, in or below the box, in the image."""
    x1, y1, x2, y2 = box
    height, width = extent
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x2 - width, y1), (x1, y2), (x1, y2 - height)]
    places = []
    for x, y in corners:
        x, y = max(min(x, size[1] - width), 0), max(min(y, size[0] - height), 0)
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: _covered(place, taken))


def _covered(place: Box, taken: list[Box]) -> int:
    """Return the number of pixels that a place shares with the taken ones."""
    x1, y1, x2, y2 = place
    return sum(max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b)) for a, b, c, d in taken)
