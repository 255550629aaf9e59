"""Thresholds per class: the best F1 by trying every cut, a precision asked for, the file, and its use."""

import dataclasses
import json
import os

import numpy as np
import pytest

from ppsolo import load_config
from ppsolo.errors import ConfigError
from ppsolo.evaluation.coco_evaluator import CocoEvaluator
from ppsolo.evaluation.thresholds import (
    best_threshold,
    find_thresholds,
    format_thresholds,
    read_thresholds,
    with_thresholds,
    write_thresholds,
)


def slow_f1(scores, true, truths, threshold):
    taken = scores >= threshold
    return 2 * true[taken].sum() / (taken.sum() + truths)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_f1_is_that_of_every_threshold_tried(seed):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(60), 2 if seed % 2 else 6)  # half of them with ties
    true = rng.random(60) < scores
    found = best_threshold(scores, true, 70)
    tried = [slow_f1(scores, true, 70, threshold) for threshold in np.linspace(0, 1, 2001)]
    assert found["f1"] >= max(tried) - 1e-12
    assert slow_f1(scores, true, 70, found["threshold"]) == pytest.approx(found["f1"], abs=1e-12)


def test_a_precision_is_reached_with_the_most_recall():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    true = np.array([True, False, True, True, False])
    found = best_threshold(scores, true, 4, precision=0.75)
    assert 0.5 < found["threshold"] <= 0.6 and found["precision"] == 0.75 and found["recall"] == 0.75
    none = best_threshold(scores[1:2], true[1:2], 4, precision=0.5)
    assert none["threshold"] == 1.0 and none["recall"] == 0.0
    assert best_threshold(np.zeros(0), np.zeros(0, bool), 3)["threshold"] == 1.0


def evaluated(annotations, results):
    evaluator = CocoEvaluator(annotations, iou_types=["segm"])
    evaluator.update(results)
    return evaluator.state().matches["segm"], evaluator.summarize()["segm"]["per_class"]


def square(x, size=20):
    return [[x, 0, x + size, 0, x + size, size, x, size]]


ANNOTATIONS = {
    "images": [{"id": 1, "height": 40, "width": 200}],
    "categories": [{"id": 7, "name": "a"}, {"id": 9, "name": "b"}],
    "annotations": [
        {
            "id": i,
            "image_id": 1,
            "category_id": 7,
            "iscrowd": 0,
            "area": 400,
            "bbox": [x, 0, 20, 20],
            "segmentation": square(x),
        }
        for i, x in ((1, 0), (2, 50))
    ],
}
RESULTS = [
    {"image_id": 1, "category_id": 7, "score": score, "segmentation": square(x)}
    for score, x in ((0.9, 0), (0.6, 50), (0.4, 120), (0.2, 150))
]


def test_matches_of_an_evaluation_give_thresholds(tmp_path, tiny):
    matches, classes = evaluated(ANNOTATIONS, RESULTS)
    a, b = find_thresholds(matches, classes)
    assert (a.threshold, a.precision, a.recall, a.f1) == (0.5, 1.0, 1.0, 1.0)
    assert (b.threshold, b.f1, b.ground_truths) == (0.5, None, 0)
    assert "a " in format_thresholds([a, b]) and "-" in format_thresholds([b])
    write_thresholds([a, b], tmp_path / "t.json", source={"annotations": "x.json"})
    assert read_thresholds(tmp_path / "t.json") == {7: 0.5, 9: 0.5}

    config = load_config("solov2_r50_fpn_1x", {**tiny, "num_classes": 2, "category_ids": [9, 7]})
    changed = json.loads((tmp_path / "t.json").read_text())
    changed["class_thresholds"][1]["threshold"] = 0.25
    (tmp_path / "t.json").write_text(json.dumps(changed))
    assert with_thresholds(config, tmp_path / "t.json").postprocess.class_thresholds == (0.25, 0.5)
    with pytest.raises(ConfigError, match="category 3"):
        with_thresholds(dataclasses.replace(config, category_ids=(9, 3)), tmp_path / "t.json")


def test_another_name_of_a_class_is_noted(tmp_path, tiny):
    file = tmp_path / "t.json"
    classes = ((1, "cat"), (2, "dog"), (3, "b"))
    entries = [{"category_id": number, "threshold": 0.5, "name": name} for number, name in classes]
    file.write_text(json.dumps({"class_thresholds": entries}))
    for names, lines in ((("cat", "dog", "b"), 0), ((), 0), (("cat", "fox", "x"), 1)):
        notes: list[str] = []
        config = dataclasses.replace(load_config("solov2_r50_fpn_1x", tiny), class_names=names, category_ids=(1, 2, 3))
        assert with_thresholds(config, file, note=notes.append).postprocess.class_thresholds == (0.5,) * 3
        assert len(notes) == lines and all("category 2 is 'dog' there and 'fox'" in note for note in notes)


@pytest.mark.parametrize("options", [{"precision": 0.0}, {"precision": 1.5}])
def test_what_means_nothing_is_refused(options):
    matches, classes = evaluated(ANNOTATIONS, RESULTS)
    with pytest.raises(ConfigError):
        find_thresholds(matches, classes, **options)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"class_thresholds": [{"category_id": 1}]}',
        '{"class_thresholds": 3}',
        '{"class_thresholds": [{"category_id": 1, "threshold": 1.5}]}',
        '{"class_thresholds": [{"category_id": 1, "threshold": NaN}]}',
    ],
)
def test_a_file_without_thresholds_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ConfigError, match=r"t\.json"):
        read_thresholds(tmp_path / "t.json")
    with pytest.raises(ConfigError, match="gone"):
        read_thresholds(tmp_path / "gone.json")


def test_instances_below_the_threshold_of_their_class_are_left_out(tiny):
    from ppsolo import Predictor, build_model

    config = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.update_threshold": 0.0})
    predictor = Predictor(config, model=build_model(config))
    from ppsolo.results.postprocess import DetectionArrays

    found = DetectionArrays(
        np.array([0.9, 0.5, 0.4, 0.3], np.float32),
        np.array([0, 1, 1, 2]),
        np.ones((4, 16, 24), np.float32),
        np.array([4]),
    )
    _, size = predictor.prepare(np.zeros((64, 96, 3), np.uint8))
    assert len(predictor.finish(found, size)) == 4
    thresholds = dataclasses.replace(config.postprocess, class_thresholds=(0.95, 0.45, 0.0))
    other = predictor.adapted(dataclasses.replace(config, postprocess=thresholds))
    assert other.finish(found, size).scores.tolist() == pytest.approx([0.5, 0.3])
    assert len(predictor.finish(found, size)) == 4


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device that never ends")
def test_a_device_that_never_ends_is_too_large():
    with pytest.raises(ConfigError, match="/dev/zero is too large"):
        read_thresholds("/dev/zero")
