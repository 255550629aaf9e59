"""Flat group norms against those that OpenVINO's reader makes."""

import numpy as np
import pytest
from exports import lively_model

from ppsolo import load_config
from ppsolo.build.pipeline import build_preprocess
from ppsolo.data.synthetic import draw_scene
from ppsolo.models.layers import ConvNorm

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def faint(tiny):
    """A configuration, its model with small values before each group norm, which change nothing, and an image."""
    from paddle import nn

    config = load_config("solov2_r50_fpn_1x", tiny)
    model = lively_model(config)
    for layer in model.sublayers():
        if isinstance(layer, ConvNorm) and isinstance(layer.norm, nn.GroupNorm):
            layer.conv.weight.set_value(layer.conv.weight / 16)
            layer.norm._epsilon /= 256
    model.eval()
    scene = draw_scene(np.random.default_rng(0), (64, 96)).image
    return config, model, build_preprocess(config)(scene)[0]


def outputs(graph, image: np.ndarray) -> list[np.ndarray]:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    request.infer({0: image})
    return [tensor.data.copy() for tensor in request.output_tensors]


def test_flat_norms_give_the_same_network(faint):
    from ppsolo.deploy.group_norms import flatten_group_norms
    from ppsolo.deploy.onnx.graph import build_onnx
    from ppsolo.deploy.openvino_runtime import read_graph

    _, model, image = faint
    content = build_onnx(model).SerializeToString()
    batch = np.stack([image, image[:, ::-1]])
    flat = flatten_group_norms(read_graph(content))
    assert not any(operation.get_type_name() == "MVN" for operation in flat.get_ordered_ops())
    for one, other in zip(outputs(flat, batch), outputs(read_graph(content), batch), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_flat_norms_are_as_exact_in_int8(faint, tmp_path, monkeypatch):
    from ppsolo.deploy import quantize

    config, model, image = faint
    errors = []
    for name, change in (("flat", quantize.flatten_group_norms), ("plain", lambda graph: graph)):
        monkeypatch.setattr(quantize, "flatten_group_norms", change)
        written = quantize.quantize_model(model, config, tmp_path / name, images=[image], measure=None)
        errors.append([head["mean"] for head in written.table["heads"].values()])
    assert max(errors[0]) < 1.5 * max(errors[1]) < 0.5
