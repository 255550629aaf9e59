"""Outlines of masks: rings along the edges of pixels, with separate or with joined holes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as pycocotools_mask

from ppsolo.results.rle import Rle, decode_window, mask_boxes

LEAST_IOU = 0.99  # IoU of a simplified outline and its mask
_TOLERANCES = (1.0, 0.75, 0.5)  # pixels, tried in this order before the exact outline

_API: Any = pycocotools_mask


class Part(NamedTuple):
    """One connected part of a mask: outer ring and holes, each int64 [k, 2] of x, y in pixels, not closed.

    No ring crosses or touches itself. Two rings meet only in single points. GIS programs call this valid.
    """

    outer: np.ndarray
    holes: tuple[np.ndarray, ...]


def mask_polygons(rle: Rle, tolerance: float = 0.75) -> list[list[float]]:
    """Return the outlines of a mask in the COCO convention: one closed ring per part.

    A ring runs along the edges of pixels. Pixel (row i, column j) is the square from (j, i) to (j + 1, i + 1).
    pycocotools reads polygons in the same way, so tolerance 0 reproduces the mask exactly. Pixels that touch at a
    corner are one part. A polygon has no holes, so the ring walks to each hole, around it and back. This cut has no
    width.

    Args:
        rle: compressed COCO RLE.
        tolerance: largest distance of a simplified ring from the exact one, in pixels (Douglas-Peucker); 0: exact.
            A ring that would vanish stays exact.

    Returns:
        [x0, y0, x1, y1, ...] per part, at least three points each; [] for an empty mask.
    """
    window, corner = _window(rle)
    if window.size == 0:
        return []
    contours, hierarchy = cv2.findContours(_doubled(window), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [_simplify(_pixel_edges(contour), tolerance) + corner for contour in contours]
    parents = hierarchy[0][:, 3]  # -1 for an outer ring; for a hole, the ring around it
    outlines = {i: ring for i, ring in enumerate(rings) if parents[i] < 0}
    for i in np.flatnonzero(parents >= 0):
        outlines[parents[i]] = _join(outlines[parents[i]], rings[i])
    return [_flat(ring) for ring in outlines.values()]


def close_polygons(rle: Rle) -> list[list[float]]:
    """Return `mask_polygons` with as few points as possible at an IoU of at least LEAST_IOU with the mask."""
    for tolerance in _TOLERANCES:
        polygons = mask_polygons(rle, tolerance)
        if not polygons or polygon_iou(polygons, rle) >= LEAST_IOU:
            return polygons
    return mask_polygons(rle, 0.0)


def single_ring(rle: Rle) -> list[float]:
    """Return `close_polygons` joined to one ring, for formats with one ring per instance; [] for an empty mask.

    The ring walks from part to part and back. These cuts have no width.
    """
    rings = [np.reshape(polygon, (-1, 2)) for polygon in close_polygons(rle)]
    if not rings:
        return []
    ring = rings[0]
    for other in rings[1:]:
        ring = _join(ring, other)
    return _flat(ring)


def mask_parts(rle: Rle) -> list[Part]:
    """Return the exact parts of a mask with their holes. Pixels that touch only at a corner are different parts."""
    window, corner = _window(rle)
    if window.size == 0:
        return []
    parts = []
    number, labels, stats, _ = cv2.connectedComponentsWithStats(np.pad(window, 1), connectivity=4)
    for label in range(1, number):
        left, top, width, height = stats[label, :4].tolist()
        # A margin of one pixel connects everything outside.
        part = labels[top - 1 : top + height + 1, left - 1 : left + width + 1] == label
        offset = corner + np.array([left - 2, top - 2])
        parts.append(_part(part, offset))
    return parts


def polygon_iou(polygons: Sequence[Sequence[float]], rle: Rle) -> float:
    """Return the IoU of a mask with COCO polygons, drawn like pycocotools; both must not be empty."""
    drawn = _API.merge(_API.frPyObjects([list(polygon) for polygon in polygons], *rle["size"]))
    return float(_API.iou([drawn], [rle], [0])[0, 0])


def _part(part: np.ndarray, offset: np.ndarray) -> Part:
    """Return the rings of one 4-connected part, bool [h, w] with a margin of one pixel."""
    # The outside and each hole are 4-connected too, so no ring touches itself.
    number, regions, stats, _ = cv2.connectedComponentsWithStats((~part).view(np.uint8), connectivity=4)
    outside = regions[0, 0]
    outer = _single_contour(regions != outside) + offset
    holes = []
    for region in range(1, number):
        if region != outside:
            left, top, width, height = stats[region, :4].tolist()
            hole = regions[top : top + height, left : left + width] == region
            holes.append(_single_contour(hole)[::-1] + offset + np.array([left, top]))
    return Part(outer, tuple(holes))


def _single_contour(region: np.ndarray) -> np.ndarray:
    """Return the outer ring of a 4-connected region: int64 [k, 2]."""
    contours, _ = cv2.findContours(_doubled(region.view(np.uint8)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return _corners(_pixel_edges(contours[0]))


def _window(rle: Rle) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask inside its box, uint8 [h, w], and the box's (x, y)."""
    x1, y1, x2, y2 = (int(v) for v in mask_boxes([rle])[0])
    return decode_window(rle, (x1, y1, x2, y2)).view(np.uint8), np.array([x1, y1])


def _doubled(window: np.ndarray) -> np.ndarray:
    return window.repeat(2, axis=0).repeat(2, axis=1)


def _pixel_edges(contour: np.ndarray) -> np.ndarray:
    """Convert a contour of the doubled mask to the edges of pixels, int32 [k, 2].

    cv2 returns boundary pixels. In the doubled mask, 2j and 2j - 1 lie on either side of the edge at j.
    """
    return (contour[:, 0] + 1) // 2


def _corners(ring: np.ndarray) -> np.ndarray:
    """A closed ring of horizontal and vertical steps without repeats and without points on straight lines."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)].astype(np.int64)
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify a closed ring int32 [k, 2] within `tolerance`; if it would vanish, only remove repeated points."""
    exact = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    simple = cv2.approxPolyDP(exact, tolerance, True)[:, 0]
    return simple if len(simple) >= 3 else exact


def _join(ring: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join two rings: leave `ring` at its point nearest to the first of `other`, walk around `other` and back."""
    nearest = int(np.square(ring - other[0]).sum(axis=1).argmin())
    return np.concatenate([ring[: nearest + 1], other, other[:1], ring[nearest:]])


def _flat(ring: np.ndarray) -> list[float]:
    return ring.astype(float).ravel().tolist()
