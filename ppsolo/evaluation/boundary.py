"""Boundary IoU: how well the outlines of two masks agree."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from ppsolo.results.rle import Rle, decode_window, mask_boxes


def boundary_width(size: tuple[int, int], *, dilation_ratio: float = 0.02) -> int:
    """Return the width of a boundary in pixels, >= 1: `dilation_ratio` times the image's diagonal."""
    return max(1, round(dilation_ratio * math.sqrt(size[0] ** 2 + size[1] ** 2)))


def mask_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of `mask` (bool or uint8 [H, W]) within `width` pixels of its outline, bool [H, W].

    The mask is eroded `width` times by a 3x3 square and subtracted. Everything outside of the array is background:
    a mask that the image's border cuts has an outline at the border. Cheng et al., "Boundary IoU: Improving
    Object-Centric Image Segmentation Evaluation", CVPR 2021 (arXiv 2103.16562).
    """
    filled = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0.0,))
    inside = cv2.erode(filled, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask.astype(bool) & (inside == 0)


def lower_to_boundary_ious(
    mask_ious: np.ndarray,
    detections: list[Rle],
    truths: list[Rle],
    *,
    crowd: np.ndarray,
    width: int,
    lowest_threshold: float,
) -> np.ndarray:
    """Return min(mask IoU, boundary IoU), the measure of Boundary AP, float64 [D, G].

    mask_ious: float64 [D, G], of D `detections` and G `truths` in one image.
    crowd: bool [G]. Crowd regions keep their mask IoU, as in the published protocol.
    width: width of the boundaries in pixels.
    lowest_threshold: a pair whose mask IoU is lower keeps it, because it cannot match.
    """
    pairs = np.argwhere((mask_ious >= lowest_threshold) & ~crowd)
    detected = {d: _outline(detections[d], width) for d in np.unique(pairs[:, 0])}
    expected = {g: _outline(truths[g], width) for g in np.unique(pairs[:, 1])}
    ious = mask_ious.copy()
    for d, g in pairs:
        ious[d, g] = min(ious[d, g], _iou(detected[d], expected[g]))
    return ious


class _Outline(NamedTuple):
    """A boundary, cropped to a window: first row, first column, pixels, and the number of set pixels."""

    top: int
    left: int
    pixels: np.ndarray
    area: int


def _outline(rle: Rle, width: int) -> _Outline:
    x1, y1, x2, y2 = mask_boxes([rle])[0].astype(int).tolist()
    pixels = mask_boundary(decode_window(rle, (x1, y1, x2, y2)), width)
    return _Outline(y1, x1, pixels, int(np.count_nonzero(pixels)))


def _iou(first: _Outline, second: _Outline) -> float:
    shared = np.count_nonzero(_window(first, second) & _window(second, first))
    return shared / (first.area + second.area - shared)


def _window(outline: _Outline, other: _Outline) -> np.ndarray:
    """Return the part of `outline`'s pixels that lies in the window of `other`."""
    top, left = max(0, other.top - outline.top), max(0, other.left - outline.left)
    bottom = max(0, other.top + other.pixels.shape[0] - outline.top)
    right = max(0, other.left + other.pixels.shape[1] - outline.left)
    return outline.pixels[top:bottom, left:right]
