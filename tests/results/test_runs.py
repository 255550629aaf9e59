"""Runs of pixels answer as arrays do."""

import numpy as np
import pytest

from ppsolo.results.rle import decode_mask, encode_mask
from ppsolo.results.runs import bounding_box, cut, cut_out, from_rle, move, shared_area, to_rle, union


def masks(count: int):
    random = np.random.default_rng(0)
    for _ in range(count):
        height, width = random.integers(1, 12, 2)
        shares = random.choice([0.0, 0.2, 0.5, 0.9, 1.0])
        yield random, random.random((height, width)) < shares


def test_back_and_forth():
    for _, mask in masks(300):
        runs = from_rle(encode_mask(mask))
        assert runs.area == mask.sum() and (runs.ends > runs.starts).all() and (runs.starts[1:] > runs.ends[:-1]).all()
        assert to_rle(runs, mask.shape) == encode_mask(mask)


def test_moved_into_a_larger_picture():
    for random, mask in masks(300):
        top, left, below, right = random.integers(0, 5, 4)
        picture = np.pad(mask, ((top, below), (left, right)))
        moved = move(from_rle(encode_mask(mask)), height=len(mask), to_height=len(picture), top=top, left=left)
        np.testing.assert_array_equal(decode_mask(to_rle(moved, picture.shape)), picture)


def test_cut_by_a_box():
    for random, mask in masks(300):
        y1, y2 = sorted(random.integers(0, mask.shape[0] + 1, 2))
        x1, x2 = sorted(random.integers(0, mask.shape[1] + 1, 2))
        expected = np.zeros_like(mask)
        expected[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
        found = cut(from_rle(encode_mask(mask)), (y1, x1, y2, x2), height=len(mask))
        np.testing.assert_array_equal(decode_mask(to_rle(found, mask.shape)), expected)
        rest = cut_out(from_rle(encode_mask(mask)), (y1, x1, y2, x2), height=len(mask))
        np.testing.assert_array_equal(decode_mask(to_rle(rest, mask.shape)), mask & ~expected)
        assert (rest.ends > rest.starts).all()


def test_union_and_shared_area():
    for random, mask in masks(300):
        other = random.random(mask.shape) < 0.4
        one, two = from_rle(encode_mask(mask)), from_rle(encode_mask(other))
        np.testing.assert_array_equal(decode_mask(to_rle(union([one, two]), mask.shape)), mask | other)
        assert shared_area(one, two) == (mask & other).sum()


@pytest.mark.parametrize("empty", [True, False])
def test_bounding_box(empty):
    for _, mask in masks(100):
        if mask.any() == empty:
            continue
        rows, columns = np.nonzero(mask)
        expected = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) if not empty else (0, 0, 0, 0)
        assert bounding_box(from_rle(encode_mask(mask)), height=len(mask)) == expected
