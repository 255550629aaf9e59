"""Recipes: complete configurations that follow from the data set."""

import json

import numpy as np
import pytest
import yaml
from truth import made_truth

from ppsolo.build.training import warmup_steps
from ppsolo.cli import main
from ppsolo.config import load_config
from ppsolo.data.coco import CocoDataset
from ppsolo.errors import ConfigError, DatasetError
from ppsolo.schema import ScheduleConfig
from ppsolo.training.recipe import _upright, data_facts, make_recipe, recipe_config, suggest_recipe


@pytest.fixture(scope="module")
def records(drawn):
    dataset = CocoDataset(drawn / "instances_train.json", drawn / "train")
    return [dataset[index] for index in range(len(dataset))]


NAMES = ("circle", "rectangle", "triangle")


@pytest.mark.parametrize(("start", "system"), [("nothing", "compact"), ("weights", "solov2_mobilenetv3_fpn_448_3x")])
def test_a_recipe_is_a_whole_configuration(records, start, system):
    recipe = make_recipe(records, NAMES, start=start)
    config, base = recipe_config(recipe), load_config(system)
    assert config.class_names == NAMES and config.num_classes == 3
    assert (config.weights == system) is (start == "weights")
    assert all(
        ours >= theirs for ours, theirs in zip(config.model.head.num_grids, base.model.head.num_grids, strict=True)
    )
    least = {"nothing": 4288, "weights": 2400}[start]
    assert least <= config.train.epochs * 9 < least + 9
    steps = config.train.epochs * (9 // config.train.batch_size)
    assert warmup_steps(config.train.schedule, total_steps=steps) == steps // 10
    assert f"# epochs: {config.train.epochs} epochs" in recipe.text() and "# data: 9 images" in recipe.text()
    assert yaml.safe_load(recipe.text())["_BASE_"] == list(recipe.bases)


def test_processes_share_a_step(records):
    config = recipe_config(make_recipe(records, NAMES, start="nothing", processes=2))
    assert config.train.batch_size == 1


def test_a_gpu_takes_a_larger_system(records):
    assert make_recipe(records, NAMES, gpu=True).settings["weights"] == "solov2_r50_enhance_coco"
    chosen = make_recipe(records, NAMES, system="solov2_r50_fpn_3x")
    assert chosen.bases == ("solov2_r50_fpn_3x", "finetune") and "preprocess.short_side" not in chosen.settings


def test_small_objects_are_enlarged_and_ranges_follow(records):
    facts = data_facts(records, classes=3)
    config = recipe_config(make_recipe(records, NAMES, start="nothing"))
    assert np.median(facts.object_sizes) < 64 and config.preprocess.short_side == 128  # 48 x 64 pixels, least side
    ranges = config.train.targets.scale_ranges
    assert ranges[0] == (1, 16) and ranges[1] == (8, 32) and ranges[-1][1] == 2048


@pytest.mark.parametrize(("ratio", "count", "upright"), [(1.0, 200, False), (0.6, 200, True), (1.0, 40, True)])
def test_pictures_are_turned_where_objects_have_no_up(ratio, count, upright):
    rng = np.random.default_rng(0)
    extents = np.stack([rng.uniform(20, 60, count) * ratio, rng.uniform(20, 60, count)], axis=1)
    assert _upright(extents, np.zeros(count, np.int64)) is upright


def test_a_warm_up_is_a_tenth_of_the_run():
    auto = ScheduleConfig(warmup_steps="auto")
    assert [warmup_steps(auto, total_steps=steps) for steps in (5, 96, 90_000)] == [0, 9, 1000]
    assert warmup_steps(ScheduleConfig(warmup_steps=150), total_steps=20) == 150


def options(drawn) -> list[str]:
    return [
        f"data.root={drawn}",
        "data.train_annotations=instances_train.json",
        "data.train_images=train",
        "data.val_annotations=instances_val.json",
        "data.val_images=val",
    ]


def test_a_training_has_at_least_one_process(capsys):
    assert main(["suggest", "--processes", "0"]) == 2
    assert "--processes is 0: give at least 1" in capsys.readouterr().err


def test_what_is_suggested_can_be_trained_with(drawn, tmp_path, capsys):
    assert main(["suggest", "--from_nothing", "-o", *options(drawn)]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.yml").write_text(text)
    config = load_config(tmp_path / "mine.yml")
    assert config == recipe_config(suggest_recipe(None, options(drawn), from_nothing=True))
    short = {"train.epochs": 1, "train.output_dir": str(tmp_path), "model.head.num_convs": 1, "data.num_workers": 0}
    overrides = [f"{key}={json.dumps(value)}" for key, value in short.items()]
    assert main(["train", "--recipe", "auto", "--from_nothing", "-o", *options(drawn), *overrides]) == 0
    trained = load_config(tmp_path / "mine" / "config.yml")
    assert trained.model.head.num_grids == config.model.head.num_grids and trained.train.epochs == 1
    out = capsys.readouterr().out
    assert "The model has learned almost nothing: check the data (ppsolo check-data)" in out


@pytest.mark.parametrize("name", ["photos #1", "a: b", "a\tb", "\u202ea", "\udcff"])
def test_a_data_set_in_a_folder_of_any_name(name, drawn, tmp_path, capsys):
    (tmp_path / name).symlink_to(drawn)
    place = ["--annotations", str(tmp_path / name / "instances_train.json"), "--images", str(tmp_path / name / "train")]
    assert main(["suggest", "--from_nothing", *place]) == 0
    (tmp_path / "mine.yml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(tmp_path / "mine.yml").data.train_images == str(tmp_path / name / "train")


def test_a_recipe_for_the_data_set_of_a_file(drawn, tmp_path):
    lines = [option.removeprefix("data.").replace("=", ": ", 1) for option in options(drawn)]
    text = "".join(f"  {line}\n" for line in lines)
    (tmp_path / "config.yml").write_text(f"_BASE_: nuclei\nname: shapes\nnum_classes: 3\ndata:\n{text}")
    recipe = suggest_recipe(tmp_path / "config.yml", ["train.epochs=3"], from_nothing=True)
    config = recipe_config(recipe)
    assert (config.name, config.data.root, config.class_names) == ("shapes", str(drawn), NAMES)
    assert recipe.bases == ("compact",) and config.train.epochs == 3
    assert "only the data set and the name are used" in recipe.text()
    assert "# epochs" not in recipe.text() and "# grids" in recipe.text()  # the reasons of the recipe's own settings


def test_annotations_of_a_folder_are_in_the_directory_of_their_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for path, instances in made_truth(tmp_path / folder, 6):
            path.with_suffix(".json").write_bytes(instances.to_bytes("labelme", image_path=path))
        recipe = suggest_recipe(None, [f"data.root={folder}", f"name={folder}"], from_nothing=True)
        written = recipe.settings["data.train_annotations"]
        assert written == str(tmp_path / "output" / folder / "annotations" / "instances_train.json")


def test_a_reason_is_a_sentence(records):
    recipe = make_recipe(records, NAMES, start="nothing")
    assert recipe.reasons["data"].endswith(" objects, 3 classes")
    for reason in recipe.reasons.values():
        words = reason.split()
        assert all(words[i : i + 2] != words[i + 2 : i + 4] for i in range(len(words))), reason


def test_bad_input_is_named(drawn, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"mine\.yml: no such configuration file"):
        suggest_recipe("mine.yml", options(drawn))
    with pytest.raises(DatasetError, match=r"gone/.*no such file; data\.root names the folder of the data set"):
        suggest_recipe(None, [f"data.root={tmp_path / 'gone'}"])
    with pytest.raises(DatasetError, match=r"gone\.json"):
        suggest_recipe(None, [f"data.root={tmp_path}", "data.train_annotations=gone.json", "data.train_images=train"])
    with pytest.raises(DatasetError, match="no image has an instance"):
        data_facts([], classes=1)
    assert main(["train"]) == 2
    assert "give a configuration (-c FILE), or --recipe auto" in capsys.readouterr().err
