"""Run-length masks: the three forms of COCO, and everything that is not one of them."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from ppsolo.engine.rle import (
    decode_transposed,
    mask_areas,
    mask_boxes,
    overlaps,
    read_segmentation,
    run_lengths,
)

coco_mask: Any = pycocotools_mask  # its type stubs know only some of the forms that it takes

SIZE = (5, 4)
MASK = np.zeros(SIZE, bool)
MASK[1:4, 1:3] = True  # columns of 5: runs of 6, 3, 2, 3, 6
RUNS = [6, 3, 2, 3, 6]
COMPRESSED = coco_mask.encode(np.asfortranarray(MASK.astype(np.uint8)))["counts"]


@pytest.mark.parametrize("counts", [RUNS, COMPRESSED, COMPRESSED.decode()], ids=["plain", "bytes", "str"])
def test_run_lengths_of_either_kind_are_read(counts):
    rle = read_segmentation({"size": list(SIZE), "counts": counts}, SIZE)
    assert rle == {"size": list(SIZE), "counts": COMPRESSED}
    np.testing.assert_array_equal(decode_transposed(rle).T, MASK)


def test_polygons_are_merged():
    squares = [[0, 0, 2, 0, 2, 2, 0, 2], [2, 3, 4, 3, 4, 5, 2, 5]]
    mask = decode_transposed(read_segmentation(squares, SIZE)).T
    expected = np.zeros(SIZE)
    expected[:2, :2] = expected[3:, 2:] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("seed", range(20))
def test_compressed_runs_are_unpacked_as_pycocotools_packs_them(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 400, 2)
    mask = rng.random(size) < rng.choice([0, 0.001, 0.5, 0.999, 1])
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    assert run_lengths(rle["counts"]).tolist() == np.diff([0, *edges, flat.size]).tolist()
    np.testing.assert_array_equal(decode_transposed(rle).T, mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ("mask", "neither a list of polygons nor a mapping"),
        (None, "neither a list of polygons nor a mapping"),
        ({"counts": RUNS}, "neither a list of polygons nor a mapping"),
        ({"size": [4, 5], "counts": RUNS}, r"size \(height, width\) is \[4, 5\], the image's \[5, 4\]"),
        ({"size": 20, "counts": RUNS}, "size"),
        ({"size": [5, 4], "counts": [6, 3]}, "do not add up to the image's 20 pixels"),
        ({"size": [5, 4], "counts": [6, -3, 17]}, "not all whole numbers"),
        ({"size": [5, 4], "counts": [6.0, 14]}, "not all whole numbers"),
        ({"size": [5, 4], "counts": 7}, "neither a list of run lengths nor a string"),
        ({"size": [5, 4], "counts": ""}, "broken"),
        ({"size": [5, 4], "counts": "63236"[:-1]}, "do not add up"),
        ({"size": [5, 4], "counts": COMPRESSED[:-1] + b"P"}, "broken"),  # says that another character follows
        ({"size": [5, 4], "counts": "6 3"}, "broken"),
        ({"size": [5, 4], "counts": "6ä"}, "broken"),
        ({"size": [5, 4], "counts": "P" * 9 + "0"}, "broken"),
        ([], "empty list of polygons"),
        ([[1, 1, 3, 3]], "at least three points"),
        ([[1, 1, 3, 3, 2]], "at least three points"),
        ([1, 1, 3, 3, 2, 2], "at least three points"),
        ([[1, 1, 3, 3, 2, float("nan")]], "not a sensible number"),
        ([[1, 1, 3, 3, 2, 1e12]], "not a sensible number"),
        ([[1, 1, 3, 3, 2, "2"]], "not a sensible number"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        read_segmentation(segmentation, SIZE)


def test_measures_of_masks():
    empty = read_segmentation({"size": list(SIZE), "counts": [20]}, SIZE)
    rle = read_segmentation({"size": list(SIZE), "counts": RUNS}, SIZE)
    assert mask_areas([rle, empty]).tolist() == [6, 0]
    assert mask_boxes([rle, empty]).tolist() == [[1, 1, 2, 3], [0, 0, 0, 0]]
    half = read_segmentation([[1, 1, 2, 1, 2, 4, 1, 4]], SIZE)
    assert overlaps([half], [rle, rle, half], np.array([False, True, False])).tolist() == [[0.5, 1, 1]]
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 2, 2]])
    assert overlaps(boxes[:1], boxes, np.zeros(2, bool)).tolist() == [[1, 2 / 6]]
