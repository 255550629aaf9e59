"""The measurement of large annotation files, on a small one; and the promises of the cache."""

import json

import pytest

from ppsolo.benchmark.annotations import benchmark_annotations
from ppsolo.data.annotations import cache


def test_a_small_file_is_opened_and_weighed(tmp_path, monkeypatch):
    monkeypatch.setenv("PPSOLO_ANNOTATIONS", str(tmp_path / "elsewhere"))
    result = benchmark_annotations(tmp_path, images=30, polygons=200, processes=2)
    content = json.loads((tmp_path / "instances.json").read_text())
    assert (len(content["images"]), len(content["annotations"])) == (30, 200)
    assert result["first"]["instances"] == result["second"]["instances"] == 200
    assert [len(parts) for parts in (*result["ranks"].values(), result["workers"])] == [1, 2, 2]
    assert all(part["pss_mb"] >= part["own_mb"] * 0.9 > 0 for part in result["workers"])
    assert cache.LEAST_BYTES > 0


@pytest.mark.parametrize("count", [1])
def test_drawn_polygons_are_usable(tmp_path, count):
    from ppsolo.benchmark.annotations import draw_annotations
    from ppsolo.data.coco import CocoDataset

    path = draw_annotations(tmp_path, images=count, polygons=20)
    dataset = CocoDataset(path, tmp_path / "images")
    assert dataset.instances == 20 and len(dataset) == 1
