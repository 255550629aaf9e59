"""Resizing of masks against two plain resizes."""

import tracemalloc

import numpy as np
import pytest
from blobs import noise

from ppsolo.results.resize import resize_masks
from ppsolo.results.rle import decode_mask, encode_mask, mask_areas, mask_boxes

# resized, original, cells: every row computed (1st to 4th), straight lines between knots (from the 5th on)
SIZES = [
    ((33, 50), (33, 50), (9, 13)),
    ((33, 50), (21, 31), (10, 14)),
    ((40, 61), (5, 7), (10, 16)),
    ((40, 33), (60, 170), (10, 9)),
    ((40, 33), (171, 40), (10, 9)),
    ((31, 64), (500, 333), (9, 16)),
    ((64, 5), (20000, 10), (16, 2)),
    ((5, 64), (10, 20000), (2, 16)),
    ((32, 32), (1, 1), (8, 8)),
    ((17, 30), (1, 90), (8, 8)),
    ((17, 30), (90, 1), (8, 8)),
    ((1, 1), (1, 1), (1, 1)),
    ((1, 2), (70, 3), (1, 1)),
]


def resize_axis(values: np.ndarray, n_out: int, axis: int) -> np.ndarray:
    """One bilinear resize along one axis, pixel by pixel; positions are float32 as in Paddle, sums float64."""
    n_in = values.shape[axis]
    ratio = np.float32(n_in) / np.float32(n_out) if n_out > 1 else np.float32(0)
    lines = []
    for i in range(n_out):
        position = float(max(ratio * np.float32(i + 0.5) - np.float32(0.5), np.float32(0)))
        low = min(int(position), n_in - 1)
        high = min(low + 1, n_in - 1)
        way = position - low
        lines.append((1 - way) * values.take(low, axis) + way * values.take(high, axis))
    return np.stack(lines, axis)


def resize_twice(probability: np.ndarray, resized, original, stride: int = 4) -> np.ndarray:
    values = probability.astype(np.float64)
    values = resize_axis(resize_axis(values, stride * values.shape[0], 0), stride * values.shape[1], 1)
    values = values[: resized[0], : resized[1]]
    return resize_axis(resize_axis(values, original[0], 0), original[1], 1)


def assert_is_threshold(rle: dict, values: np.ndarray, tolerance: float, threshold: float = 0.5) -> None:
    wrong = decode_mask(rle) != (values > threshold)
    assert np.all(np.abs(values[wrong] - threshold) < tolerance)


@pytest.mark.parametrize(("resized", "original", "cells"), SIZES)
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_resize_is_two_bilinear_resizes(resized, original, cells, spread):
    probabilities = noise(3, cells, seed=1, spread=spread)
    rles = resize_masks(probabilities, resized=resized, original=original)
    for probability, rle in zip(probabilities, rles, strict=True):
        # float32 weights and sums against float64: a few roundings of 6e-8
        assert_is_threshold(rle, resize_twice(probability, resized, original), tolerance=1e-6)
        assert rle == encode_mask(decode_mask(rle))  # pycocotools has the canonical form: no empty runs


@pytest.mark.parametrize(
    ("height", "threshold"), [(15, 1 / 2), (60, 1 / 4), (120, 3 / 8), (240, 5 / 16), (480, 13 / 32), (960, 27 / 64)]
)
def test_ties_at_the_threshold_lie_outside(height, threshold):
    # Zeros and ones, and sizes that make every weight a short binary fraction: both sides are exact, ties included.
    probabilities = (noise(4, (30, 33), seed=2) > 0.5).astype(np.float32)
    probabilities[2:] = probabilities[2:, :, :1]  # like rows: ties are many
    resized, original = (120, 132), (height, 66)
    rles = resize_masks(probabilities, resized=resized, original=original, threshold=threshold)
    ties = 0
    for probability, rle in zip(probabilities, rles, strict=True):
        expected = resize_twice(probability, resized, original)
        ties += np.count_nonzero(expected == threshold)
        assert np.array_equal(decode_mask(rle), expected > threshold)
    assert ties > 100


@pytest.mark.parametrize("original", [(300, 451), (1500, 2000)])
def test_resize_agrees_with_paddle(original):
    import paddle.nn.functional as F
    from paddle import to_tensor

    resized = (253, 380)
    probabilities = noise(2, (64, 96), seed=3, spread=3.0)
    enlarged = F.interpolate(to_tensor(probabilities[None]), scale_factor=4, mode="bilinear", align_mode=0)
    enlarged = enlarged[:, :, : resized[0], : resized[1]]
    values = F.interpolate(enlarged, size=list(original), mode="bilinear", align_mode=0).numpy()[0]
    for value, rle in zip(values, resize_masks(probabilities, resized=resized, original=original), strict=True):
        # Paddle's positions are float32; its compilers round them differently by one unit, 3e-5 of a pixel at 380
        assert_is_threshold(rle, value, tolerance=5e-5)
        assert np.count_nonzero(decode_mask(rle) != (value > 0.5)) < 1e-5 * value.size + 2


@pytest.mark.parametrize(("cells", "original"), [((80, 3), (90, 7)), ((80, 3), (700, 7)), ((3, 80), (7, 700))])
def test_the_rim_of_what_a_mask_reaches(cells, original):
    # One cell at each place in turn, on a ground just below the threshold.
    resized = (4 * cells[0] - 3, 4 * cells[1] - 2)
    for place in range(80):
        probability = np.full(cells, 0.49, np.float32)
        probability[(place, 1) if cells[1] == 3 else (1, place)] = 1.0
        (rle,) = resize_masks(probability[None], resized=resized, original=original)
        assert_is_threshold(rle, resize_twice(probability, resized, original), tolerance=1e-6)


def test_positions_are_rounded_as_published():
    # Steep noise, whose values exact positions would move by up to 1e-4.
    probabilities = noise(1, (60, 1600), seed=9)
    (rle,) = resize_masks(probabilities, resized=(60, 1600), original=(60, 20000), stride=1)
    assert_is_threshold(rle, resize_twice(probabilities[0], (60, 1600), (60, 20000), stride=1), tolerance=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
@pytest.mark.parametrize("original", [(20, 22), (300, 60)])
def test_other_strides_and_thresholds(stride, original):
    probabilities = noise(2, (9, 8), seed=4)
    resized = (9 * stride - stride // 2, 8 * stride)
    rles = resize_masks(probabilities, resized=resized, original=original, threshold=0.3, stride=stride)
    for probability, rle in zip(probabilities, rles, strict=True):
        assert_is_threshold(rle, resize_twice(probability, resized, original, stride), 1e-6, threshold=0.3)


@pytest.mark.parametrize("original", [(50, 60), (500, 60)])
def test_threshold_is_strict(original):
    flat = np.stack([np.full((8, 8), value, np.float32) for value in (0.5, 1.0, 0.0, 0.5)])
    flat[3, 4, 4] = 0.9
    equal, full, empty, spot = resize_masks(flat, resized=(30, 29), original=original)
    assert mask_areas([equal, full, empty]).tolist() == [0, original[0] * original[1], 0]
    assert full == encode_mask(np.ones(original, bool))
    assert empty == encode_mask(np.zeros(original, bool))
    x1, y1, x2, y2 = mask_boxes([spot])[0]
    # only what the one cell reaches: it spans 16 .. 20 of 30, and a cell more on either side
    assert y1 >= 11 / 30 * original[0] and y2 <= 25 / 30 * original[0]
    assert x1 >= 11 / 29 * original[1] and x2 <= 25 / 29 * original[1]


def test_masks_in_the_padding_only_are_empty():
    probabilities = np.zeros((2, 16, 16), np.float32)
    probabilities[0, 12:] = 1
    probabilities[1, :, 12:] = 1
    for original in [(70, 70), (300, 300)]:
        rles = resize_masks(probabilities, resized=(20, 20), original=original)
        assert mask_areas(rles).tolist() == [0, 0]
        assert mask_boxes(rles).tolist() == [[0] * 4] * 2


def test_each_mask_is_resized_alone_and_none_is_fine():
    probabilities = noise(5, (12, 10), seed=5, spread=1.0)
    together, *alone = (
        resize_masks(some, resized=(47, 40), original=(90, 75))
        for some in (probabilities, *np.split(probabilities, 5), probabilities[:0])
    )
    assert together == [rle for part in alone for rle in part]
    assert len(together) == 5 and alone[-1] == []


@pytest.mark.parametrize(
    ("shape", "resized", "original", "stride"),
    [
        ((8, 8), (32, 32), (9, 9), 4),
        ((1, 8, 8), (33, 32), (9, 9), 4),
        ((1, 8, 8), (32, 0), (9, 9), 4),
        ((1, 8, 8), (32, 32), (0, 9), 4),
        ((1, 8, 8), (32, 32), (9, 9), 0),
    ],
)
def test_wrong_sizes_are_refused(shape, resized, original, stride):
    with pytest.raises(ValueError, match="must"):
        resize_masks(np.zeros(shape, np.float32), resized=resized, original=original, stride=stride)


def test_memory_is_bounded_by_one_mask():
    probabilities = noise(12, (50, 67), seed=6, spread=6.0)
    tracemalloc.start()
    rles = resize_masks(probabilities, resized=(200, 267), original=(3000, 4000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rles) == 12
    assert peak < 12_000_000  # bytes: less than one mask of bool at the full size, of twelve
