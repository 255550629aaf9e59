"""The public face: what `import ppsolo` gives, and train, evaluate, export and load from one configuration."""

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ppsolo
from ppsolo import api, errors
from ppsolo.config import config_to_dict
from ppsolo.data.images import read_image, write_image


def test_every_public_name_is_there_and_shown():
    assert set(ppsolo.__all__) <= set(dir(ppsolo))
    for name in ppsolo.__all__:
        assert getattr(ppsolo, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = ppsolo.nothing_of_ours


def test_every_error_is_public():
    raised = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert raised <= set(ppsolo.__all__)


def test_help_starts_with_four_lines_that_predict():
    lines = [line for line in (ppsolo.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(lines) == 4 and lines[0].strip() == "import ppsolo" and "from_pretrained" in lines[1]


def test_importing_is_cheap():
    code = "import sys, ppsolo; print(any(name in sys.modules for name in ('paddle', 'cv2', 'onnxruntime')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def run(training, tmp_path_factory) -> ppsolo.Config:
    """The configuration of a run that was trained by the public function."""
    changes = {**training, "train.epochs": 1, "train.evaluate_every": 1, "train.pictures": 0}
    changes["train.output_dir"] = str(tmp_path_factory.mktemp("api"))
    config = ppsolo.load_config("solov2_r50_fpn_1x", changes)
    summary = ppsolo.train(config)
    assert summary.steps > 0 and (summary.directory / "last.pdparams").is_file()
    return config


def test_a_run_is_loaded_by_its_directory(run):
    predictor = ppsolo.load(f"{run.train.output_dir}/{run.name}")
    image = next((Path(run.data.root) / "val").iterdir())
    assert predictor(image).size == read_image(image).shape[:2]
    assert len(predictor.class_names) == run.num_classes and "class 0" not in predictor.class_names
    assert run.name in repr(predictor)


def test_evaluate_takes_a_configuration_or_a_predictor(run):
    weights = f"{run.train.output_dir}/{run.name}/last.pdparams"
    by_config = ppsolo.evaluate(run, [f"weights={weights}"])
    predictor = ppsolo.Predictor(f"{run.train.output_dir}/{run.name}/config.yml", weights=weights)
    annotations, images = f"{run.data.root}/{run.data.val_annotations}", f"{run.data.root}/{run.data.val_images}"
    by_predictor = ppsolo.evaluate(predictor, annotations=annotations, images=images)
    assert by_config.report["segm"]["stats"] == by_predictor.report["segm"]["stats"]
    assert re.fullmatch(r"Evaluation\(\d+ images?: segm_AP [\d.]+, bbox_AP [\d.]+, .*\)", repr(by_config))
    elsewhere = ppsolo.evaluate(run, {"weights": weights, "data.root": "gone"}, annotations=annotations, images=images)
    assert elsewhere.report["segm"]["stats"] == by_config.report["segm"]["stats"]
    with pytest.raises(ppsolo.ConfigError, match="give annotations and images"):
        ppsolo.evaluate(predictor)
    with pytest.raises(ppsolo.ConfigError, match="give both"):
        ppsolo.evaluate(predictor, annotations=annotations)


def test_export_writes_what_load_reads(run, tmp_path):
    weights = f"{run.train.output_dir}/{run.name}/last.pdparams"
    pytest.importorskip("onnxruntime")
    written = ppsolo.export(run, tmp_path / "out", weights=weights, format="onnx", graph="network")
    assert written.verification is not None
    loaded = ppsolo.load(tmp_path / "out")
    image = np.zeros([48, 64, 3], np.uint8)
    assert isinstance(loaded, ppsolo.ExportedPredictor) and loaded(image).size == (48, 64)
    by_name = ppsolo.Predictor.from_pretrained(tmp_path / "out", engine="onnxruntime")
    assert isinstance(by_name, ppsolo.ExportedPredictor) and by_name.description == loaded.description
    assert repr(written) == f"Export('{tmp_path / 'out'}': onnx, network graph)"
    wrongs: list[dict[str, Any]] = [{"format": "tflite"}, {"graph": "half"}, {"device": "tpu"}]
    for wrong in wrongs:
        ((name, value),) = wrong.items()
        with pytest.raises(ppsolo.ExportError, match=f"{name} is '{value}': choose "):
            ppsolo.export(run, tmp_path / "other", weights=weights, **wrong)
    assert not (tmp_path / "other").exists()


def test_from_pretrained_takes_the_directory_of_a_run(run):
    directory = f"{run.train.output_dir}/{run.name}"
    predictor = ppsolo.Predictor.from_pretrained(directory)
    assert isinstance(predictor, ppsolo.Predictor) and predictor.origin == ppsolo.load(directory).origin


def test_a_directory_that_is_neither_is_refused(tmp_path):
    with pytest.raises(ppsolo.ConfigError, match=r"neither an export .* nor a run"):
        ppsolo.load(tmp_path)
    with pytest.raises(ppsolo.ConfigError, match=r"neither an export .* nor a run"):
        ppsolo.Predictor.from_pretrained(tmp_path)
    with pytest.raises(ppsolo.ExportError, match=r"no such directory: give one that .* such as output/mine"):
        ppsolo.load(tmp_path / "gone")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ppsolo.ExportError, match=rf"is a file: give its folder, ppsolo\.load\('{tmp_path}'\)"):
        ppsolo.load(tmp_path / "model.onnx")
    with pytest.raises(
        ppsolo.ExportError, match=r"published system: ppsolo\.Predictor\.from_pretrained\('solov2_r50_fpn"
    ):
        ppsolo.load("solov2_r50_fpn_3x")


def test_the_examples_run(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    tree = config_to_dict(run)
    tree["name"] = "mine"
    tree["train"]["output_dir"] = "output"
    Path("mine.yml").write_text(yaml.safe_dump(tree))
    write_image("street.png", np.zeros([48, 64, 3], np.uint8))
    examples = {test.name.rpartition(".")[2]: test for test in doctest.DocTestFinder().find(api)}
    for name in ("train", "evaluate", "export", "load"):
        assert examples[name].examples
        assert doctest.DocTestRunner().run(examples[name]).failed == 0
