"""The table for people and the JSON file."""

import json

import pytest

from ppsolo.errors import PpsoloError
from ppsolo.evaluation import evaluate, report
from ppsolo.evaluation.coco_evaluator import evaluate_results
from ppsolo.evaluation.report import format_report, write_report

TRUTH = {
    "images": [{"id": 1, "height": 60, "width": 80}, {"id": 2, "height": 60, "width": 80}],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "a name " * 12}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]},
    ],
}
HIT = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]}
FALSE_ALARM = {**HIT, "image_id": 2, "score": 0.9}


def test_the_table_tells_what_was_found():
    table = format_report(evaluate_results(TRUTH, [HIT, FALSE_ALARM]), per_class=True)
    lines = table.splitlines()
    assert lines[0] == "2 images (1 annotated), 1 ground truths, 0 crowds, 2 detections"
    assert lines[1].split()[:4] == ["AP", "AP50", "AP75", "APs"]
    assert lines[2].split()[:6] == ["segm", "all", "images", "50.0", "50.0", "50.0"]
    assert lines[3].split()[:4] == ["segm", "annotated", "100.0", "100.0"]
    assert lines[2].split()[7] == "-"  # nothing of medium size
    assert ["cup", "1", "50.0", "50.0", "50.0", "100.0"] in [line.split() for line in lines]
    assert all(line.split()[-5:] == ["0", "-", "-", "-", "-"] for line in lines if line.startswith("a name"))
    assert max(map(len, lines)) <= 110


def test_the_table_says_what_was_not_evaluated():
    box = {**{key: HIT[key] for key in ("image_id", "category_id", "score")}, "bbox": [0, 0, 20, 20]}
    lines = format_report(evaluate_results(TRUTH, [box])).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["bbox", "bbox", "segm", "boundary"]
    assert lines[-1] == "boundary  not evaluated: the results have no masks"


def test_the_table_says_what_does_not_count():
    report = evaluate_results(TRUTH, [HIT, {**HIT, "score": 0.4}, FALSE_ALARM], max_detections=1)
    assert format_report(report).splitlines()[-1].startswith("1 detections do not count: only the best 1 of a picture")
    assert "count" not in format_report(evaluate_results(TRUTH, [HIT] * 3))


def test_the_file_holds_the_whole_report_and_nothing_lies_about(tmp_path):
    report = evaluate_results(TRUTH, [HIT])
    path = tmp_path / "new" / "report.json"
    write_report(report, path)
    write_report(report, str(path))
    assert json.loads(path.read_text()) == report
    assert list(path.parent.iterdir()) == [path]


def test_a_report_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PpsoloError, match=r"cannot write .*file/report\.json"):
        write_report({}, tmp_path / "file" / "report.json")


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    def full(path, mode):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "atomic_writer", full)
    monkeypatch.setattr(evaluate, "atomic_writer", full)
    for write in (write_report, evaluate.write_results):
        with pytest.raises(PpsoloError, match="cannot write"):
            write([], tmp_path / "new" / "numbers.json")
    assert list(tmp_path.iterdir()) == []
