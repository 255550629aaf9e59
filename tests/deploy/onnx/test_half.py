"""The network in float16. A CPU can run it too: its results are near those of float32."""

import numpy as np
import onnx
import pytest

from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.deploy import load
from ppsolo.deploy.export import export_model
from ppsolo.deploy.onnx.half import half_precision
from ppsolo.deploy.onnx_runtime import OnnxSession
from ppsolo.errors import ExportError
from ppsolo.interface import LEVELS, OUTPUTS, RAW_OUTPUTS
from ppsolo.results.postprocess import RawArrays


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    """model.onnx of each graph."""
    place = tmp_path_factory.mktemp("half")
    for graph in ("whole", "network"):
        export_model(exported.model, exported.config, place / graph, format="onnx", graph=graph, verify_export=False)
    return {graph: place / graph / "model.onnx" for graph in ("whole", "network")}


def test_raw_predictions_are_near(files):
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    exact = OnnxSession(files["network"], RAW_OUTPUTS)(batch)
    half = OnnxSession(half_precision(files["network"]), RAW_OUTPUTS)(batch)
    for one, other in zip(half, exact, strict=True):
        assert one.dtype == np.float32
        assert 0 < np.abs(one - other).max() / np.abs(other).max() < 0.01  # 11 bits, through 20 layers


def test_instances_are_those_of_the_half_network(files, exported):
    """Postprocessing is untouched: of the same raw predictions it makes the same instances."""
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    scores, labels, _, counts = OnnxSession(half_precision(files["whole"]), OUTPUTS)(batch)
    *heads, features = OnnxSession(half_precision(files["network"]), RAW_OUTPUTS)(batch)
    postprocess = build_numpy_postprocess(exported.config)
    expected = postprocess(RawArrays(heads[:LEVELS], heads[LEVELS:], features))
    assert counts.tolist() == expected.counts.tolist() and counts.min() > 3
    assert labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_all_weights_of_the_network_are_half_and_none_of_postprocessing(files):
    graph = onnx.load_from_string(half_precision(files["whole"])).graph
    types = {constant.name: constant.data_type for constant in graph.initializer}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    assert {types[name] for name in types if name.startswith("backbone")} == {onnx.TensorProto.FLOAT16}
    assert {kind for name, kind in types.items() if name.startswith("postprocess.")} & set(floats) == {floats[0]}


def test_it_is_for_gpus(files):
    with pytest.raises(ExportError, match="fp16 runs on a GPU"):
        load(files["whole"].parent, precision="fp16")
    with pytest.raises(ExportError, match="fp32 or fp16"):
        load(files["whole"].parent, precision="bf16", engine="onnxruntime")
