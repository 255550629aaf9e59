"""Files of a run over several images."""

import csv
import json

import cv2
import pytest
from found import three

from ppsolo.errors import ConfigError
from ppsolo.results.files.catalogue import FORMATS
from ppsolo.results.files.run import RunFiles


def test_every_format_at_once(tmp_path):
    pytest.importorskip("roifile")
    pytest.importorskip("pyarrow")
    picture = tmp_path / "pictures" / "a.png"
    with RunFiles(tmp_path, tuple(FORMATS)) as files:
        files.add(three().results(image_path=picture, image_id=1), "a")
        files.add(three()[:0].results(image_name="b.png", image_id=2), "b")
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert [(entry["image_id"], entry["file_name"]) for entry in entries] == [(1, "a.png")] * 3
    rows = list(csv.DictReader((tmp_path / "instances.csv").open()))
    assert len(rows) == 3 and (tmp_path / "instances.parquet").exists()
    assert json.loads((tmp_path / "labelme" / "a.json").read_text())["imagePath"] == "../pictures/a.png"
    assert (tmp_path / "yolo" / "labels" / "a.txt").read_text().count("\n") == 2
    assert (tmp_path / "yolo" / "labels" / "b.txt").read_text() == ""
    assert "Würstchen" in (tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8")
    assert cv2.imread(str(tmp_path / "label_map" / "a.png"), cv2.IMREAD_UNCHANGED).max() == 2
    assert sorted(file.name for file in (tmp_path / "masks" / "a").iterdir()) == [
        "0001_person.png",
        "0002_Würstchen.png",
    ]
    assert (tmp_path / "geojson" / "b.geojson").exists() and (tmp_path / "imagej" / "a.zip").exists()
    assert not list(tmp_path.rglob(".ppsolo-*"))


def test_a_run_that_fails_leaves_no_half_file(tmp_path):
    with pytest.raises(KeyError), RunFiles(tmp_path, ("coco", "csv", "yolo")) as files:
        files.add(three().results(image_name="a.png"), "a")
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["yolo"]


def test_a_run_without_images(tmp_path):
    pytest.importorskip("pyarrow")
    with RunFiles(tmp_path, ("coco", "csv", "parquet")):
        pass
    assert json.loads((tmp_path / "predictions.json").read_text()) == []


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="choose among coco, labelme"):
        RunFiles(tmp_path, ("cocoa",))


def test_no_folder_stays_where_nothing_could_be_written(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ppsolo.results.files.run._write", full)
    with pytest.raises(OSError), RunFiles(tmp_path, ("yolo", "masks", "labelme")) as files:
        files.add(three().results(image_path=tmp_path / "a.png", image_id=1), "a")
    assert list(tmp_path.iterdir()) == []
