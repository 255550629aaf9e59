"""ONNX graphs written from tiny models, in onnxruntime, against the models themselves."""

import numpy as np
import paddle
import pytest

from ppsolo import build_model, load_config
from ppsolo.deploy.onnx_graph import build_onnx
from ppsolo.deploy.onnx_runtime import OnnxNetwork
from ppsolo.models.solov2 import SOLOv2

SYSTEMS = {
    "plain": ("solov2_r50_fpn_1x", {}),
    "deformable everywhere, biases": ("solov2_r101_vd_fpn_3x_coco", {}),
    "light": ("solov2_light_r50_vd_fpn_dcn_512_3x", {"model.head.num_convs": 3}),
    "group norm": ("solov2_r50_fpn_1x", {"model.backbone.norm": "gn", "model.backbone.norm_groups": 4}),
    "mobile": ("solov2_mobilenetv3_fpn_448_3x", {"model.head.num_convs": 2, "model.backbone.scale": 0.25}),
}


def tiny_model(tiny, system: str) -> SOLOv2:
    """A tiny model with random weights and running statistics, deformable convolutions that really displace."""
    name, overrides = SYSTEMS[system]
    overrides = {**tiny, **overrides}
    if system == "mobile":
        overrides = {key: value for key, value in overrides.items() if not key.endswith(("depth", "width"))}
    model = build_model(load_config(name, overrides))
    random = np.random.default_rng(0)
    for key, tensor in model.state_dict().items():
        if key.endswith(("_variance", "norm.weight")):
            values = random.uniform(0.5, 2.0, tensor.shape)
        elif key.endswith("weight"):
            # Displacements that depend much on the features amplify what rounding does, layer by layer.
            spread = 0.1 if "offset" in key else 1.5
            values = random.normal(0, spread / np.prod(tensor.shape[1:]) ** 0.5, tensor.shape)
        else:
            values = random.normal(0, 0.5, tensor.shape)
        tensor.set_value(values.astype("float32"))
    model.eval()
    return model


def raw_predictions(model: SOLOv2, images: np.ndarray) -> list[np.ndarray]:
    with paddle.no_grad():
        raw = model(paddle.to_tensor(images))
    return [tensor.numpy() for tensor in (*raw.category_logits, *raw.kernels, raw.mask_features)]


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, shape).astype("float32")


@pytest.mark.parametrize("system", SYSTEMS)
def test_network(tiny, system):
    model = tiny_model(tiny, system)
    engine = OnnxNetwork(build_onnx(model).SerializeToString())
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 32, 224)):
        images = pictures(*shape)
        raw = engine.run(images)
        expected = raw_predictions(model, images)
        for ours, theirs in zip((*raw.category_logits, *raw.kernels, raw.mask_features), expected, strict=True):
            assert ours.shape == theirs.shape
            # float32 sums in another order
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
