"""Folders told apart, described, and refused."""

import numpy as np
import pytest
from truth import made_truth

from ppsolo.cli.import_data import FORMATS
from ppsolo.data.images import write_image
from ppsolo.errors import DatasetError
from ppsolo.formats.folder import Folder
from ppsolo.formats.recognition import READERS, read_folder, recognise


def test_the_command_knows_every_format():
    assert tuple(READERS) == FORMATS


def test_nothing_known(tmp_path):
    with pytest.raises(DatasetError, match="an empty folder"):
        read_folder(tmp_path)
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="1 pictures and no annotations; the formats read are coco, labelme"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="nothing in the format yolo"):
        read_folder(tmp_path, "yolo")
    (tmp_path / "a.png").unlink()
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match=r"an archive \(export\.zip\) and no pictures: unpack it"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="there is no such folder"):
        read_folder(tmp_path / "missing")


def test_two_kinds_need_a_choice(tmp_path):
    for path, instances in made_truth(tmp_path, 2):
        path.with_suffix(".json").write_bytes(instances.to_bytes("labelme", image_path=path))
        path.with_suffix(".txt").write_text(instances.to_yolo())
    assert set(recognise(Folder(tmp_path))) == {"labelme", "yolo"}
    with pytest.raises(DatasetError, match="choose one with --format"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, "labelme").format == "labelme"


def test_results_and_other_json_are_no_annotations(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    for name, text in (("predictions", "[]"), ("broken", "{"), ("other", '{"a": 1}'), ("list", "[1]")):
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "notes.txt").write_text("some words\n")
    assert recognise(Folder(tmp_path)) == {}
