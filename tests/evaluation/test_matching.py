"""Matching against pycocotools' own, decision by decision, and the packing of its outcome."""

from typing import Any

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from ppsolo.evaluation.matching import match_detections, overlaps, pack, unpack
from ppsolo.results.rle import encode_mask

THRESHOLDS = COCOeval(iouType="segm").params.iouThrs
RANGES = np.array(COCOeval(iouType="segm").params.areaRng, float)


def by_pycocotools(ious, crowd, truth_area, area):
    """(matched, ignored) [A, T, D] of one image and category."""
    evaluation: Any = COCOeval(iouType="segm")
    evaluation._gts[1, 1] = [
        {"id": g + 1, "ignore": int(crowd[g]), "iscrowd": int(crowd[g]), "area": truth_area[g]}
        for g in range(len(crowd))
    ]
    evaluation._dts[1, 1] = [{"id": d + 1, "score": -d, "area": area[d]} for d in range(len(area))]
    evaluation.ious = {(1, 1): ious if ious.size else []}
    found = [evaluation.evaluateImg(1, 1, limits, 100) for limits in evaluation.params.areaRng]
    return np.array([e["dtMatches"] > 0 for e in found]), np.array([e["dtIgnore"] for e in found])


def test_overlaps_of_masks_and_boxes():
    mask, half = np.zeros((2, 5, 4), bool)
    mask[1:4, 1:3] = half[1:4, 1] = True
    rle, part = encode_mask(mask), encode_mask(half)
    assert overlaps([part], [rle, rle, part], np.array([False, True, False])).tolist() == [[0.5, 1, 1]]
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 2, 2]])
    assert overlaps(boxes[:1], boxes, np.zeros(2, bool)).tolist() == [[1, 2 / 6]]


@pytest.mark.parametrize("seed", range(60))
def test_matching_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    detections, truths = int(rng.integers(1, 14)), int(rng.integers(0, 9))
    ious = rng.choice([0, 0.3, 0.5, 0.55, 0.7, 0.75, 0.9, 0.95, 1 - 1e-11, 1], (detections, truths))  # many ties
    crowd = rng.random(truths) < 0.3
    truth_area = rng.choice([0, 100, 1024, 5000, 9216, 20000], truths).astype(float)
    area = rng.choice([0, 100, 1024, 5000, 9216, 20000], detections).astype(float)
    matched, ignored = match_detections(
        ious,
        crowd=crowd,
        truth_ignored=crowd | (truth_area < RANGES[:, :1]) | (truth_area > RANGES[:, 1:]),
        detection_outside=(area < RANGES[:, :1]) | (area > RANGES[:, 1:]),
        thresholds=THRESHOLDS,
    )
    expected_matched, expected_ignored = by_pycocotools(ious, crowd, truth_area, area)
    np.testing.assert_array_equal(matched, expected_matched)
    np.testing.assert_array_equal(ignored, expected_ignored)


def test_packing_is_undone_by_unpacking():
    rng = np.random.default_rng(0)
    matched, ignored = rng.random((2, 4, 10, 7)) < 0.5
    rows = pack(matched, ignored, image=3, category=1, score=np.linspace(1, 0, 7))
    assert rows.shape == (7,)
    assert set(rows["image"]) == {3}
    assert set(rows["category"]) == {1}
    np.testing.assert_array_equal(rows["score"], np.linspace(1, 0, 7))
    np.testing.assert_array_equal(unpack(rows["matched"], 10), matched)
    np.testing.assert_array_equal(unpack(rows["ignored"], 10), ignored)
