"""Measures of scaled outlines against the same outlines drawn and scaled by OpenCV."""

import cv2
import numpy as np
import pytest

from ppsolo.check.scaled_outlines import scale_outlines
from ppsolo.data.augment import Resize
from ppsolo.data.targets import quarter
from ppsolo.results import rle

SHAPES = [(64, 96), (61, 97), (33, 20), (1, 40), (40, 1), (200, 150)]


def masks_of(size, rng) -> list[np.ndarray]:
    """Nothing, single pixels, rectangles, noise, whole columns and everything."""
    height, width = size
    found = [np.zeros(size, np.uint8), np.ones(size, np.uint8), (rng.random(size) < 0.02).astype(np.uint8)]
    for _ in range(12):
        mask = np.zeros(size, np.uint8)
        y, x = int(rng.integers(height)), int(rng.integers(width))
        mask[y : y + int(rng.integers(1, 9)), x : x + int(rng.integers(1, 9))] = 1
        found.append(mask)
    found.append(np.zeros(size, np.uint8))
    found[-1][:, width // 2 :] = 1
    return found


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(
    ("short", "long", "round_sides"), [(64, 96, True), (80, 133, True), (50, 83, False), (17, 99, True)]
)
def test_equals_drawing_and_scaling(size, short, long, round_sides):
    resize = Resize((short,), long, round_sides=round_sides, box_convention="exclusive")
    scales = resize.scales(size, short)
    masks = masks_of(size, np.random.default_rng(0))
    found = scale_outlines([rle.encode_mask(mask) for mask in masks], size, scales)
    for index, mask in enumerate(masks):
        scaled = cv2.resize(mask, None, fx=scales[1], fy=scales[0], interpolation=cv2.INTER_NEAREST)
        left, top, width, height = cv2.boundingRect(mask)
        assert found.size == scaled.shape
        assert found.drawn_boxes[index].tolist() == [left, top, left + width, top + height]
        assert found.areas[index] == scaled.sum()
        assert found.vanished[index] == (not quarter(scaled).any())
        if scaled.any():
            moments = cv2.moments(scaled)
            assert found.centres[index].tolist() == [moments["m01"] / moments["m00"], moments["m10"] / moments["m00"]]


def test_no_outline():
    found = scale_outlines([], (8, 8), (2.0, 2.0))
    assert found.size == (16, 16) and found.drawn_boxes.shape == (0, 4)
