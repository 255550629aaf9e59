"""Draws instances on their image: tinted masks, outlines, and labels with scores."""

import colorsys
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from ppsolo.results.fonts import drawable_name
from ppsolo.results.labels import Box, Color, write_labels, write_legend
from ppsolo.results.rle import Rle, decode_window, mask_areas, mask_boxes

_DARKEST = 0.35  # least luma of a colour, 0 .. 1
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_SHIFT = 3  # fraction bits of coordinates in OpenCV's drawing
# OpenCV's smooth lines are wide and faint: make their middle opaque, and their margin fainter.
_SHARPER = np.clip((np.arange(256) - 51) * (255 / 153), 0, 255).astype(np.uint8)
_WEIGHTS = (1, 2, 3, 2, 1)  # of a point and its neighbours on a smoothed contour
_LEAST_SMOOTHED = 12  # points of a contour; shorter or thin contours are not smoothed


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
    write_scores: bool = True,
    write_names: bool = True,
    legend: bool = False,
    track_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Draw n masks on a copy of their image, the largest first so that none is hidden.

    Lines and letters grow with the image. A label is the class name and the score in a box, inside the image and away
    from other labels if possible. Up to 30 labels have the full size; more labels shrink; with more than 100 masks
    there are none. Labels that are too small to read, or hidden by labels of earlier masks, are left out. A name may
    have any script for which the system has a font; otherwise it becomes "class" and its number.

    Args:
        image: uint8 RGB [height, width, 3].
        rles: n masks, compressed COCO RLEs; empty ones are not drawn.
        size: (height, width) of the masks and of the image.
        scores, labels, names: one per mask; labels are numbers from 0.
        alpha: opacity of a mask's colour, from 0 (outlines only) to 1.
        color_by: "instance" gives neighbours different colours, by rank; "class" gives every class its own colour, the
            same in every image.
        write_scores, write_names: the content of a label; with neither there are no labels.
        track_ids: int64 [n], numbers of objects in a video, -1 for none. A label shows the number, and with color_by
            "instance" an object keeps its colour.
        legend: list the drawn classes with their colours and numbers; needs color_by "class".

    Returns:
        uint8 RGB [height, width, 3], a new array.

    Raises:
        ValueError: the image is not of this form and size, or an option is out of range.
    """
    _check(image, size, alpha=alpha, color_by=color_by, legend=legend)
    canvas = np.array(image, order="C")
    areas = mask_areas(rles)
    rows = np.flatnonzero(areas)
    shown: list[int] = rows.tolist()
    boxes = [(int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in mask_boxes(rles)[shown]]
    ranks = np.arange(len(rows)) if track_ids is None else abs(track_ids[rows])
    colors = [instance_color(int(i)) for i in (ranks if color_by == "instance" else np.asarray(labels)[rows])]
    line = max(1, round(min(image.shape[:2]) / 350))
    for rank in np.argsort(-areas[shown], kind="stable"):
        _tint(canvas, rles[shown[rank]], boxes[rank], colors[rank], alpha=alpha, line=line)
    if write_scores or write_names:
        written = names if write_names else None
        texts = [_label_text(i, written, labels, scores if write_scores else None, track_ids) for i in shown]
        write_labels(canvas, texts, boxes, colors)
    if legend and shown:
        _draw_legend(canvas, [names[i] for i in shown], [int(labels[i]) for i in shown])
    return canvas


def instance_color(index: int) -> Color:
    """Return the colour of the index-th instance or class: red, green, blue, 0 .. 255; always the same."""
    hue = (0.58 + index * 0.6180339887) % 1.0  # golden-section steps give neighbours different hues
    saturation, value = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.85))[index % 3]
    vivid = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    white = max(0.0, (_DARKEST - vivid @ _LUMA) / (1 - vivid @ _LUMA))  # share of white that brightens dark blues
    red, green, blue = np.rint(255 * (vivid + white * (1 - vivid))).astype(int).tolist()
    return red, green, blue


def _label_text(
    i: int,
    names: Sequence[str] | None,
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray | None,
    track_ids: np.ndarray | None,
) -> str:
    """Return the label of the i-th mask: name, number of the object, score; None leaves one out."""
    parts = [] if names is None else [drawable_name(names[i], int(labels[i]))]
    if track_ids is not None and track_ids[i] > 0:
        parts.append(f"#{track_ids[i]}")
    return " ".join([*parts, *([] if scores is None else [f"{scores[i]:.2f}"])])


def _draw_legend(canvas: np.ndarray, names: Sequence[str], labels: Sequence[int]) -> None:
    """List the classes of the masks that are drawn with their numbers and colours."""
    counts = Counter(labels)
    named = {label: drawable_name(name, label) for name, label in zip(names, labels, strict=True)}
    lines = [f"{named[label]}: {counts[label]}" for label in sorted(counts)]
    write_legend(canvas, lines, [instance_color(label) for label in sorted(counts)])


def _check(image: np.ndarray, size: tuple[int, int], *, alpha: float, color_by: str, legend: bool) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        form = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image must be a uint8 RGB array [height, width, 3], as ppsolo.read_image gives, got {form}")
    if image.shape[:2] != size:
        raise ValueError(f"image has size {image.shape[:2]}, but the instances belong to an image of size {size}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0 .. 1, got {alpha}")
    if color_by not in ("instance", "class"):
        raise ValueError(f"color_by must be 'instance' or 'class', got {color_by!r}")
    if legend and color_by != "class":
        raise ValueError("a legend lists the colours of classes: color_by must be 'class'")


def _tint(canvas: np.ndarray, rle: Rle, box: Box, color: Color, *, alpha: float, line: int) -> None:
    """Blend a mask's colour into the canvas and draw its outline, `line` pixels wide; both have smooth edges."""
    x1, y1, x2, y2 = box
    mask = decode_window(rle, box).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    points, ends = _smooth_contours(contours)
    share = np.zeros_like(mask)  # share of the colour, 0 .. 255
    cv2.fillPoly(share, _parts(points, ends), 255, cv2.LINE_AA, _SHIFT)
    region = canvas[y1:y2, x1:x2]
    levels = np.arange(256)[:, None] * (1 - alpha) + np.array(color) * alpha  # [256, 3], old level -> new
    tinted = cv2.LUT(region, np.rint(levels).astype(np.uint8)[None])
    _blend(region, tinted, share)
    _outline(canvas, points, ends, box, color, line=line)


def _outline(canvas: np.ndarray, points: np.ndarray, ends: list[int], box: Box, color: Color, *, line: int) -> None:
    """Draw contours, `line` pixels wide. points, ends: see `_smooth_contours`; they count from the box's corner."""
    x1, y1, x2, y2 = box
    left, top = max(x1 - line - 1, 0), max(y1 - line - 1, 0)
    region = canvas[top : y2 + line + 1, left : x2 + line + 1]
    share = np.zeros(region.shape[:2], np.uint8)
    moved = points + (np.array([x1 - left, y1 - top], np.int32) << _SHIFT)
    cv2.polylines(share, _parts(moved, ends), True, 255, line, cv2.LINE_AA, _SHIFT)
    _blend(region, np.broadcast_to(np.array(color, np.uint8), region.shape), _SHARPER[share])


def _blend(region: np.ndarray, other: np.ndarray, share: np.ndarray) -> None:
    """Blend `other` over the region, in place; `share` is 0 .. 255 for each pixel."""
    np.copyto(region, other, where=(share == 255)[:, :, None])
    edge = (share > 0) & (share < 255)
    weight = share[edge][:, None].astype(np.float32) / 255
    region[edge] = np.rint(region[edge] * (1 - weight) + other[edge] * weight).astype(np.uint8)


def _smooth_contours(contours: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Smooth contours: each point becomes the mean of it and its neighbours.

    The steps of a slanted edge become a straight line; a corner moves by at most half a pixel. All contours are
    smoothed together, because a ragged mask has thousands of small ones.

    Returns the points of all contours, int32 [n, 1, 2] in 1 / 2**_SHIFT pixels, and where each contour ends.
    """
    points = np.concatenate(contours)[:, 0].astype(np.float32)
    lengths = np.array(list(map(len, contours)))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    extents = np.maximum.reduceat(points, starts) - np.minimum.reduceat(points, starts)
    long = (lengths >= _LEAST_SMOOTHED) & (extents.min(axis=1) > 2)
    rows = np.flatnonzero(np.repeat(long, lengths))
    first, length = (np.repeat(values[long], lengths[long]) for values in (starts, lengths))
    total = np.zeros((len(rows), 2), np.float32)
    for weight, step in zip(_WEIGHTS, (-2, -1, 0, 1, 2), strict=True):
        total += weight * points[first + (rows - first + step) % length]  # a contour is closed
    points[rows] = np.clip(total / sum(_WEIGHTS), points[rows] - 0.5, points[rows] + 0.5)
    return np.rint(points * 2**_SHIFT).astype(np.int32)[:, None], ends.tolist()


def _parts(points: np.ndarray, ends: list[int]) -> list[np.ndarray]:
    """Return the points of each contour."""
    return [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]
