"""Training on folders of other tools as they are: told apart, or refused with the command."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from truth import made_truth

from ppsolo.data.coco import CocoDataset
from ppsolo.data.images import write_image
from ppsolo.errors import DatasetError
from ppsolo.formats.data_config import data_in_place
from ppsolo.schema import DataConfig


@pytest.fixture
def labelme(tmp_path) -> Path:
    """A folder of six labelme files and their pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path, instances in made_truth(folder, 6):
        path.with_suffix(".json").write_bytes(instances.to_bytes("labelme", image_path=path))
    return folder


def test_a_labelme_folder_is_a_data_set(labelme, tmp_path):
    data = data_in_place(DataConfig(root=str(labelme)), tmp_path / "cache", needed="train")
    train, val = (
        CocoDataset(labelme / annotations, labelme / images)
        for annotations, images in (
            (data.train_annotations, data.train_images),
            (data.val_annotations, data.val_images),
        )
    )
    assert (len(train), len(val)) == (5, 1) and train.class_names == ("Würstchen", "cell")
    assert not {train[i].path for i in range(5)} & {val[0].path}
    again = data_in_place(DataConfig(root=str(labelme)), tmp_path / "other", needed="val")
    assert Path(again.val_annotations).read_text() == Path(data.val_annotations).read_text()
    assert data_in_place(data, tmp_path / "cache", needed="train") == data


def test_a_coco_data_set_stays_as_it_is(drawn, tmp_path):
    data = DataConfig(root=str(drawn), train_annotations="instances_train.json", train_images="train")
    assert data_in_place(data, tmp_path / "cache", needed="train") == data
    missing = DataConfig(root=str(tmp_path / "missing"))
    with pytest.raises(DatasetError, match=r"missing/.*: no such file; data\.root names the folder of the data set"):
        data_in_place(missing, tmp_path / "cache", needed="train")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_none_is_answered_with_the_command(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"1 picture and no annotations.*ppsolo import-data .* --output DIR"):
        data_in_place(DataConfig(root=str(tmp_path)), tmp_path / "cache", needed="train")


def test_two_kinds_are_answered_with_the_command_and_its_format(labelme, tmp_path):
    for path, instances in made_truth(labelme, 1):
        path.with_suffix(".txt").write_text(instances.to_yolo())
    with pytest.raises(DatasetError, match=r"labelme: .*yolo: .*import-data .* --format labelme --output DIR"):
        data_in_place(DataConfig(root=str(labelme)), tmp_path / "cache", needed="train")


def test_training_and_evaluation_take_the_folder(labelme, training, tmp_path, capsys):
    from ppsolo.cli import main

    overrides = {
        **training,
        "num_classes": 2,
        "data.root": str(labelme),
        "data.train_annotations": DataConfig().train_annotations,
        "data.val_annotations": DataConfig().val_annotations,
        "train.output_dir": str(tmp_path / "output"),
        "train.epochs": 1,
    }
    options = ["-c", "solov2_r50_fpn_1x", "-o", *(f"{key}={json.dumps(value)}" for key, value in overrides.items())]
    assert main(["train", *options]) == 0
    run = tmp_path / "output" / "tiny"
    assert (run / "last.pdparams").is_file() and (run / "annotations" / "instances_train.json").is_file()
    assert main(["eval", "-c", str(run / "config.yml"), "-o", f"weights={run / 'last.pdparams'}"]) == 0
    assert "AP" in capsys.readouterr().out
    shutil.rmtree(labelme)
    assert main(["train", *options, "name=again"]) == 2


@pytest.mark.parametrize("needed", ["train", "val"])
def test_a_named_file_that_is_missing_is_never_replaced(labelme, tmp_path, needed):
    setting = {f"{needed}_annotations": "typo.json"}
    with pytest.raises(
        DatasetError, match=rf"typo\.json: no such file.*\.json.*data\.{needed}_annotations.*import-data"
    ):
        data_in_place(DataConfig(root=str(labelme), **setting), tmp_path / "cache", needed=needed)
    with pytest.raises(DatasetError, match=r"typo\.json: no such file"):
        data_in_place(DataConfig(root=str(labelme), val_annotations="typo.json"), tmp_path / "cache", needed="train")
    assert not (tmp_path / "cache").exists()


def test_an_empty_setting_takes_the_folder_and_a_file_for_validation_stays(labelme, tmp_path):
    data = data_in_place(DataConfig(root=str(labelme), train_annotations=""), tmp_path / "cache", needed="train")
    own = dataclasses.replace(data, train_annotations="", val_images="x")
    again = data_in_place(own, tmp_path / "again", needed="train")
    assert again.train_annotations == str(tmp_path / "again" / "instances_train.json")
    assert (again.val_annotations, again.val_images) == (data.val_annotations, "x")


@pytest.mark.parametrize("command", ["train", "eval", "suggest"])
def test_the_commands_refuse_a_mistyped_file(labelme, tmp_path, capsys, command):
    from ppsolo.cli import main

    named = "val" if command == "eval" else "train"
    source = [] if command == "suggest" else ["-c", "solov2_r50_fpn_1x"]
    output = f"train.output_dir={tmp_path / 'output'}"
    assert main([command, *source, "-o", f"data.root={labelme}", f"data.{named}_annotations=typo.json", output]) == 2
    error = capsys.readouterr().err
    assert "typo.json: no such file" in error and "import-data" in error and error.count("\n") == 1
    assert not (tmp_path / "output" / "solov2_r50_fpn_1x" / "annotations").exists()
