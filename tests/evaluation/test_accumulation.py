"""Accumulation of matches: the order in which images arrive does not matter, and classes without objects."""

import numpy as np

from ppsolo.evaluation.accumulation import accumulate, per_class
from ppsolo.evaluation.ground_truth import GroundTruth
from ppsolo.evaluation.matching import pack

TRUTH = GroundTruth(
    {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "plate"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 0} for i in (1, 2)
        ],
    }
)
IGNORED = np.array([[False] * 2, [True] * 2, [False] * 2, [True] * 2])  # two objects of medium size


def found(image, score, right):
    """One detection of the first class, matched at every threshold or at none."""
    matched = np.full((4, 10, 1), right)
    return pack(matched, np.zeros_like(matched), image=image, category=0, score=np.array([score]))


def test_a_false_detection_between_two_right_ones():
    rows = [found(0, 0.9, True), found(2, 0.8, False), found(1, 0.7, True)]
    result = accumulate(np.concatenate(rows), TRUTH, IGNORED)
    # precision 1 up to recall 0.5 (51 of 101 steps), then 2 / 3; pycocotools adds a spacing of 1 to the divisor
    expected = (51 + 50 * 2 / 3) / 101
    np.testing.assert_allclose(result.stats[:3], expected, rtol=0, atol=1e-12)
    assert result.stats[3] == result.stats[5] == -1
    assert result.stats[8] == 1
    assert result.precision.shape == (10, 101, 2, 4, 3)
    assert result.recall.shape == (10, 2, 4, 3)

    cup, plate = per_class(result, TRUTH)
    assert (cup["id"], cup["name"], cup["ground_truths"], cup["AR100"]) == (1, "cup", 2, 1)
    assert cup["AP"] == result.stats[0]
    assert plate == {
        "id": 2,
        "name": "plate",
        "ground_truths": 0,
        "AP": None,
        "AP50": None,
        "AP75": None,
        "AR100": None,
    }


def test_ties_are_broken_by_image_not_by_arrival():
    rows = [found(0, 0.5, False), found(1, 0.5, True), found(2, 0.5, False)]
    forward = accumulate(np.concatenate(rows), TRUTH, IGNORED)
    backward = accumulate(np.concatenate(rows[::-1]), TRUTH, IGNORED)
    np.testing.assert_array_equal(forward.precision, backward.precision)
    np.testing.assert_allclose(forward.precision[0, 0, 0, 0, 2], 1 / 2, rtol=0, atol=1e-12)


def test_no_matches_at_all():
    result = accumulate(found(0, 0.5, True)[:0], TRUTH, IGNORED)
    assert result.stats[0] == 0
    assert result.stats[8] == 0
