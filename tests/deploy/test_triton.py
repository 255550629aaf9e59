"""The export for NVIDIA Triton: a repository whose configuration is that of its graph, and our loader reads it."""

import dataclasses
import re

import numpy as np
import pytest
from exports import lively_model

from ppsolo.data.synthetic import draw_scene
from ppsolo.deploy import load
from ppsolo.deploy.export import export_model
from ppsolo.errors import ExportError
from ppsolo.predictor import Predictor

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
TENSOR = re.compile(r'(input|output) \[\n  { name: "(\w+)" data_type: (\w+) dims: \[([-0-9, ]*)\] }\n\]')


@pytest.fixture(scope="module")
def repository(tiny_config, tmp_path_factory):
    """A repository with one verified model, and that model."""
    model = lively_model(tiny_config)
    place = tmp_path_factory.mktemp("triton") / "repository"
    export_model(model, tiny_config, place, layout="triton")
    return place, model


def test_the_configuration_is_that_of_the_graph(repository, tiny_config):
    place, _ = repository
    (folder,) = place.iterdir()
    assert folder.name == tiny_config.name
    text = (folder / "config.pbtxt").read_text()
    assert text.splitlines()[:3] == [f'name: "{folder.name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    stated = [(kind, name, type_, len(dims.split(","))) for kind, name, type_, dims in TENSOR.findall(text)]
    graph = [("input", value) for value in session.get_inputs()]
    graph += [("output", value) for value in session.get_outputs()]
    assert stated == [(kind, value.name, TYPES[value.type], len(value.shape)) for kind, value in graph]


def test_our_loader_reads_the_model_and_the_repository(repository, tiny_config):
    place, model = repository
    image = draw_scene(np.random.default_rng(0), (50, 70)).image
    expected = Predictor(tiny_config, model=model)(image)
    for directory in (place, place / tiny_config.name):
        found = load(directory)(image)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_models_share_a_repository_and_one_replaces_only_itself(repository, tiny_config, tmp_path):
    _, model = repository
    for name in ("one", "two", "one"):
        config = dataclasses.replace(tiny_config, name=name)
        export_model(model, config, tmp_path / "shared", layout="triton", verify_export=False)
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["one", "two"]
    with pytest.raises(ExportError, match=r"infer_cfg\.yml is missing"):
        load(tmp_path / "shared")
    load(tmp_path / "shared" / "two")


def test_a_network_alone_is_refused(repository, tiny_config, tmp_path):
    with pytest.raises(ExportError, match="needs a whole ONNX graph"):
        export_model(repository[1], tiny_config, tmp_path / "x", layout="triton", graph="network")
