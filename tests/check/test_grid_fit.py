"""Grids against instances: the same cells as the training targets, and suggestions by their stated rules."""

import itertools

import numpy as np
import pytest

from ppsolo.check.grid_fit import (
    GRID_CHOICES,
    fit_image,
    join_fits,
    suggest_num_grids,
    suggest_scale_ranges,
    training_sizes,
)
from ppsolo.data.augment import Resize
from ppsolo.data.coco import ImageRecord, decode_mask
from ppsolo.data.masks import CroppedMasks
from ppsolo.data.targets import make_targets

SIZE = (64, 96)
SAME = Resize((64,), 96, round_sides=True, box_convention="exclusive")
DOUBLE = Resize((128,), 192, round_sides=True, box_convention="exclusive")
EVERYTHING = (0.0, 1e4)


def record(boxes) -> ImageRecord:
    """Rectangles, xyxy, as outlines."""
    outlines = tuple((np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float64),) for x1, y1, x2, y2 in boxes)
    return ImageRecord(
        image_id=1,
        path=None,
        size=SIZE,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.zeros(len(boxes), np.int64),
        outlines=outlines,
        annotation_ids=tuple(range(len(boxes))),
        crowds=(),
    )


def test_sizes_at_the_training_scale():
    boxes, sizes = record([[0, 0, 4, 9], [10, 10, 26, 26]]).boxes, np.array([SIZE, SIZE])
    assert training_sizes(boxes, sizes, SAME).tolist() == [6, 16]
    assert training_sizes(boxes, sizes, DOUBLE).tolist() == [12, 32]
    assert training_sizes(boxes[:0], sizes[:0], DOUBLE).tolist() == []


def test_the_later_instance_takes_the_cells():
    """Three squares with one centre, each of one cell, and one that is elsewhere; cells are 16 x 24 pixels."""
    boxes = [[20, 20, 24, 24], [18, 18, 26, 26], [21, 21, 23, 23], [60, 40, 68, 48]]
    fit = fit_image(record(boxes), SAME, num_grids=(4, 4), scale_ranges=(EVERYTHING, (3.0, 5.0)))
    assert fit.assigned.tolist() == [[True, True], [True, False], [True, False], [True, False]]
    assert fit.lost.tolist() == [[True, False], [True, False], [False, False], [False, False]]
    assert fit.areas.tolist() == [16, 64, 4, 64]
    assert fit.drawn_boxes.tolist() == boxes


def test_what_is_left_at_stride_4():
    """A 2 x 2 block is left at stride 4 if it covers middle pixels. An empty mask is assigned to no level."""
    fit = fit_image(
        record([[1, 1, 3, 3], [3, 3, 5, 5], [30, 30, 30, 30]]), SAME, num_grids=(4,), scale_ranges=(EVERYTHING,)
    )
    assert fit.vanished.tolist() == [False, True, True]
    assert fit.areas.tolist() == [4, 4, 0]
    assert fit.assigned.tolist() == [[True], [True], [False]]
    assert fit.drawn_boxes.tolist() == [[1, 1, 3, 3], [3, 3, 5, 5], [0, 0, 0, 0]]


def test_equals_the_training_targets():
    """Training targets with a class for each instance show which instance has which cells."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, [96, 64], (40, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 30, (40, 2))], axis=1).clip(0, [96, 64] * 2).tolist()
    grids, ranges = (5, 8, 3), ((1.0, 24.0), (12.0, 48.0), EVERYTHING)
    drawn = record(boxes)
    masks = np.stack([decode_mask(outline, SIZE) for outline in drawn.outlines])
    cropped = CroppedMasks.from_array(masks)
    targets = make_targets(drawn.boxes, np.arange(40), cropped, SIZE, num_grids=grids, scale_ranges=ranges)
    sizes = training_sizes(drawn.boxes, np.array([SIZE] * 40), SAME)
    in_range = np.array([[low <= size <= high for low, high in ranges] for size in sizes])
    assigned = in_range & masks.any(axis=(1, 2))[:, None]
    owners = np.array([np.isin(np.arange(1, 41), labels) for labels in targets.category_labels]).T
    fit = fit_image(drawn, SAME, num_grids=grids, scale_ranges=ranges)
    assert np.array_equal(fit.assigned, assigned)
    assert np.array_equal(fit.lost, assigned & ~owners)
    assert 3 < fit.lost.sum() < assigned.sum() - 3


def test_join():
    one = fit_image(record([[0, 0, 8, 8]]), SAME, num_grids=(4,), scale_ranges=(EVERYTHING,))
    two = fit_image(record([[0, 0, 4, 4], [8, 8, 20, 20]]), SAME, num_grids=(4,), scale_ranges=(EVERYTHING,))
    both = join_fits([one, two])
    assert both.areas.tolist() == [64, 16, 144]
    assert both.assigned.shape == both.lost.shape == (3, 1)
    assert both.drawn_boxes[2].tolist() == [8, 8, 20, 20]


def test_suggested_ranges_share_the_instances():
    sizes = np.arange(1.0, 602.0)
    ranges = suggest_scale_ranges(sizes, 5, long_side=1333)
    # Quantiles 1/6 .. 5/6 of 1 .. 601 are 101, 201, .. 501.
    assert ranges == ((1, 201), (101, 301), (201, 401), (301, 501), (401, 2048))
    shares = [((sizes >= low) & (sizes <= high)).mean() for low, high in ranges]
    assert shares == pytest.approx([1 / 3] * 5, abs=1 / 601)  # ends count on both sides
    assert suggest_scale_ranges(sizes, 1, long_side=4000) == ((1, 4000),)


def test_suggested_ranges_of_the_published_cuts():
    """With as many instances between any two of the cuts behind the published ranges, these come out."""
    cuts = [1, 48, 96, 192, 384, 768, 2048]
    sizes = np.unique(np.concatenate([np.linspace(a, b, 101) for a, b in itertools.pairwise(cuts)]))
    published = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    assert suggest_scale_ranges(sizes, 5, long_side=1333) == published


def test_suggested_ranges_of_equal_sizes():
    """Cuts stay a pixel apart, so that every range is one, and some range holds everything."""
    ranges = suggest_scale_ranges(np.full(9, 30.0), 3, long_side=100)
    assert ranges == ((1, 31), (30, 32), (31, 2048))
    assert suggest_scale_ranges(np.full(9, 0.2), 2, long_side=100) == ((1, 3), (2, 2048))


def test_suggested_grids():
    """Each of 3 levels has 100 instances. The table says how many it loses with each grid."""
    losses = np.zeros((3, len(GRID_CHOICES)), int)
    losses[0, :3] = 2  # at most 1 of 100 from the fourth choice on
    losses[1] = 5  # never
    losses[1, 4] = 0
    losses[2, :6] = 1
    assigned = np.ones((100, 3, len(GRID_CHOICES)), bool)
    lost = np.arange(100)[:, None, None] < losses
    assert suggest_num_grids(assigned, lost) == (64, 64, 12)
    assert suggest_num_grids(assigned[:, ::2], lost[:, ::2]) == (24, 12)
    losses[2, 5] = 2  # a larger grid that loses more again
    assert suggest_num_grids(assigned[:, ::2], np.arange(100)[:, None, None] < losses[::2]) == (36, 36)
    assert suggest_num_grids(np.zeros_like(assigned), np.zeros_like(lost)) == (12, 12, 12)
