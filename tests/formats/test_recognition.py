"""Folders told apart, described, and refused."""

import json
import os

import numpy as np
import pytest
from truth import made_truth

from ppsolo.cli.import_data import FORMATS
from ppsolo.data.coco import CocoDataset
from ppsolo.data.images import write_image
from ppsolo.errors import DatasetError
from ppsolo.formats.dataset import training_config, write_dataset
from ppsolo.formats.folder import Folder
from ppsolo.formats.recognition import READERS, read_folder, recognise


def test_the_command_knows_every_format():
    assert tuple(READERS) == FORMATS


def test_nothing_known(tmp_path):
    with pytest.raises(DatasetError, match="an empty folder"):
        read_folder(tmp_path)
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="1 picture and no annotations; the known formats are coco, labelme"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="nothing in the format yolo"):
        read_folder(tmp_path, "yolo")
    (tmp_path / "a.png").unlink()
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match=r"an archive \(export\.zip\) and no pictures: unpack it"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        read_folder(tmp_path / "missing")
    with pytest.raises(DatasetError, match=r"export\.zip: an archive; unpack it and give the folder"):
        read_folder(tmp_path / "export.zip")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"a\.json: a file; give the folder that holds it"):
        read_folder(tmp_path / "a.json")


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


def test_class_names_and_file_names_are_written_printable(tmp_path):
    """Escapes, line breaks and lone surrogates of labels; a file name that is no UTF-8."""
    source = tmp_path / "source"
    source.mkdir()
    names = ["road\nsign", "\x1b[31mred", "half\ud800", "\x07"]
    for number, name in enumerate(names):
        picture = os.fsdecode(b"caf\xe9.png") if number == 0 else f"{number}.png"
        write_image(source / "p.png", np.zeros((12, 16, 3), np.uint8))
        (source / "p.png").rename(source / picture)
        shape = {"label": name, "points": [[1, 1], [6, 1], [6, 6]], "shape_type": "polygon"}
        content = {"imagePath": picture, "imageHeight": 12, "imageWidth": 16, "shapes": [shape]}
        (source / picture).with_suffix(".json").write_text(json.dumps(content))
    dataset = read_folder(source)
    assert sorted(dataset.class_names) == ["?", "[31mred", "half", "road sign"]
    written = write_dataset({"train": list(dataset.images)}, dataset.class_names, tmp_path / "out")
    read = CocoDataset(tmp_path / "out" / "instances_train.json", tmp_path / "out" / "train")
    assert sorted(read.class_names) == sorted(dataset.class_names) and len(read) == 4
    assert all(read[index].path.is_file() for index in range(4))
    config = training_config(written, ["compact"], None)
    config.encode()
