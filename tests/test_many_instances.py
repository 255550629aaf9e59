"""Pictures with 255, 256, 1000 and 10000 instances: in training, evaluation, drawing and results."""

import json

import cv2
import numpy as np
import pytest

from ppsolo.check.dataset import check_dataset
from ppsolo.data.coco import CocoDataset, load_sample
from ppsolo.data.loader import padded_size
from ppsolo.data.targets import make_targets
from ppsolo.evaluation.coco_evaluator import CocoEvaluator, evaluate_results
from ppsolo.evaluation.evaluate import EvaluationSet
from ppsolo.results.instances import Instances
from ppsolo.results.rle import decode_masks, draw_polygons, encode_mask, mask_areas, mask_boxes, mask_boxes_xywh

SIDE = 128
COUNTS = (255, 256, 1000, 10_000)
GRIDS = {"num_grids": (40, 36), "scale_ranges": ((1, 64), (32, 2048))}


def squares(count: int) -> list[list[float]]:
    """Corners of squares of 3 pixels, at other places each but overlapping: left, top."""
    rng = np.random.default_rng(count)
    return rng.integers(0, SIDE - 3, (count, 2)).astype(float).tolist()


def ring(left: float, top: float) -> list[float]:
    return [left, top, left + 3, top, left + 3, top + 3, left, top + 3]


@pytest.fixture(scope="module", params=COUNTS)
def made(request, tmp_path_factory):
    """-> (annotation file, image folder, its content)"""
    folder = tmp_path_factory.mktemp(f"many{request.param}")
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "1.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    annotations = []
    for number, (left, top) in enumerate(squares(request.param), start=1):
        segmentation = [ring(left, top)]
        entry = {"id": number, "image_id": 1, "category_id": 1 + number % 2, "segmentation": segmentation, "iscrowd": 0}
        # A part without area and bbox: there they are computed from the masks.
        annotations.append(entry | ({"area": 9.0, "bbox": [left, top, 3, 3]} if number % 3 else {}))
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": SIDE, "width": SIDE}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "even"}, {"id": 2, "name": "odd"}],
    }
    (folder / "set.json").write_text(json.dumps(content))
    return folder / "set.json", folder / "images", content


def test_training_and_check_data(made):
    path, folder, content = made
    count = len(content["annotations"])
    sample = load_sample(CocoDataset(path, folder)[0])
    masks = sample.masks.to_array()
    assert masks.shape == (count, SIDE, SIDE) and (masks.sum(axis=(1, 2), dtype=np.int64) == 9).all()
    targets = make_targets(
        sample.boxes, sample.labels, sample.masks, padded_size([sample]), **GRIDS, sampling_radius=0.2
    )
    assert len(targets.mask_index) > 0 and targets.mask_index.max() < count
    report = check_dataset(path, folder, short_side=SIDE, long_side=SIDE, **GRIDS)
    assert report.instances == count and not [p for p in report.problems if p.severity == "error"]


def test_evaluation(made):
    path, folder, content = made
    truth = EvaluationSet(path, folder).truth
    assert (truth.area == 9).all() and len(truth.masks(truth.rows(0))) == len(content["annotations"])
    results = [
        {
            "image_id": 1,
            "category_id": entry["category_id"],
            "segmentation": entry["segmentation"],
            "score": 1 / entry["id"],
        }
        for entry in content["annotations"]
    ]
    report = evaluate_results(path, results)
    found = min(1.0, 200 / len(results))  # at most 100 of each class count
    for kind in ("segm", "bbox"):
        assert report[kind]["stats"][8] == pytest.approx(found, abs=0.03)
    assert report["detections"] == report["ground_truths"] == len(results)


def test_one_call_for_all_masks_of_a_picture(made):
    content = made[2]
    size = (SIDE, SIDE)
    rles = [draw_polygons([np.array(entry["segmentation"][0])], size) for entry in content["annotations"]]
    corners = np.array(squares(len(rles)))
    assert (mask_areas(rles) == 9).all()
    assert np.array_equal(mask_boxes(rles), np.concatenate([corners, corners + 3], axis=1).astype(np.float32))
    assert np.array_equal(mask_boxes_xywh(rles)[:, :2], corners)
    assert (decode_masks(rles, size).sum(axis=(1, 2), dtype=np.int64) == 9).all()
    # Parts of one outline are merged in one call too.
    merged = draw_polygons([np.array(entry["segmentation"][0]) for entry in content["annotations"]], size)
    assert merged["counts"] == encode_mask(decode_masks(rles, size).any(axis=0))["counts"]


def test_drawing_and_results(made):
    content = made[2]
    count = len(content["annotations"])
    rles = [draw_polygons([np.array(entry["segmentation"][0])], (SIDE, SIDE)) for entry in content["annotations"]]
    instances = Instances(
        rles=rles,
        scores=np.linspace(1, 0.5, count, dtype=np.float32),
        labels=np.arange(count) % 2,
        size=(SIDE, SIDE),
        class_names=("even", "odd"),
        category_ids=(1, 2),
    )
    assert (instances.areas == 9).all() and instances.boxes.shape == (count, 4)
    assert instances.draw(np.zeros((SIDE, SIDE, 3), np.uint8)).any()
    entries = instances.to_coco(1)
    assert len(entries) == count and all(entry["bbox"][2:] == [3, 3] for entry in entries)
    assert len(instances.to_yolo().splitlines()) == count
    assert len(instances.to_geojson()["features"]) == count
    labels = instances.to_label_map()
    assert labels.max() <= count and labels.dtype == (np.uint8 if count <= 255 else np.uint16)
    evaluator = CocoEvaluator(content, iou_types=("segm",))
    evaluator.add(1, instances)
    assert evaluator.summarize()["detections"] == count
