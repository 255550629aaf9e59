"""PaddleDetection's folder for COCO: found by the commands where the default one is not there."""

import json
import shutil
from pathlib import Path

import pytest

from ppsolo.cli import main
from ppsolo.formats.data_config import data_in_place
from ppsolo.legacy.dataset_folder import FOLDER, found_data
from ppsolo.schema import DataConfig


@pytest.fixture
def workplace(drawn, tmp_path, monkeypatch) -> Path:
    """A working directory with a small data set as PaddleDetection's configurations have it."""
    folder = tmp_path / FOLDER
    (folder / "annotations").mkdir(parents=True)
    for name in ("train", "val"):
        shutil.copytree(drawn / name, folder / f"{name}2017")
        shutil.copy(drawn / f"instances_{name}.json", folder / "annotations" / f"instances_{name}2017.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("needed", ["train", "val"])
def test_it_takes_the_place_of_the_default(workplace, needed):
    data = data_in_place(DataConfig(), Path("cache"), needed=needed)
    assert data == DataConfig(root=FOLDER) and not Path("cache").exists()


def test_it_takes_the_place_of_nothing_else(workplace):
    for own in (DataConfig(root="mine"), DataConfig(train_annotations="a.json", val_annotations="")):
        assert found_data(own) == own
    Path("data/coco").mkdir(parents=True)
    assert found_data(DataConfig()) == DataConfig()


def test_the_bare_commands_train_and_evaluate_on_it(workplace, training, capsys):
    ours = {key: value for key, value in training.items() if not key.startswith("data.") or key == "data.num_workers"}
    overrides = [f"{key}={json.dumps(value)}" for key, value in {**ours, "train.epochs": 1}.items()]
    assert main(["train", "-c", "solov2_r50_fpn_1x", "-o", "train.output_dir=output", *overrides]) == 0
    run = Path("output/tiny")
    assert f"root: {FOLDER}" in (run / "config.yml").read_text()
    assert main(["eval", "-c", "solov2_r50_fpn_1x", "-o", f"weights={run / 'last.pdparams'}", *overrides]) == 0
    assert "AP" in capsys.readouterr().out
