"""YOLO labels: one line per instance, parts joined."""

import numpy as np
import pytest
from blobs import noise
from found import SIZE, three

from ppsolo.results.instances import Instances
from ppsolo.results.polygons import polygon_iou


def test_a_line_per_instance_that_has_a_pixel():
    lines = three().to_yolo().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "2"]
    values = np.array(lines[0].split()[1:], float).reshape(-1, 2)
    assert sorted((values * [SIZE[1], SIZE[0]]).round(4).tolist()) == [[3, 2], [3, 5], [9, 2], [9, 5]]


@pytest.mark.parametrize("size", [(60, 90), (500, 2000)])
def test_the_ring_draws_the_mask(size):
    masks = noise(3, size, seed=6, spread=4.0) > 0.5
    instances = Instances.from_masks(
        masks, scores=np.ones(3), labels=np.zeros(3, int), class_names=["cell"], category_ids=[1]
    )
    for line, rle in zip(instances.to_yolo().splitlines(), instances.rles, strict=True):
        values = np.array(line.split()[1:], float).reshape(-1, 2)
        assert values.min() >= 0 and values.max() <= 1
        ring = (values * [size[1], size[0]]).ravel().tolist()
        assert polygon_iou([ring], rle) >= 0.99
