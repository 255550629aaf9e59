"""A mosaic keeps every annotation, and all that is found in it counts."""

import numpy as np

from ppsolo.benchmark.mosaic import make_mosaic
from ppsolo.data.synthetic import draw_dataset
from ppsolo.results.instances import Instances


def test_pictures_come_again_and_more_than_a_hundred_objects_count(tmp_path):
    draw_dataset(tmp_path, train=0, val=5, size=(64, 64), seed=3)
    mosaic = make_mosaic(tmp_path / "instances_val.json", tmp_path / "val", rows=9, columns=10)
    assert mosaic.image.shape == (576, 640, 3) and mosaic.cell == (64, 64)
    np.testing.assert_array_equal(mosaic.image[:64, :64], mosaic.image[:64, 320:384])  # the sixth is the first
    real = [entry for entry in mosaic.content["annotations"] if not entry["iscrowd"]]
    assert len({entry["id"] for entry in mosaic.content["annotations"]}) == len(mosaic.content["annotations"])
    categories = [entry["id"] for entry in mosaic.content["categories"]]
    labels = np.array([categories.index(entry["category_id"]) for entry in real])
    assert np.bincount(labels).max() > 100
    rles = [
        {"size": list(mosaic.image.shape[:2]), "counts": entry["segmentation"]["counts"].encode()} for entry in real
    ]
    truth = Instances(
        rles=rles,
        scores=np.linspace(0.9, 0.1, len(real), dtype=np.float32),
        labels=labels,
        size=mosaic.image.shape[:2],
        class_names=["a"] * len(categories),
        category_ids=categories,
    )
    assert mosaic.average_precision(truth) == 1.0


def test_objects_that_their_own_picture_cuts_can_be_left_out(tmp_path):
    draw_dataset(tmp_path, train=0, val=12, size=(64, 64), seed=3)
    files = (tmp_path / "instances_val.json", tmp_path / "val")
    every, whole = (make_mosaic(*files, rows=3, columns=4, ignore_cut=cut).content for cut in (False, True))
    left_out = 0
    for before, after in zip(every["annotations"], whole["annotations"], strict=True):
        x, y, w, h = before["bbox"]
        at_an_edge = x % 64 < 1 or y % 64 < 1 or (x + w) % 64 == 0 or (y + h) % 64 == 0
        assert after["iscrowd"] == int(at_an_edge or before["iscrowd"])
        left_out += after["iscrowd"] - before["iscrowd"]
    assert 0 < left_out < len(every["annotations"])
