"""`ppsolo import-data`: what it writes, says and refuses."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from truth import made_truth

from ppsolo import load_config
from ppsolo.checkpoint.lock import sole_holder
from ppsolo.cli import main
from ppsolo.data.coco import CocoDataset
from ppsolo.formats import dataset as module

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six pictures with labelme files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path, instances in made_truth(folder, 6):
        path.with_suffix(".json").write_bytes(instances.to_bytes("labelme", image_path=path))
    return folder


def test_a_folder_becomes_a_data_set(photos, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["import-data", str(photos), "--output", str(output), "-c", "nuclei"]) in (0, 1)
    said = capsys.readouterr().out
    assert "labelme, 6 images, classes: Würstchen, cell" in said and "train: 5 images, 15 objects" in said
    assert f"train on it: ppsolo train -c {output / 'config.yml'}" in said
    for name in ("train", "val"):  # not the draft's paths
        assert f"{output / f'instances_{name}.json'} with images in {output / name}\n" in said
    assert sorted(path.name for path in output.iterdir()) == [
        "config.yml",
        "instances_train.json",
        "instances_val.json",
        "train",
        "val",
    ]
    config = load_config(str(output / "config.yml"))
    assert (config.name, config.num_classes, config.weights) == ("out", 2, None)
    root = Path(config.data.root)
    dataset = CocoDataset(root / config.data.train_annotations, root / config.data.train_images)
    assert len(dataset) == 5 and dataset.class_names == ("Würstchen", "cell") and dataset.category_ids == (1, 2)
    read = COCO(str(output / "instances_train.json"))
    for annotation in read.anns.values():
        assert read.annToMask(annotation).sum() == annotation["area"]
    picture = next((output / "train").iterdir())
    assert os.path.samefile(picture, photos / picture.name)


def test_copies_and_published_systems(photos, tmp_path, capsys):
    output = tmp_path / "out"
    main(["import-data", str(photos), "--output", str(output), "--pictures", "copy", "--val", "0.5"])
    picture = next((output / "val").iterdir())
    assert not os.path.samefile(picture, photos / picture.name)
    assert picture.read_bytes() == (photos / picture.name).read_bytes()
    assert len(json.loads((output / "instances_val.json").read_text())["images"]) == 3
    config = load_config(str(output / "config.yml"))
    assert config.weights == "solov2_r50_fpn_3x" and config.train.patience == 4


def test_the_next_commands_can_be_pasted(photos, tmp_path, capsys):
    output = tmp_path / "my 数据"
    assert main(["import-data", str(photos), "--output", str(output)]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()[-2:]
    commands = [shlex.split(line.partition(": ")[2]) for line in lines]
    assert commands[0] == ["ppsolo", "train", "-c", str(output / "config.yml")]
    assert commands[1] == ["ppsolo", "train", "--recipe", "auto", "--from_nothing", "-c", str(output / "config.yml")]


def test_a_report_names_no_draft(photos, tmp_path, capsys):
    for file in photos.glob("*.json"):  # a size that is not the picture's
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "imageHeight": content["imageHeight"] + 9}))
    assert main(["import-data", str(photos), "--output", str(tmp_path / "out"), "-c", "nuclei"]) == 1
    said = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'train'}/" in said and ".part" not in said


def test_a_place_inside_the_source_is_refused(photos, tmp_path, capsys):
    for output in (photos / "out", photos / "a" / "b"):
        assert main(["import-data", str(photos), "--output", str(output)]) == 2
        assert "which is the source; choose another --output" in capsys.readouterr().err
    assert all(path.is_file() for path in photos.iterdir())
    (tmp_path / "link").symlink_to(photos)
    assert main(["import-data", str(photos), "--output", str(tmp_path / "link" / "out")]) == 2


def test_a_full_folder_is_found_before_the_source_is_read(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ppsolo.formats.recognition.read_folder", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["import-data", str(photos), "--output", str(tmp_path / "full")]) == 2
    assert "this folder is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--val", "1"], "--val is 1.0"),
        (["--format", "yolo"], "nothing in the format yolo"),
        (["-c", "nonsense"], "nonsense"),
        (["--groups", "missing.csv"], "missing.csv: cannot be read"),
    ],
)
def test_refusals_write_nothing(photos, tmp_path, capsys, options, words):
    output = tmp_path / "out"
    assert main(["import-data", str(photos), "--output", str(output), *options]) == 2
    assert words in capsys.readouterr().err and not output.exists()


def test_a_folder_that_is_not_empty_is_refused(photos, capsys):
    assert main(["import-data", str(photos), "--output", str(photos)]) == 2
    assert "this folder is not empty" in capsys.readouterr().err


def test_the_written_configuration_takes_the_settings_that_lose_fewest_objects(tmp_path, capsys):
    """Dots every 8 pixels share cells of a grid of 12 in a picture of 128 pixels."""
    dots = np.zeros((128, 128), np.uint16)
    for number in range(256):
        y, x = 8 * (number // 16), 8 * (number % 16)
        dots[y : y + 4, x : x + 4] = number + 1
    source, output = tmp_path / "dots", tmp_path / "out"
    source.mkdir()
    for name in "abcde":
        cv2.imwrite(str(source / f"{name}.png"), (dots > 0).astype(np.uint8) * 255)
        cv2.imwrite(str(source / f"{name}_mask.png"), dots)
    assert main(["import-data", str(source), "--output", str(output), "-c", "demo"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"settings suggested, and written into {output / 'config.yml'}:") == 1
    before, after = load_config("demo"), load_config(output / "config.yml")
    assert after.model.head.num_grids[0] > before.model.head.num_grids[0]
    assert after.train.targets.scale_ranges != before.train.targets.scale_ranges
    assert after.data.root == str(output) and after.num_classes == 1
    train = ["--annotations", str(output / "instances_train.json"), "--images", str(output / "train")]
    assert main(["check-data", "-c", str(output / "config.yml"), *train]) == 0
    assert "other grids would not lose fewer instances: none are suggested" in capsys.readouterr().out
    assert main(["check-data", "-c", str(output / "config.yml"), "--json", str(tmp_path / "both.json")]) == 0
    said = capsys.readouterr().out
    for name in ("train", "val"):
        assert f"{output / f'instances_{name}.json'} with images in {output / name}\n" in said
    assert list(json.loads((tmp_path / "both.json").read_text())) == ["train", "val"]
    assert main(["check-data", "-c", str(output / "config.yml"), *train[:2]]) == 2
    assert "--annotations and --images belong together" in capsys.readouterr().err
    (output / "instances_val.json").unlink()
    assert main(["check-data", "-c", str(output / "config.yml")]) == 2
    assert "correct data.root or data.val_annotations, or give" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from ppsolo.cli import main
from ppsolo.formats import dataset

place, count = dataset._place, []

def dying(*arguments):
    count.append(1)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    place(*arguments)

dataset._place = dying
sys.exit(main(["import-data", *sys.argv[1:]]))
"""


def test_an_import_that_was_killed_starts_anew(photos, tmp_path, caplog):
    output = tmp_path / "out"
    command = [str(photos), "--output", str(output), "-c", "nuclei"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {name for name in os.listdir(output) if name[0] != "."} == {module.LOCK}  # nothing half under a name
    assert main(["import-data", *command]) in (0, 1)
    assert "did not finish; starting again" in caplog.text
    names = ["config.yml", "instances_train.json", "instances_val.json", "train", "val"]
    assert sorted(os.listdir(output)) == names and len(os.listdir(output / "train")) == 5


def test_an_import_that_is_interrupted_leaves_nothing(photos, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "coco_content", interrupt)
    assert main(["import-data", str(photos), "--output", str(tmp_path / "new" / "out")]) == 130
    assert not (tmp_path / "new").exists()


def test_two_imports_into_one_folder_are_refused(photos, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    with sole_holder(output / module.LOCK):
        assert main(["import-data", str(photos), "--output", str(output)]) == 2
    assert "another import is at work there" in capsys.readouterr().err
    assert os.listdir(output) == []
