"""hotcoco evaluates results of the usual form, with our numbers; our own reader takes all other files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ppsolo.benchmark.results import benchmark_results, draw_results
from ppsolo.data.annotations.cache import open_annotations
from ppsolo.errors import DatasetError
from ppsolo.evaluation import coco_evaluator
from ppsolo.evaluation.coco_evaluator import evaluate_results
from ppsolo.evaluation.plain_results import evaluate_plain, read_plain
from ppsolo.results.rle import encode_mask, fill_their_images, read_segmentation

pytest.importorskip("hotcoco")

COUNTS = (
    "images",
    "annotated_images",
    "images_with_detections",
    "ground_truths",
    "crowds",
    "detections",
    "beyond_max_detections",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    return draw_results(tmp_path_factory.mktemp("drawn"), images=12, detections=200)


def close(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for kind in ("segm", "bbox", "boundary"):
        for key in ("stats", "stats_annotated"):
            np.testing.assert_allclose(one[kind][key], other[kind][key], rtol=0, atol=1e-12)
        for key in ("per_class", "per_class_annotated"):
            for ours, theirs in zip(one[kind][key], other[kind][key], strict=True):
                assert (ours["id"], ours["name"], ours["ground_truths"]) == tuple(
                    theirs[name] for name in ("id", "name", "ground_truths")
                )
                for name in ("AP", "AP50", "AP75", "AR100"):
                    assert ours[name] == pytest.approx(theirs[name], abs=1e-12)
    for key in COUNTS:
        assert one[key] == other[key]


def own(monkeypatch, *arguments, **keywords) -> dict:
    """Evaluated without hotcoco."""
    with monkeypatch.context() as context:
        context.setattr(coco_evaluator, "read_plain", lambda *_, **__: None)
        return evaluate_results(*arguments, **keywords)


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("order", ["as drawn", "turned round"])
def test_the_report_is_our_own(files, tmp_path, monkeypatch, boxes, order):
    truth, results = (json.loads(path.read_text()) for path in files)
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] != 3]  # not annotated
    for entry in truth["annotations"]:
        entry["iscrowd"] = 1 if entry["image_id"] == 4 else entry["iscrowd"]
        entry["segmentation"] = entry["segmentation"]
    if order == "turned round":
        truth = {**truth, "categories": truth["categories"][::-1], "images": truth["images"][::-1]}
    if boxes:
        results = [{**entry, "bbox": [10.0, 10.0, 30.5, 40.0]} for entry in results]
    paths = tmp_path / "truth.json", tmp_path / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    assert read_plain(paths[1], open_annotations(paths[0])) is not None
    close(evaluate_results(*paths), own(monkeypatch, *paths))


def test_detections_beyond_the_limit(files, tmp_path, monkeypatch, capfd):
    results = json.loads(files[1].read_text())
    (tmp_path / "results.json").write_text(json.dumps(results + results[:1] * 120 + results[-1:] * 103))
    report = evaluate_results(files[0], tmp_path / "results.json")
    assert report["beyond_max_detections"] >= 20 + 3
    assert capfd.readouterr() == ("", "")  # hotcoco would print its summary
    close(report, own(monkeypatch, files[0], tmp_path / "results.json"))


def test_all_numbers_come_from_the_curves_that_are_kept(files):
    table = open_annotations(files[0])
    plain = read_plain(files[1], table)
    [(found, annotated)] = evaluate_plain(plain, table, ["segm"], annotated=np.ones(len(table.image_ids), bool))
    assert annotated is found
    assert found.precision.shape[3:] == found.recall.shape[2:] == (1, 1)  # the others would take twelve times as much


def test_the_published_example(monkeypatch):
    if "PPSOLO_DATA" not in os.environ:
        pytest.skip("PPSOLO_DATA is not set")
    folder = Path(os.environ["PPSOLO_DATA"]) / "cocoapi_fakesegm"
    names = json.loads((folder / "expected.json").read_text())["files"]
    paths = folder / names["ground_truth"], folder / names["segm"]
    close(evaluate_results(*paths), own(monkeypatch, *paths))


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": 99},
        {"image_id": "1"},
        {"category_id": 99},
        {"score": None},
        {"segmentation": {"size": [480, 640], "counts": "P3"}},
        {"segmentation": {"size": [480, 641], "counts": "P3"}},
        {"segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"bbox": [1, 1, 5, 5]},
        {"file_name": "other.jpg"},
    ],
)
def test_what_is_not_usual_goes_to_our_own_reader(files, tmp_path, change):
    results = json.loads(files[1].read_text())
    results[5] = {**results[5], **change}
    (tmp_path / "results.json").write_text(json.dumps(results))
    table = open_annotations(files[0])
    plain = read_plain(tmp_path / "results.json", table)
    if change.get("segmentation") == {"size": [480, 640], "counts": "P3"}:  # found while hotcoco computes
        assert evaluate_plain(plain, table, ["segm"], annotated=np.ones(len(table.image_ids), bool)) is None
    else:
        assert plain is None
    if "bbox" in change or isinstance(change.get("segmentation"), list) or change == {"image_id": "1"}:
        evaluate_results(files[0], tmp_path / "results.json", iou_types=["segm"])
    else:
        with pytest.raises(DatasetError):
            evaluate_results(files[0], tmp_path / "results.json", iou_types=["segm"])


@pytest.mark.parametrize("change", [{"area": None}, {"bbox": None}, {"iscrowd": None}, {"segmentation": []}, {"id": 0}])
def test_annotations_by_special_rules_are_ours(files, tmp_path, change):
    truth = json.loads(files[0].read_text())
    truth["annotations"][1] |= change
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert read_plain(files[1], open_annotations(tmp_path / "truth.json")) is None
    evaluate_results(tmp_path / "truth.json", files[1], iou_types=["segm"])


def test_byte_order_marks_are_ours(files, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text(files[1].read_text(), encoding="utf-8-sig")
    assert read_plain(tmp_path / "results.json", open_annotations(files[0])) is None
    report = evaluate_results(files[0], tmp_path / "results.json", iou_types=["segm"])
    assert report["segm"] == own(monkeypatch, *files, iou_types=["segm"])["segm"]


def test_run_lengths_are_checked_as_one_by_one():
    rng = np.random.default_rng(0)
    counts, sizes = [], []
    for number in range(3000):
        height, width = rng.integers(1, 40, 2).tolist() if number % 3 else (1, 2)
        text = bytearray(encode_mask(rng.random((height, width)) < rng.random())["counts"])
        damage = rng.integers(6)
        if damage == 0:
            text[rng.integers(len(text))] = rng.integers(256)
        elif damage == 1:
            text = text[: rng.integers(len(text))]
        elif damage == 2:
            height += 1
        elif damage == 3:
            text += b"oooooooooooo3"[: rng.integers(1, 13)]
        counts.append(bytes(text))
        sizes.append((height, width))

    def readable(text: bytes, size: tuple[int, int]) -> bool:
        try:
            read_segmentation({"size": list(size), "counts": text}, size)
        except ValueError:
            return False
        return True

    expected = [readable(text, size) for text, size in zip(counts, sizes, strict=True)]
    assert fill_their_images([text.decode("latin-1") for text in counts], np.array(sizes)).tolist() == expected
    assert 500 < sum(expected) < 2500
    assert fill_their_images([], np.zeros((0, 2), np.int64)).tolist() == []


def test_the_measurement(files):
    result = benchmark_results(*files, repeats=1)
    assert result["largest_difference"] <= 1e-12
    assert set(result["seconds"]) == {"ppsolo", "hotcoco", "pycocotools"}
