"""The script that measures recipes: subsets of annotations, and commands that are understood."""

import argparse
import json
from types import ModuleType

import pytest
from script_files import load_script

from ppsolo import cli


@pytest.fixture(scope="module")
def recipes() -> ModuleType:
    return load_script("recipes")


def test_a_subset_has_the_wanted_classes_and_pictures_alone(recipes, drawn):
    content = json.loads((drawn / "instances_train.json").read_text())
    few = recipes.reduced(content, 3, ["circle"])
    assert len(few["images"]) == 3 and [one["name"] for one in few["categories"]] == ["circle"]
    kept = {one["id"] for one in few["images"]}
    assert kept == {one["image_id"] for one in few["annotations"]}
    assert {one["category_id"] for one in few["annotations"]} == {few["categories"][0]["id"]}
    assert recipes.reduced(content, None, ())["annotations"] == content["annotations"]


def test_its_commands_are_understood(recipes, drawn, tmp_path):
    options = argparse.Namespace(work=tmp_path, share=0.5)
    content = json.loads((drawn / "instances_train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(recipes.reduced(content, 4, ())))
    settings = {"data.root": str(tmp_path), "data.train_annotations": "train.json"}
    settings |= {"data.train_images": str(drawn / "train"), "data.val_annotations": "train.json", "num_classes": "3"}
    for name in ("nuclei-16", "nuclei-16-hand"):
        words = recipes.command(name, recipes.CASES[name], settings, 4, options)
        parsed = cli.parser().parse_args(words)
        epochs = next(one for one in parsed.override if one.startswith("train.epochs="))
        assert epochs == "train.epochs=536"  # 4 pictures, 2,144 of 4,288 seen
