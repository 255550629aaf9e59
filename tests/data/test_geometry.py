"""Sizes: training and prediction scale an image alike, and sides are rounded up."""

import numpy as np
import pytest

from ppsolo.data.augment import Resize
from ppsolo.data.geometry import padded_shape, round_up, scale_ratios
from ppsolo.data.preprocess import Preprocess
from ppsolo.data.sample import TrainingSample


@pytest.mark.parametrize("round_sides", [True, False])
def test_training_and_prediction_scale_alike(round_sides):
    rng = np.random.default_rng(0)
    prepare = Preprocess(short_side=80, long_side=133, round_sides=round_sides)
    resize = Resize((80,), 133, round_sides, "exclusive")
    for height, width in rng.integers(1, 300, (200, 2)).tolist():
        if max(height, width) > 60 * min(height, width):
            continue  # a side of less than one pixel, where the published recipes differ
        image = np.zeros((height, width, 3), np.uint8)
        empty = np.zeros((0, height, width), np.uint8)
        sample = TrainingSample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), empty, 1, (height, width))
        chw, size = prepare(image)
        assert size.padded == chw.shape[1:] == padded_shape([resize.apply(sample, 80).size])


def test_the_shorter_side_decides_unless_the_longer_one_is_too_long():
    assert scale_ratios((100, 150), 200, 1000, round_sides=False) == (2, 2)
    assert scale_ratios((100, 1000), 200, 1000, round_sides=False) == (1, 1)
    vertical, horizontal = scale_ratios((101, 333), 50, 1000, round_sides=True)
    assert (vertical * 101, horizontal * 333) == pytest.approx((50, 165))
    assert scale_ratios((1, 4000), 50, 100, round_sides=True)[0] == 1


def test_sides_are_rounded_up():
    assert [round_up(side) for side in (1, 32, 33, 64)] == [32, 32, 64, 64]
    assert round_up(5, 4) == 8
    assert padded_shape([(10, 70), (40, 20)]) == (64, 96)
