"""Annotation files as people have them, read alike by check-data, training and evaluation."""

import copy
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from ppsolo.check.dataset import check_dataset
from ppsolo.cli import main
from ppsolo.data.coco import CocoDataset, load_sample
from ppsolo.errors import DatasetError
from ppsolo.evaluation.coco_evaluator import evaluate_results
from ppsolo.evaluation.evaluate import EvaluationSet

SETTINGS = {"short_side": 96, "long_side": 128, "num_grids": (8, 4), "scale_ranges": ((1, 64), (32, 2048))}


@pytest.fixture(scope="module")
def cases() -> Path:
    if not os.environ.get("PPSOLO_CASES"):
        pytest.skip("PPSOLO_CASES is not set")
    return Path(os.environ["PPSOLO_CASES"])


def kinds(path: Path, folder: Path) -> dict[str, int]:
    """What check-data finds: kind -> how often."""
    return {problem.kind: len(problem.ids) for problem in check_dataset(path, folder, **SETTINGS).problems}


def trained(path: Path, folder: Path) -> list[list[int]]:
    """Pixels of every mask that training would see, per image."""
    dataset = CocoDataset(path, folder)
    return [load_sample(dataset[index]).masks.to_array().sum(axis=(1, 2)).tolist() for index in range(len(dataset))]


@pytest.mark.parametrize("name", ["bom.json", "utf16.json", "plain.json"])
@pytest.mark.parametrize("results", ["results.json", "results_bom.json"])
def test_byte_order_marks(cases, name, results):
    folder = cases / "byte_order_mark"
    assert kinds(folder / name, folder / "img") == {}
    assert trained(folder / name, folder / "img") == trained(folder / "plain.json", folder / "img")
    EvaluationSet(folder / name, folder / "img")
    report = evaluate_results(folder / name, folder / results)
    assert report["segm"]["stats"][0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_every_encoding_of_json(cases, tmp_path, encoding):
    folder = cases / "byte_order_mark"
    text = (folder / "plain.json").read_text()
    for mark in ("", "\ufeff"):
        if mark and encoding in ("utf-8-sig", "utf-16", "utf-32"):
            continue  # these write a mark of their own
        (tmp_path / "set.json").write_bytes((mark + text).encode(encoding))
        assert trained(tmp_path / "set.json", folder / "img") == trained(folder / "plain.json", folder / "img")


@pytest.mark.parametrize("name", ["point.json", "emptypoly.json", "polygon_of_2_points_beside_good_one.json"])
def test_degenerate_parts_are_left_out(cases, name, caplog):
    folder = cases / "degenerate_polygon"
    with caplog.at_level(logging.WARNING):
        assert sum(map(len, trained(folder / name, folder / "img"))) == 12
    assert f"{folder / name}: short-ring: a part with fewer than three points is left out" in caplog.text
    assert "(1 annotation: 2)" in caplog.text
    assert kinds(folder / name, folder / "img") == {"short-ring": 1}
    truth = EvaluationSet(folder / name, folder / "img").truth
    assert len(truth.masks(np.arange(12))) == 12


def test_results_are_matched_by_name(cases, caplog):
    folder = cases / "results_by_id"
    with caplog.at_level(logging.WARNING):
        report = evaluate_results(folder / "truth.json", folder / "predictions.json")
    assert report["segm"]["stats"][0] == pytest.approx(1, abs=1e-12)
    assert "matched by file name" in caplog.text


def results_of(folder: Path) -> tuple[dict, list[dict]]:
    return json.loads((folder / "truth.json").read_text()), json.loads((folder / "predictions.json").read_text())


@pytest.mark.parametrize("form", ["name for id", "folder", "stem", "backslashes"])
def test_names_of_results_in_other_forms(cases, form):
    truth, results = results_of(cases / "results_by_id")
    for entry in results:
        name = entry.pop("file_name")
        if form == "folder":
            entry["file_name"] = f"images/val/{name}"
        elif form == "backslashes":
            entry["file_name"] = f"C:\\images\\{name}"
        else:
            entry["image_id"] = name if form == "name for id" else Path(name).stem
    before = copy.deepcopy(results)
    assert evaluate_results(truth, results)["segm"]["stats"][0] == pytest.approx(1, abs=1e-12)
    assert results == before


def test_names_that_do_not_tell_are_refused(cases):
    truth, results = results_of(cases / "results_by_id")
    other = [{**entry, "file_name": "unknown.png"} for entry in results]
    with pytest.raises(DatasetError, match=r"15 results are for images that annotations does not have"):
        evaluate_results(truth, other)
    for image in truth["images"]:
        image["file_name"] = "0001.png"
    with pytest.raises(DatasetError, match="or has twice"):
        evaluate_results(truth, results)


def test_results_whose_ids_and_names_agree_stay_as_they_are(cases):
    truth, results = results_of(cases / "results_by_id")
    named = {image["file_name"]: image["id"] for image in truth["images"]}
    same = [{**entry, "image_id": named[entry["file_name"]]} for entry in results]
    assert evaluate_results(truth, same)["segm"]["stats"][0] == pytest.approx(1, abs=1e-12)
    texts = [{**entry, "image_id": str(entry["image_id"]), "category_id": str(entry["category_id"])} for entry in same]
    assert evaluate_results(truth, texts)["segm"] == evaluate_results(truth, same)["segm"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("empty_ann.json", "zero-area"), ("bbox_only.json", "no-outline"), ("bbox_negative_width.json", "negative-box")],
)
def test_validation_files_are_read_by_the_rules_of_training(cases, caplog, name, kind):
    folder = cases / "validation_stops_late" / "set"
    assert kinds(folder / name, folder / "img") == {kind: 1}
    with caplog.at_level(logging.WARNING):
        dataset = EvaluationSet(folder / name, folder / "img")
    assert f"{folder / name}: {kind}: " in caplog.text
    instances = 11 if kind == "no-outline" else 12
    assert sum(map(len, trained(folder / name, folder / "img"))) == instances
    assert int(dataset.truth.outlined.sum()) == instances
    results = [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "segmentation": entry["segmentation"]}
        for entry in json.loads((folder / "train.json").read_text())["annotations"]
    ]
    report = evaluate_results(folder / name, [{**entry, "score": 0.5} for entry in results])
    assert report["segm"]["stats"][1] > 0.8  # what has no outline is a false detection


def test_a_flat_polygon_is_one_ring(cases):
    folder = cases / "wrong_messages"
    assert kinds(folder / "flat.json", folder / "img") == {"flat-polygon": 1}
    good = cases / "validation_stops_late" / "set" / "train.json"
    assert trained(folder / "flat.json", folder / "img") == trained(good, folder / "img")


def test_ids_as_text(cases):
    folder = cases / "wrong_messages"
    assert kinds(folder / "strid.json", folder / "img") == {"number-as-text": 12}
    assert sum(map(len, trained(folder / "strid.json", folder / "img"))) == 12
    assert len(EvaluationSet(folder / "strid.json", folder / "img").truth.image) == 12


def test_brush_masks_of_cvat(cases, caplog):
    folder = cases / "wrong_messages"
    with pytest.raises(DatasetError, match=r"all 12 annotations are marked 'iscrowd'.*CVAT.*set 'iscrowd' to 0"):
        CocoDataset(folder / "cvat.json", folder / "img")
    with caplog.at_level(logging.WARNING):
        assert sum(map(len, trained(folder / "cvat_half.json", folder / "img"))) == 6
    assert "6 of 12 annotations are marked 'iscrowd'" in caplog.text
    command = ["check-data", "-c", "solov2_r50_fpn_1x", "-o", "num_classes=2", "--images", str(folder / "img")]
    assert main([*command, "--annotations", str(folder / "cvat.json")]) == 1
    assert main([*command, "--annotations", str(folder / "cvat_half.json")]) == 0


def change_all(content: dict, key: str, change) -> None:
    for entry in content["annotations"]:
        entry[key] = change(entry[key])


VARIANTS = {
    "iscrowd null": lambda content: change_all(content, "iscrowd", lambda _: None),
    "iscrowd as text": lambda content: change_all(content, "iscrowd", str),
    "iscrowd false": lambda content: change_all(content, "iscrowd", bool),
    "boxes of texts": lambda content: change_all(content, "bbox", lambda box: list(map(str, box))),
    "boxes in one text": lambda content: change_all(content, "bbox", str),
    "areas as text": lambda content: change_all(content, "area", str),
    "categories as text": lambda content: change_all(content, "category_id", str),
    "categories as fraction": lambda content: change_all(content, "category_id", float),
    "categories by name": lambda content: change_all(content, "category_id", lambda i: {1: "cat", 2: "dog"}[i]),
    "images as fraction text": lambda content: change_all(content, "image_id", lambda i: f"{i}.0"),
    "images by name": lambda content: change_all(content, "image_id", lambda i: f"p{i}.png"),
    "images by stem": lambda content: change_all(content, "image_id", lambda i: f"p{i}"),
    "ids as text": lambda content: change_all(content, "id", str),
    "uuids": lambda content: change_all(content, "id", lambda i: f"3fa85f64-{i}"),
    "points in pairs": lambda content: change_all(
        content, "segmentation", lambda rings: [[ring[i : i + 2] for i in range(0, len(ring), 2)] for ring in rings]
    ),
    "one ring of pairs": lambda content: change_all(
        content, "segmentation", lambda rings: [rings[0][i : i + 2] for i in range(0, len(rings[0]), 2)]
    ),
    "segmentation as text": lambda content: change_all(content, "segmentation", json.dumps),
    "numbers of rings as text": lambda content: change_all(
        content, "segmentation", lambda rings: [list(map(str, ring)) for ring in rings]
    ),
    "boxes from right to left": lambda content: change_all(
        content, "bbox", lambda box: [box[0] + box[2], box[1] + box[3], -box[2], -box[3]]
    ),
    "sizes as fraction": lambda content: [image.update(height=96.0, width="128.0") for image in content["images"]],
    "image ids as text": lambda content: [image.update(id=str(image["id"])) for image in content["images"]],
    "backslashes": lambda content: [
        image.update(file_name="img\\" + image["file_name"]) for image in content["images"]
    ],
    "other folders": lambda content: [
        image.update(file_name=f"/home/me/{image['file_name']}") for image in content["images"]
    ],
    "category ids as text": lambda content: [entry.update(id=str(entry["id"])) for entry in content["categories"]],
    "null boxes and areas": lambda content: [entry.update(bbox=None, area=None) for entry in content["annotations"]],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_read_alike(cases, tmp_path, variant):
    """Each variant gives the same masks, boxes and truth as the plain file, and check-data finds no fault."""
    folder = cases / "validation_stops_late" / "set"
    content = json.loads((folder / "train.json").read_text())
    VARIANTS[variant](content)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    report = check_dataset(path, folder / "img", **SETTINGS)
    assert not report.faulty and report.instances == 12
    ours, plain = CocoDataset(path, folder / "img"), CocoDataset(folder / "train.json", folder / "img")
    for record, expected in zip(ours, plain, strict=True):
        assert record.path.is_file() and np.array_equal(record.boxes, expected.boxes)
        assert np.array_equal(record.labels, expected.labels)
        assert np.array_equal(load_sample(record).masks.to_array(), load_sample(expected).masks.to_array())
    truth, other = (EvaluationSet(file, folder / "img").truth for file in (path, folder / "train.json"))
    rows = np.arange(12)
    assert truth.masks(rows) == other.masks(rows)
    assert np.array_equal(truth.boxes(rows), other.boxes(rows)) or variant == "null boxes and areas"
    assert np.allclose(truth.area, other.area) or variant == "null boxes and areas"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iscrowd", 2),
        ("iscrowd", "maybe"),
        ("bbox", [1, 2, 3]),
        ("bbox", "none"),
        ("area", "large"),
        ("segmentation", [[1, 2, 3, 4, 5, 6, 7]]),
        ("segmentation", [[0, 0, 1e9, 0, 5, 5]]),
        ("segmentation", {"size": [96, 128], "counts": [5]}),
        ("image_id", "unknown"),
        ("category_id", "bird"),
    ],
)
def test_what_would_break_later_is_refused_by_all_three(cases, tmp_path, key, value):
    folder = cases / "validation_stops_late" / "set"
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][4][key] = value
    (tmp_path / "set.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"set\.json: annotation 5") as training:
        CocoDataset(tmp_path / "set.json", folder / "img")
    with pytest.raises(DatasetError) as evaluation:
        EvaluationSet(tmp_path / "set.json", folder / "img")
    assert str(training.value) == str(evaluation.value)
    report = check_dataset(tmp_path / "set.json", folder / "img", **SETTINGS)
    assert report.faulty and report.problems[0].details[0] in str(training.value)


def test_only_boxes(cases, tmp_path):
    folder = cases / "validation_stops_late" / "set"
    content = json.loads((folder / "train.json").read_text())
    for entry in content["annotations"]:
        del entry["segmentation"]
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="12 annotations have no outline, but SOLOv2 learns from outlines"):
        CocoDataset(path, folder / "img")
    with pytest.raises(DatasetError, match="none of the 12 annotations has an outline"):
        EvaluationSet(path, folder / "img")
    results = [{**entry, "score": 0.5} for entry in content["annotations"]]
    assert evaluate_results(path, results)["bbox"]["stats"][0] == pytest.approx(1, abs=1e-12)
