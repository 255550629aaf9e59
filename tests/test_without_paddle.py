"""Exports answer where Paddle is not installed: in a new environment that has onnxruntime and OpenVINO only."""

import json
import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
from busy import busy_model

from ppsolo import Predictor, load_config
from ppsolo.data.images import write_image

ROOT = Path(__file__).parent.parent
# Not in the new environment: Paddle, what only training needs, and ppsolo itself, which comes from this checkout.
LEFT_OUT = ("paddle", "visualdl", "ppsolo", "__editable__")


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment that has this one's packages, by links, but for Paddle and VisualDL."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    site = next(place.glob("lib/python*/site-packages"))
    for package in Path(np.__file__).parents[1].iterdir():
        if not package.name.startswith(LEFT_OUT) and package.suffix != ".pth" and not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny) -> tuple[Path, int]:
    """A folder with a picture and exports for ONNX runtimes, and how many instances the model finds in the picture."""
    pytest.importorskip("onnxruntime")

    from ppsolo.deploy.export import export_model

    folder = tmp_path_factory.mktemp("exports")
    config = load_config("solov2_r50_fpn_1x", tiny)
    model = busy_model(config)
    image = np.random.default_rng(0).integers(0, 256, [60, 90, 3], np.uint8)
    write_image(folder / "a.png", image)
    for graph in ("network", "whole"):
        export_model(model, config, folder / graph, format="onnx", graph=graph, verify_export=False)
    return folder, len(Predictor(config, model=model)(image))


def run(python: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [python, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def test_paddle_is_not_there(python):
    assert "No module named 'paddle'" in run(python, "import paddle").stderr


@pytest.mark.parametrize(
    ("graph", "engine"), [("network", "onnxruntime"), ("whole", "onnxruntime"), ("network", "openvino")]
)
def test_an_export_answers(python, exported, graph, engine):
    pytest.importorskip(engine)
    folder, expected = exported
    code = """if True:
        import sys, ppsolo
        from ppsolo import deploy
        predictor = deploy.load(sys.argv[1], engine=sys.argv[2])
        found = predictor(ppsolo.read_image(sys.argv[3]))
        assert "paddle" not in sys.modules
        print(len(found), found.masks.shape[1:], found.to_coco(1)[0].keys() >= {"segmentation"})
    """
    done = run(python, code, str(folder / graph), engine, str(folder / "a.png"))
    assert done.stdout.split() == [str(expected), "(60,", "90)", "True"], done.stderr


@pytest.mark.parametrize("arguments", [["infer", "--infer_img", "a.png"], ["eval", "--find_thresholds", "t.json"]])
def test_commands_answer_with_an_export(python, exported, tmp_path, arguments):
    folder, _ = exported
    annotations = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 90}],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [0, 0, 10, 10]}
            | {"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]}
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(annotations))
    data = ["--annotations", str(tmp_path / "val.json"), "--image_dir", str(folder)]
    command = [str(folder / word) if word == "a.png" else word for word in arguments]
    command = [str(tmp_path / word) if word == "t.json" else word for word in command]
    command += ["--model_dir", str(folder / "network"), *(data if arguments[0] == "eval" else [])]
    code = "import sys; from ppsolo.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run(python, code, *command, "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    done = run(python, code, arguments[0], "-c", "demo", *command[1:3])
    assert done.returncode == 2 and "PaddlePaddle is not installed" in done.stderr


def test_every_module_of_the_answering_half_is_imported(python):
    code = """if True:
        import importlib, pkgutil
        import ppsolo.check, ppsolo.data, ppsolo.results, ppsolo.serve, ppsolo.evaluation
        for room in (ppsolo.data, ppsolo.results, ppsolo.check, ppsolo.serve, ppsolo.evaluation):
            for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
                importlib.import_module(module.name)
        rooms = ("pipeline", "config", "infer.pictures", "infer.video", "api", "cli")
        for name in (*rooms, "deploy.runtime", "deploy.onnx_runtime"):
            importlib.import_module("ppsolo." + name)
    """
    done = run(python, code)
    assert done.returncode == 0, done.stderr


def test_what_needs_paddle_says_so(python):
    done = run(python, "import ppsolo; ppsolo.Predictor")
    assert done.stderr.splitlines()[-1].endswith(
        "ppsolo.Predictor needs PaddlePaddle: pip install 'ppsolo[cpu]' or 'ppsolo[gpu]'"
    )
