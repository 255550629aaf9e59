"""The service leaves out what is below the threshold of its class, as `ppsolo infer` does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from busy import busy_model
from servers import SOON, picture, png

from ppsolo import Predictor, load_config, save_weights
from ppsolo.cli import main
from ppsolo.config import config_to_dict
from ppsolo.evaluation.thresholds import read_thresholds

ENGINE = ("--engine", "dygraph")  # needs no conversion
ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until a process has imported what it needs


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny) -> tuple[Path, Path]:
    """The configuration of a tiny network, and a picture. Its annotations are every second instance that it finds."""
    folder = tmp_path_factory.mktemp("thresholds")
    (folder / "val").mkdir()
    (folder / "val" / "a.png").write_bytes(png(picture(0)))
    names = {"num_classes": 3, "class_names": ["a", "b", "c"], "category_ids": [1, 2, 7]}
    config = load_config("solov2_r50_fpn_1x", {**tiny, **names})
    network = busy_model(config)
    save_weights(network, folder / "own.safetensors")
    found = Predictor(config, model=network)(picture(0)).to_coco(image_id=1)
    truths = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(found[::2], start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": truths,
        "categories": [{"id": i, "name": name} for i, name in zip((1, 2, 7), "abc", strict=True)],
    }
    (folder / "val.json").write_text(json.dumps(content))
    data = {"data.root": str(folder), "data.val_annotations": "val.json", "data.val_images": "val"}
    settings = {**tiny, **names, **data, "weights": str(folder / "own.safetensors")}
    (folder / "mine.yml").write_text(yaml.safe_dump(config_to_dict(load_config("solov2_r50_fpn_1x", settings))))
    return folder / "mine.yml", folder / "val" / "a.png"


@pytest.fixture(scope="module")
def thresholds(model) -> Path:
    """A file of `ppsolo eval`."""
    file = model[0].parent / "thresholds.json"
    command = ["eval", "-c", str(model[0]), *ENGINE, "--find_thresholds", str(file), "--least_precision", "0.6"]
    assert main([*command, "--output_dir", str(file.parent)]) == 0
    return file


def served(config: Path, image: Path, *flags: str) -> list[dict]:
    """The instances that `ppsolo serve` finds in a picture."""
    command = [sys.executable, "-m", "ppsolo", "serve", "-c", str(config), *ENGINE, "--port", "0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stdout.readline, "")
        address = next(found[1] for line in lines if (found := re.search(r"answers on (http\S+)", line)))
        query = "predict?score_threshold=0"
        headers = {"Content-Type": "image/png"}
        answer = httpx.post(address + query, content=image.read_bytes(), headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200
        return [{key: entry[key] for key in entry if key != "category_name"} for entry in answer.json()["instances"]]
    finally:
        process.terminate()
        process.communicate(timeout=SOON)


def inferred(config: Path, image: Path, output: Path, *flags: str) -> list[dict]:
    """The instances that `ppsolo infer` finds in a picture."""
    command = ["infer", "-c", str(config), *ENGINE, "--infer_img", str(image), "--output_dir", str(output), "--no_draw"]
    assert main([*command, "--save", "coco", *flags]) == 0
    return json.loads((output / "predictions.json").read_text())


@pytest.mark.parametrize("by", ["file", "configuration"])
def test_the_service_leaves_out_what_infer_leaves_out(model, thresholds, tmp_path, by):
    values = read_thresholds(thresholds)
    flags = ["--class_thresholds", str(thresholds)]
    if by == "configuration":
        flags = ["-o", f"postprocess.class_thresholds={[values[i] for i in (1, 2, 7)]}"]
    everything = inferred(*model, tmp_path / "all")
    expected = inferred(*model, tmp_path / "some", *flags)
    assert 0 < len(expected) < len(everything)
    assert all(entry["score"] >= values[entry["category_id"]] for entry in expected)
    found = served(*model, *flags)
    keys = ("category_id", "score", "segmentation", "bbox")
    assert [[one[key] for key in keys] for one in found] == [[one[key] for key in keys] for one in expected]
