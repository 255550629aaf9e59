"""Annotations of kinds that ppsolo cannot read are named, with what to export instead."""

import json

import cv2
import numpy as np
import pytest

from ppsolo.errors import DatasetError
from ppsolo.formats.recognition import read_folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("via.json", json.dumps({"a.png12": {"filename": "a.png", "regions": []}}), "VIA: export .* in COCO format"),
        ("via.json", json.dumps({"_via_settings": {}, "_via_img_metadata": {}}), "VIA: export .* in COCO format"),
        ("min.json", json.dumps([{"image": "a.png", "id": 1, "annotator": 1}]), "JSON-MIN: export JSON there"),
        ("a.png.json", json.dumps({"tags": [], "size": {}, "objects": []}), "Supervisely: export COCO"),
        (
            "a.xml",
            "<annotation><object><bndbox></bndbox></object></annotation>",
            "boxes of Pascal VOC without outlines",
        ),
        ("annotations.xml", '<annotations><track id="0"></track></annotations>', "a video of CVAT"),
    ],
)
def test_files_of_other_tools_are_named(tmp_path, name, content, words):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=rf"{name}, .*{words}"):
        read_folder(tmp_path)


def test_masks_as_jpeg_are_named(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.jpg"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"masks as JPEG \(masks/a\.jpg\).*save them as PNG"):
        read_folder(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"a": 1}'])
def test_other_json_is_no_stranger(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(DatasetError, match="files of no known format"):
        read_folder(tmp_path)
