"""Drawings of instances on their image: tinted masks, outlines, and a label with the score."""

import colorsys
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from ppsolo.results.rle import Rle, decode_window, mask_areas, mask_boxes

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEAST_LETTER = 7  # pixels; a lower label cannot be read
_DARKEST = 0.35  # luma of a colour, 0 .. 1
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_MOST_COVERED = 0.35  # of a label, by those of better instances

Color = tuple[int, int, int]  # red, green, blue, 0 .. 255
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 exclusive


class _Label(NamedTuple):
    text: str
    box: Box  # what it covers
    origin: tuple[int, int]  # x, y of the left end of the text's base line
    scale: float
    thickness: int
    color: Color


def draw_masks(
    image: np.ndarray,
    rles: Sequence[Rle],
    *,
    size: tuple[int, int],
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
    names: Sequence[str],
    alpha: float = 0.5,
    color_by: Literal["instance", "class"] = "instance",
    write_labels: bool = True,
) -> np.ndarray:
    """Draw n masks on a copy of their image, the largest first so that none is hidden.

    Lines and letters grow with the image. A label is the class name and the score, on a box that lies inside the
    image and keeps off other labels where it can; a name that is not plain ASCII, which OpenCV cannot draw, becomes
    "class" and its number. Labels that could not be read, too small or under those of earlier masks, are left out.

    Args:
        image: uint8 RGB [height, width, 3].
        rles: n masks, compressed COCO RLEs; empty ones are not drawn.
        size: (height, width) of the masks, which the image must have.
        scores, labels, names: of each mask; labels are numbers from 0.
        alpha: how much of a mask's colour covers the image, 0 (outlines only) to 1.
        color_by: "instance" tells neighbours apart by their rank; "class" gives every class its own colour, the same
            in every image.
        write_labels: whether to write labels.

    Returns:
        uint8 RGB [height, width, 3], a new array.

    Raises:
        ValueError: the image is not of this form or not of the masks' size, or an option is out of range.
    """
    _check(image, size, alpha=alpha, color_by=color_by)
    canvas = np.array(image, order="C")
    areas = mask_areas(rles)
    shown: list[int] = np.flatnonzero(areas).tolist()
    boxes = [(int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in mask_boxes(rles)[shown]]
    colors = [instance_color(rank if color_by == "instance" else int(labels[i])) for rank, i in enumerate(shown)]
    line = max(1, round(min(image.shape[:2]) / 350))
    for rank in np.argsort(-areas[shown], kind="stable"):
        _tint(canvas, rles[shown[rank]], boxes[rank], colors[rank], alpha=alpha, line=line)
    if write_labels:
        texts = [f"{_drawable_name(names[i], int(labels[i]))} {scores[i]:.2f}" for i in shown]
        _write_labels(canvas, texts, boxes, colors)
    return canvas


def instance_color(index: int) -> Color:
    """The colour of the index-th instance or class: red, green, blue, 0 .. 255; the same at all times."""
    hue = (0.58 + index * 0.6180339887) % 1.0  # steps of the golden section keep any few neighbours apart
    saturation, value = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.85))[index % 3]
    vivid = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    white = max(0.0, (_DARKEST - vivid @ _LUMA) / (1 - vivid @ _LUMA))  # share to mix in, for dark blues
    red, green, blue = np.rint(255 * (vivid + white * (1 - vivid))).astype(int).tolist()
    return red, green, blue


def _check(image: np.ndarray, size: tuple[int, int], *, alpha: float, color_by: str) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        form = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image must be a uint8 RGB array [height, width, 3], got {form}")
    if image.shape[:2] != size:
        raise ValueError(f"image has size {image.shape[:2]}, the instances are those of an image of {size}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0 .. 1, got {alpha}")
    if color_by not in ("instance", "class"):
        raise ValueError(f"color_by must be 'instance' or 'class', got {color_by!r}")


def _drawable_name(name: str, label: int) -> str:
    return name if name.isascii() and name.isprintable() else f"class {label}"


def _tint(canvas: np.ndarray, rle: Rle, box: Box, color: Color, *, alpha: float, line: int) -> None:
    """Blend a mask's colour into the canvas and draw its outline, `line` pixels wide."""
    x1, y1, x2, y2 = box
    mask = np.ascontiguousarray(decode_window(rle, box))
    region = canvas[y1:y2, x1:x2]
    levels = np.arange(256)[:, None] * (1 - alpha) + np.array(color) * alpha  # [256, 3], old level -> new
    tinted = cv2.LUT(region, np.rint(levels).astype(np.uint8)[None])
    np.copyto(region, tinted, where=mask[:, :, None])
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, line, cv2.LINE_8, offset=(x1, y1))


def _write_labels(canvas: np.ndarray, texts: list[str], boxes: list[Box], colors: list[Color]) -> None:
    """Write a text beside each box, leaving out those that are too small or too covered to be read."""
    layouts: list[_Label] = []
    for text, box, color in zip(texts, boxes, colors, strict=True):
        label = _lay_out(text, box, color, canvas.shape[:2], [other.box for other in layouts])
        if label is not None:
            layouts.append(label)
    for label in reversed(layouts):  # the first lie on top
        x1, y1, x2, y2 = label.box
        canvas[y1:y2, x1:x2] = label.color
        ink = (0, 0, 0) if np.dot(label.color, _LUMA) > 115 else (255, 255, 255)
        cv2.putText(canvas, label.text, label.origin, _FONT, label.scale, ink, label.thickness, cv2.LINE_AA)


def _lay_out(text: str, box: Box, color: Color, size: tuple[int, int], taken: list[Box]) -> _Label | None:
    """A label for the box in an image of (height, width), or None where none can be read."""
    height, width = size
    letter = max(10.0, (height * width) ** 0.5 / 50)  # pixels
    (unit_width, unit_height), _ = cv2.getTextSize(text, _FONT, 1.0, 1)
    scale = min(letter / unit_height, 0.6 * width / unit_width, 0.3 * height / unit_height)
    if scale * unit_height < _LEAST_LETTER:
        return None
    thickness = max(1, round(scale * 1.4))
    (text_width, text_height), descent = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = max(2, text_height // 4)
    extent = (text_height + descent // 2 + 2 * margin, text_width + 2 * margin)
    place = _free_place(box, extent, size, taken)
    if _covered(place, taken) > _MOST_COVERED * extent[0] * extent[1]:
        return None
    return _Label(text, place, (place[0] + margin, place[1] + margin + text_height), scale, thickness, color)


def _free_place(box: Box, extent: tuple[int, int], size: tuple[int, int], taken: list[Box]) -> Box:
    """Where a label of (height, width) covers least of the taken places: over, in or under the box, in the image."""
    x1, y1, x2, y2 = box
    height, width = extent
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x2 - width, y1), (x1, y2), (x1, y2 - height)]
    places = []
    for x, y in corners:
        x, y = max(min(x, size[1] - width), 0), max(min(y, size[0] - height), 0)
        places.append((x, y, x + width, y + height))
    return min(places, key=lambda place: _covered(place, taken))


def _covered(place: Box, taken: list[Box]) -> int:
    """Pixels that a place shares with those taken."""
    x1, y1, x2, y2 = place
    return sum(max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b)) for a, b, c, d in taken)
