"""Outlines of masks: rings that follow the edges of pixels."""

import cv2
import numpy as np

from ppsolo.results.rle import Rle, decode_window, mask_boxes


def mask_polygons(rle: Rle, tolerance: float = 0.75) -> list[list[float]]:
    """Outlines of a mask, one closed ring per part, in the COCO convention.

    Rings run along the edges of pixels: pixel (row i, column j) is the square from (j, i) to (j + 1, i + 1), which is
    how pycocotools reads polygons, so that with tolerance 0 it makes exactly this mask of them. Pixels that touch at
    a corner are one part. A polygon cannot hold a hole: the ring walks to each hole, around it and back the same
    way, and this cut has no width.

    Args:
        rle: compressed COCO RLE.
        tolerance: how far, in pixels, a simplified ring may leave the exact one (Douglas-Peucker); 0 for exact. A ring
            that would vanish stays exact.

    Returns:
        [x0, y0, x1, y1, ...] per part, at least three points each; [] for an empty mask.
    """
    x1, y1, x2, y2 = (int(v) for v in mask_boxes([rle])[0])
    if x1 == x2:
        return []
    doubled = decode_window(rle, (x1, y1, x2, y2)).view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # cv2 names boundary pixels; of two per pixel of ours, 2j and 2j - 1 lie on either side of the edge at j.
    rings = [_simplify((contour[:, 0] + 1) // 2, tolerance) + np.array([x1, y1]) for contour in contours]
    parents = hierarchy[0][:, 3]  # -1, or for a hole the ring that it is in
    outlines = {i: ring for i, ring in enumerate(rings) if parents[i] < 0}
    for i in np.flatnonzero(parents >= 0):
        outlines[parents[i]] = _join_hole(outlines[parents[i]], rings[i])
    return [ring.astype(float).ravel().tolist() for ring in outlines.values()]


def _simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed ring int32 [k, 2] with fewer points, none farther than `tolerance` from it, or without repeats only."""
    exact = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    simple = cv2.approxPolyDP(exact, tolerance, True)[:, 0]
    return simple if len(simple) >= 3 else exact


def _join_hole(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring that goes from its point nearest to the hole's first around the hole and back."""
    nearest = int(np.square(ring - hole[0]).sum(axis=1).argmin())
    return np.concatenate([ring[: nearest + 1], hole, hole[:1], ring[nearest:]])
