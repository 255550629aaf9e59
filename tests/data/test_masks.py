"""Cropped masks change as whole masks do."""

import tracemalloc

import cv2
import numpy as np
import pytest

from ppsolo.data.augment import Resize
from ppsolo.data.masks import CroppedMasks
from ppsolo.results.rle import encode_mask


def drawn(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise, rectangles, a pixel in the last corner, everything and nothing: uint8 [7, height, width]."""
    masks = np.zeros((7, height, width), np.uint8)
    masks[0] = rng.random((height, width)) < 0.3
    for mask in masks[1:4]:
        (x1, x2), (y1, y2) = np.sort(rng.integers(0, width + 1, 2)), np.sort(rng.integers(0, height + 1, 2))
        mask[y1:y2, x1:x2] = 1
    masks[4, -1, -1] = 1
    masks[5] = 1
    return masks


def sizes(count: int, seed: int = 0) -> list[list[int]]:
    return np.random.default_rng(seed).integers(1, 90, (count, 2)).tolist()


@pytest.mark.parametrize("round_sides", [True, False])
def test_resized_as_by_opencv(round_sides):
    """1,000 sizes; among them are sides that stay, and sides that keep their length at a ratio of nearly 1."""
    rng = np.random.default_rng(1)
    for height, width in sizes(1000):
        short = int(rng.choice([min(height, width), 40, 80, 3]))
        scale_y, scale_x = Resize((short,), 133, round_sides, "exclusive").scales((height, width), short)
        scale_y *= rng.choice([1, 1, 1.003, 0.998])
        whole = drawn(rng, height, width)
        expected = [cv2.resize(mask, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_NEAREST) for mask in whole]
        found = CroppedMasks.from_array(whole).resized(scale_y, scale_x, expected[0].shape)
        assert np.array_equal(found.to_array(), expected), (height, width, scale_y, scale_x)


@pytest.mark.parametrize("quarters", range(4))
def test_cut_mirrored_and_turned(quarters):
    rng = np.random.default_rng(quarters)
    for height, width in sizes(100, quarters):
        whole = drawn(rng, height, width)
        masks = CroppedMasks.from_array(whole)
        assert np.array_equal(masks.mirrored().to_array(), whole[:, :, ::-1])
        assert np.array_equal(masks.turned(quarters).to_array(), np.rot90(whole, quarters, axes=(1, 2)))
        left, right = np.sort(rng.integers(0, width + 1, 2)).tolist()
        top, bottom = np.sort(rng.integers(0, height + 1, 2)).tolist()
        inside = masks.mirrored().cut((left, top, right, bottom))
        expected = whole[:, :, ::-1][:, top:bottom, left:right]
        assert inside.size == (bottom - top, right - left) and np.array_equal(inside.to_array(), expected)
        assert np.array_equal(inside.any(), expected.any(axis=(1, 2)))
        chosen = rng.random(7) < 0.5
        assert np.array_equal(inside.some(chosen).turned(1).to_array(), np.rot90(expected[chosen], axes=(1, 2)))


def test_from_run_lengths():
    rng = np.random.default_rng(0)
    for height, width in sizes(50):
        whole = drawn(rng, height, width)
        masks = CroppedMasks.from_rles([encode_mask(mask > 0) for mask in whole], (height, width))
        assert len(masks) == 7 and np.array_equal(masks.to_array(), whole)
    assert CroppedMasks.from_rles([], (5, 6)).to_array().shape == (0, 5, 6)


@pytest.mark.parametrize("masks", [np.zeros((1, 64, 64), bool), np.zeros((64, 64), np.uint8)])
def test_only_uint8_of_three_axes(masks):
    with pytest.raises(ValueError, match=r"masks must be uint8 \[n, h, w\]"):
        CroppedMasks.from_array(masks)


def test_many_small_objects_of_a_large_photo_take_little_memory():
    mask = np.zeros((3000, 4000), bool)
    mask[1500:1510, 2000:2010] = True
    rles = [encode_mask(mask)] * 2000  # 24 GB as whole masks
    tracemalloc.start()
    masks = CroppedMasks.from_rles(rles, (3000, 4000)).resized(0.25, 0.25, (750, 1000)).mirrored()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(masks) == 2000 and peak < 2**24
