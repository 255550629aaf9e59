"""Draw curves, and pictures side by side, with OpenCV alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
INK, GREY, PALE = (45, 45, 45), (120, 120, 120), (225, 225, 225)
COLORS = ((31, 119, 180), (230, 110, 20), (44, 150, 60), (190, 50, 60))  # red, green, blue; told apart in grey too
MARGINS = (92, 26, 62, 76)  # pixels above, right of, below and left of the axes
MOST_TICKS = 7
MARKED = 25  # curves of at most so many points show each


class Curve(NamedTuple):
    """Points (x, y) in order of x, and what they are called."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Panel(NamedTuple):
    """Curves on common axes, of which the vertical one starts at 0. Texts are plain ASCII."""

    title: str
    x_label: str
    curves: Sequence[Curve]


class Bars(NamedTuple):
    """Horizontal bars from 0, each with its name above and its value, as text, at its end. Texts are plain ASCII."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    texts: Sequence[str]


def draw_bars(panels: Sequence[Bars], *, width: int = 960) -> np.ndarray:
    """The panels one above the other: uint8 RGB [height, width, 3]."""
    return np.concatenate([_draw_bars(panel, width) for panel in panels], axis=0)


def _draw_bars(panel: Bars, width: int) -> np.ndarray:
    canvas = np.full((64 + 48 * len(panel.names), width, 3), 255, np.uint8)
    _write(canvas, panel.title, (16, 34), scale=0.62, color=INK)
    room, longest = width - 140, max([*panel.values, 1e-9])
    for index, (name, value, text) in enumerate(zip(panel.names, panel.values, panel.texts, strict=True)):
        top = 64 + 48 * index
        _write(canvas, name, (16, top), scale=0.45, color=GREY)
        end = 16 + round(room * value / longest)
        cv2.rectangle(canvas, (16, top + 7), (max(end, 17), top + 27), COLORS[index % len(COLORS)], -1)
        _write(canvas, text, (end + 8, top + 23), scale=0.48, color=INK)
    return canvas


def draw_panels(panels: Sequence[Panel], *, panel_size: tuple[int, int] = (440, 620)) -> np.ndarray:
    """The panels side by side: uint8 RGB [height, width * panels, 3]; panel_size: (height, width) in pixels."""
    return np.concatenate([_draw_panel(panel, panel_size) for panel in panels], axis=1)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], *, captions: Sequence[str], gap: int = 12) -> np.ndarray:
    """Pictures of one size, uint8 RGB [h, w, 3], in rows under a caption for each column, on white."""
    height, width = rows[0][0].shape[:2]
    top = 44
    size = (top + len(rows) * (height + gap), len(captions) * (width + gap) + gap)
    sheet = np.full((*size, 3), 255, np.uint8)
    for column, caption in enumerate(captions):
        left = gap + column * (width + gap)
        _write(sheet, caption, (left, top - 14), scale=0.7, color=INK)
        for row, pictures in enumerate(rows):
            place = sheet[top + row * (height + gap) :, left : left + width][:height]
            place[:] = pictures[column]
    return sheet


def tick_step(extent: float) -> float:
    """1, 2 or 5 times a power of ten, such that at most MOST_TICKS of them span `extent`, which is above 0."""
    power = 10.0 ** math.floor(math.log10(extent / MOST_TICKS))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * MOST_TICKS >= extent * (1 - 1e-9))


def _draw_panel(panel: Panel, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    canvas = np.full((height, width, 3), 255, np.uint8)
    above, right, below, left = MARGINS
    box = (left, above, width - right, height - below)  # x1, y1, x2, y2 of the axes
    points = [np.array([curve.x, curve.y], np.float64) for curve in panel.curves]
    x_top, y_top = (_top(float(max((p[axis].max() for p in points if p.size), default=0.0))) for axis in (0, 1))
    _draw_axes(canvas, box, x_top, y_top)
    for index, (x, y) in enumerate(points):
        columns = box[0] + x / x_top * (box[2] - box[0])
        rows = box[3] - y / y_top * (box[3] - box[1])
        _draw_curve(canvas, np.stack([columns, rows], axis=1), COLORS[index % len(COLORS)])
    _write(canvas, panel.title, (left, 34), scale=0.62, color=INK, thickness=1)
    _write(canvas, panel.x_label, ((box[0] + box[2]) // 2, height - 16), scale=0.48, color=INK, align=0.5)
    _draw_legend(canvas, [curve.name for curve in panel.curves], (left, 66))
    return canvas


def _top(largest: float) -> float:
    """The end of an axis from 0: the first tick that is not below the largest value."""
    largest = max(largest, 1e-9)
    step = tick_step(largest)
    return math.ceil(largest / step - 1e-9) * step


def _draw_axes(canvas: np.ndarray, box: tuple[int, int, int, int], x_top: float, y_top: float) -> None:
    x1, y1, x2, y2 = box
    step = tick_step(y_top)
    for tick in range(round(y_top / step) + 1):
        row = round(y2 - tick * step / y_top * (y2 - y1))
        cv2.line(canvas, (x1, row), (x2, row), PALE, 1)
        _write(canvas, f"{tick * step:g}", (x1 - 10, row + 5), scale=0.45, color=GREY, align=1.0)
    step = tick_step(x_top)
    for tick in range(round(x_top / step) + 1):
        column = round(x1 + tick * step / x_top * (x2 - x1))
        cv2.line(canvas, (column, y2), (column, y2 + 5), GREY, 1)
        _write(canvas, f"{tick * step:g}", (column, y2 + 22), scale=0.45, color=GREY, align=0.5)
    cv2.line(canvas, (x1, y2), (x2, y2), GREY, 1)


def _draw_curve(canvas: np.ndarray, points: np.ndarray, color: tuple[int, int, int]) -> None:
    """points: float64 [n, 2], (x, y) in pixels."""
    shift = 4  # bits of a pixel
    exact = np.rint(points * 2**shift).astype(np.int32)
    cv2.polylines(canvas, [exact[:, None]], False, color, 2, cv2.LINE_AA, shift)
    if len(points) <= MARKED:
        for x, y in exact.tolist():
            cv2.circle(canvas, (x, y), 4 << shift, color, -1, cv2.LINE_AA, shift)


def _draw_legend(canvas: np.ndarray, names: Sequence[str], origin: tuple[int, int]) -> None:
    """A line and a name for each curve, side by side."""
    x, y = origin
    for index, name in enumerate(names):
        cv2.line(canvas, (x, y - 5), (x + 22, y - 5), COLORS[index % len(COLORS)], 3, cv2.LINE_AA)
        x += 30 + _write(canvas, name, (x + 30, y), scale=0.48, color=INK) + 24


def _write(
    canvas: np.ndarray,
    text: str,
    place: tuple[int, int],
    *,
    scale: float,
    color: tuple[int, int, int],
    thickness: int = 1,
    align: float = 0.0,
) -> int:
    """Write at (x, y) of the base line, x being the text's left end, middle (align 0.5) or right end (1): its width."""
    (width, _), _ = cv2.getTextSize(text, FONT, scale, thickness)
    cv2.putText(canvas, text, (round(place[0] - align * width), place[1]), FONT, scale, color, thickness, cv2.LINE_AA)
    return width
