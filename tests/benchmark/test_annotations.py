"""The measurement of large annotation files, on a small one; and the promises of the cache."""

import json

import pytest

from ppsolo.benchmark import annotations
from ppsolo.benchmark.annotations import benchmark_annotations, draw_annotations
from ppsolo.data.annotations import cache
from ppsolo.data.coco import CocoDataset


def test_a_small_file_is_opened_and_weighed(tmp_path, monkeypatch):
    monkeypatch.setenv("PPSOLO_ANNOTATIONS", str(tmp_path / "elsewhere"))
    result = benchmark_annotations(tmp_path, images=30, polygons=200, processes=2)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text())
    assert (len(content["images"]), len(content["annotations"])) == (30, 200)
    evaluation = ("evaluation_first", "evaluation_second", "evaluation", "results")
    parts = ("first", "second", "check", *evaluation)
    assert [result[name]["instances"] for name in parts] == [200] * 7
    assert [result[name]["records"] for name in parts] == [len(CocoDataset(path, tmp_path / "images")), *[30] * 6]
    assert result["results"]["detections"] == 30 * annotations.DETECTIONS
    assert 0 < result["results"]["add_cpu_seconds"] < result["results"]["cpu_seconds"]
    assert [len(parts) for parts in (*result["ranks"].values(), result["workers"])] == [1, 2, 2]
    assert all(part["pss_mb"] >= part["own_mb"] * 0.9 > 0 for part in result["workers"])
    assert cache.LEAST_BYTES > 0


@pytest.mark.parametrize("count", [1])
def test_drawn_polygons_are_usable(tmp_path, count):
    path = draw_annotations(tmp_path, images=count, polygons=20)
    dataset = CocoDataset(path, tmp_path / "images")
    assert dataset.instances == 20 and len(dataset) == 1
