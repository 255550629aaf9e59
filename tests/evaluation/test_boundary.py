"""Boundaries and their IoU against masks drawn by hand and a slow distance."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from ppsolo.evaluation.boundary import boundary_width, lower_to_boundary_ious, mask_boundary

coco_mask: Any = pycocotools_mask  # its type stubs know only some of the forms that it takes


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def slow_boundary(mask, width):
    """A pixel belongs to the boundary if a background pixel, or the outside, is at most `width` steps away."""
    height, length = mask.shape
    result = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        inside_image = min(y, x, height - 1 - y, length - 1 - x) >= width
        window = mask[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        result[y, x] = not (inside_image and window.all())
    return result


@pytest.mark.parametrize(
    ("size", "width"),
    [((480, 640), 16), ((30, 40), 1), ((10, 10), 1), ((75, 100), 2), ((1500, 2000), 50)],
)
def test_width_is_a_share_of_the_diagonal(size, width):
    assert boundary_width(size) == width  # (75, 100): 2.5 rounds to even, as in the published code


def test_a_square_keeps_its_rim():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    rim = mask.copy()
    rim[3:6, 3:6] = False
    np.testing.assert_array_equal(mask_boundary(mask, 2), rim)


def test_the_border_of_the_image_is_an_outline():
    boundary = mask_boundary(np.ones((5, 6), np.uint8), 1)
    assert boundary.dtype == bool
    assert boundary.sum() == 30 - 3 * 4


@pytest.mark.parametrize("seed", range(6))
def test_boundaries_equal_the_slow_way(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((23, 31)) < 0.98
    mask[rng.integers(0, 20) :, : rng.integers(1, 25)] = True
    for width in (1, 2, 5):
        np.testing.assert_array_equal(mask_boundary(mask, width), slow_boundary(mask, width))


def test_the_smaller_iou_decides_where_it_matters():
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 40, 50), bool)
    for mask in masks:
        top, left = rng.integers(0, 8, 2)
        mask[top : top + 30, left : left + 35] = True
    masks[4] = False
    masks[4, 38:, 48:] = True  # far from all others
    detections, truths = masks[[0, 1, 4]], masks[[1, 2, 3]]
    crowd = np.array([False, False, True])
    rles = [encode(mask) for mask in detections], [encode(mask) for mask in truths]
    mask_ious = coco_mask.iou(*rles, crowd.astype(np.uint8).tolist())
    before = mask_ious.copy()
    ious = lower_to_boundary_ious(mask_ious, *rles, crowd=crowd, width=2, lowest_threshold=0.5)
    np.testing.assert_array_equal(mask_ious, before)
    for d, detection in enumerate(detections):
        for g, truth in enumerate(truths):
            first, second = slow_boundary(detection, 2), slow_boundary(truth, 2)
            expected = (first & second).sum() / (first | second).sum()
            changed = mask_ious[d, g] >= 0.5 and not crowd[g]
            assert ious[d, g] == (min(expected, mask_ious[d, g]) if changed else mask_ious[d, g])
    assert ious[1, 0] == 1
    assert (ious < mask_ious).any()
