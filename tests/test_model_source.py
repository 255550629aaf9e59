"""A model as a user names it: what is refused, and that each way opens the same predictor."""

import argparse

import numpy as np
import pytest
from exports import lively_model

from ppsolo import Predictor, load_config, save_weights
from ppsolo.cli.shared import add_model, model_source
from ppsolo.config import parse_yaml
from ppsolo.deploy import directory as directory_module
from ppsolo.deploy.directory import read_directory
from ppsolo.deploy.export import export_model
from ppsolo.errors import ConfigError
from ppsolo.model_source import ModelSource, export_config, named_side


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny):
    """A configuration with weights, an ONNX export of it, and a picture."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("model")
    config = load_config("solov2_r50_fpn_1x", tiny)
    model = lively_model(config)
    save_weights(model, folder / "w.pdparams")
    export_model(model, config, folder / "onnx", format="onnx", graph="network", verify_export=False)
    config = load_config("solov2_r50_fpn_1x", {**tiny, "weights": str(folder / "w.pdparams")})
    image = np.random.default_rng(0).integers(0, 256, [60, 90, 3], np.uint8)
    return config, folder / "onnx", image


def test_every_way_gives_the_same_instances(model):
    config, directory, image = model
    export = read_directory(directory)
    expected = Predictor(config, engine="dygraph")(image)
    assert len(expected)
    for source in (
        ModelSource(config, engine="onnxruntime"),
        ModelSource(export.info.config, export),
        named_side("onnxruntime", config),
        named_side(f"{directory}@onnxruntime", None),
    ):
        found = source.open(threads=1)(image)
        assert "onnxruntime" in source.open(threads=1).description
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_a_command_reads_the_description_of_an_export_once(model, monkeypatch):
    read = []
    monkeypatch.setattr(directory_module, "parse_yaml", lambda *arguments: read.append(1) or parse_yaml(*arguments))
    command = argparse.ArgumentParser()
    add_model(command)
    model_source(command.parse_args(["--model_dir", str(model[1])])).open(threads=1)
    assert len(read) == 1


def test_openvino_is_chosen_by_name(model):
    pytest.importorskip("openvino")
    config, directory, image = model
    source = named_side(f"{directory}@openvino", config)
    predictor = source.open(threads=1)
    assert "OpenVINO" in predictor.description and source.config.data == config.data and not source.needs_paddle
    np.testing.assert_allclose(predictor(image).scores, Predictor(config, engine="dygraph")(image).scores, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engine": "paddle"}, "onnxruntime"),
        ({"engine": "tensorrt"}, "tensorrt"),
        ({"device": "gpu"}, "--model_dir"),
        ({"precision": "fp16"}, "--model_dir"),
        ({"precision": "bf16", "engine": "dygraph"}, "openvino"),
    ],
)
def test_what_a_configuration_cannot_have_is_refused(model, options, word):
    with pytest.raises(ConfigError, match=word):
        ModelSource(model[0], **options)


def test_what_an_export_cannot_have_is_refused(model):
    _, directory, _ = model
    export = read_directory(directory)
    with pytest.raises(ConfigError, match="dygraph"):
        ModelSource(export.info.config, export, engine="dygraph")
    with pytest.raises(ConfigError, match="export again"):
        export_config(export, ["postprocess.max_instances=3"])
    changed = export_config(export, ["data.val_images=elsewhere", "postprocess.class_thresholds=[0.1,0.2,0.3]"])
    assert changed.data.val_images == "elsewhere" and changed.postprocess.class_thresholds == (0.1, 0.2, 0.3)
    assert named_side(str(directory), None, ["data.val_images=elsewhere"]).config.data.val_images == "elsewhere"
    for name, word in (("nowhere", "nor an exported"), ("dygraph", "-c CONFIG"), (f"{directory}@jax", "jax")):
        with pytest.raises(ConfigError, match=word):
            named_side(name, None)
