"""Run lengths: the three forms of COCO against pycocotools, and everything that is not one of them."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from ppsolo.results.rle import (
    MAX_COORDINATE,
    decode_mask,
    decode_masks,
    decode_window,
    encode_mask,
    encode_runs,
    mask_areas,
    mask_boxes,
    mask_boxes_xywh,
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
    np.testing.assert_array_equal(decode_mask(rle), MASK)


def test_polygons_are_merged():
    squares = [[0, 0, 2, 0, 2, 2, 0, 2], [2, 3, 4, 3, 4, 5, 2, 5]]
    mask = decode_mask(read_segmentation(squares, SIZE))
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
    assert run_lengths(rle).tolist() == np.diff([0, *edges, flat.size]).tolist()
    np.testing.assert_array_equal(decode_mask(rle), mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ("mask", "neither a list of polygons nor a mapping"),
        (None, "neither a list of polygons nor a mapping"),
        ({"counts": RUNS}, "neither a list of polygons nor a mapping"),
        ({"size": [4, 5], "counts": RUNS}, r"size \(height, width\) is \[4, 5\], but the image's \[5, 4\]"),
        ({"size": 20, "counts": RUNS}, "size"),
        ({"size": [5, 4], "counts": [6, 3]}, "add up to 9, not to 5 x 4 pixels"),
        ({"size": [5, 4], "counts": [6, -3, 17]}, "not all integers"),
        ({"size": [5, 4], "counts": [6.0, 14]}, "not all integers"),
        ({"size": [5, 4], "counts": 7}, "neither a list nor a string"),
        ({"size": [5, 4], "counts": ""}, "cannot be read"),
        ({"size": [5, 4], "counts": "63236"[:-1]}, "add up to"),
        ({"size": [5, 4], "counts": COMPRESSED[:-1] + b"P"}, "cannot be read"),  # says that another character follows
        ({"size": [5, 4], "counts": "6 3"}, "cannot be read"),
        ({"size": [5, 4], "counts": "6ä"}, "cannot be read"),
        ({"size": [5, 4], "counts": "P" * 9 + "0"}, "cannot be read"),
        ([], "empty list of polygons"),
        ([[1, 1, 3, 3]], "has 4 numbers"),
        ([[1, 1, 3, 3, 2]], "has 5 numbers"),
        ([1, 1, 3, 3, 2, 2], "not a list of numbers"),
        ([[1, 1, 3, 3, 2, float("nan")]], "a coordinate that is not finite"),
        ([[1, 1, 3, 3, 2, 1.01 * MAX_COORDINATE]], "or far outside"),
        ([[1, 1, 3, 3, 2, -(2**63)]], "or far outside"),
        ([[1, 1, 3, 3, 2, 10**40]], "not a list of numbers"),
        ([[1, 1, 3, 3, 2, None]], "not a list of numbers"),
        ([[1, 1, 3, 3, 2, [2]]], "not a list of numbers"),
        ([[1, 1, 3, 3, 2, "2"]], "not a list of numbers"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        read_segmentation(segmentation, SIZE)


def test_run_lengths_and_windows_are_those_of_pycocotools():
    generator = np.random.default_rng(7)
    for _ in range(100):
        height, width = generator.integers(1, 60, 2).tolist()
        mask = generator.random((height, width)) < generator.random()
        rle = encode_mask(mask)
        lengths = run_lengths(rle)
        assert encode_runs(lengths, (height, width)) == rle
        assert np.array_equal(run_lengths({**rle, "counts": rle["counts"].decode()}), lengths)
        assert np.array_equal(decode_mask(rle), mask)
        x1, x2 = np.sort(generator.integers(0, width + 1, 2)).tolist()
        y1, y2 = np.sort(generator.integers(0, height + 1, 2)).tolist()
        assert np.array_equal(decode_window(rle, (x1, y1, x2, y2)), mask[y1:y2, x1:x2])


def test_run_lengths_of_long_runs():
    mask = np.zeros((3000, 1000), bool)
    mask[17:2900, 400] = mask[:, 700:] = True
    assert run_lengths(encode_mask(mask)).tolist() == [1_200_017, 2883, 100 + 299 * 3000, 300 * 3000]


def test_boxes_and_areas():
    masks = np.zeros((4, 6, 9), bool)
    masks[0, 2, 3] = True
    masks[1] = True
    masks[2, 1:3, 4:8] = masks[2, 5, 4] = True
    rles = [encode_mask(mask) for mask in masks]
    assert mask_boxes(rles).tolist() == [[3, 2, 4, 3], [0, 0, 9, 6], [4, 1, 8, 6], [0, 0, 0, 0]]
    assert mask_boxes_xywh(rles).tolist() == [[3, 2, 1, 1], [0, 0, 9, 6], [4, 1, 4, 5], [0, 0, 0, 0]]
    assert mask_areas(rles).tolist() == [1, 54, 9, 0]
    assert mask_boxes(rles).dtype == np.float32 and mask_boxes([]).shape == (0, 4)
    assert mask_boxes_xywh(rles).dtype == np.float64 and mask_boxes_xywh([]).shape == (0, 4)
    assert mask_areas(rles).dtype == np.int64 and mask_areas([]).shape == (0,)


def test_recorded_masks_are_read(reference):
    recorded = np.load(reference / "golden" / "static__solov2_light_r50_vd_fpn_dcn_512_3x__seed1__000000331352.npz")
    size, areas = recorded["mask_hw"].tolist(), recorded["area"].tolist()
    rles = [{"size": size, "counts": str(counts)} for counts in recorded["rle"]]
    assert [run_lengths(rle)[1::2].sum() for rle in rles] == areas
    assert [np.count_nonzero(decode_mask(rle)) for rle in rles] == areas
    assert mask_areas(rles).tolist() == areas


def test_an_outline_or_image_beyond_bounds_is_refused():
    """pycocotools would take gigabytes, or divide by a height of 2**32."""
    zigzag = [value for i in range(100) for value in ((-1) ** i * 9e4, (-1) ** i * 9e4)]
    with pytest.raises(ValueError, match="outline is longer"):
        read_segmentation([zigzag], (10, 10))
    with pytest.raises(ValueError, match="pixels"):
        read_segmentation([[1, 1, 5, 1, 5, 5]], (2**32, 12))


def test_masks_of_one_size_are_decoded_together():
    masks = np.random.default_rng(0).random((3, 7, 5)) < 0.4
    decoded = decode_masks([encode_mask(mask) for mask in masks], (7, 5))
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, masks)
    assert decode_masks([], (7, 5)).shape == (0, 7, 5)


@pytest.mark.parametrize("runs", [[20, 0], [10, 0, 10], [19, 0, 1], [0, 0, 20], [20]])
def test_an_empty_mask_may_have_runs_of_nothing(runs):
    rle = read_segmentation({"size": [4, 5], "counts": runs}, (4, 5))
    assert not mask_boxes([rle]).any() and not decode_masks([rle], (4, 5)).any()


def test_areas_and_boxes_of_more_masks_than_a_byte_counts():
    masks = [np.full((2, i + 1), True) for i in range(600)]
    rles = [encode_mask(mask) for mask in masks]
    assert mask_areas(rles).tolist() == [2 * (i + 1) for i in range(600)]
    assert mask_boxes(rles)[:, 2].tolist() == list(range(1, 601))
