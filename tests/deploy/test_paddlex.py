"""PaddleX's own code on the export for it; runs where paddlex[cv] is installed."""

import cv2
import numpy as np
import paddle
import pytest

from ppsolo import build_model, load_config
from ppsolo.data.synthetic import draw_scene
from ppsolo.deploy.export import export_model
from ppsolo.predictor import Predictor


def test_create_model_answers_with_our_instances(tiny, tmp_path):
    paddlex = pytest.importorskip("paddlex", reason="paddlex[cv] is not installed")
    low = {"postprocess.score_threshold": 0.005, "postprocess.update_threshold": 0.001}
    paddle.seed(0)
    config = load_config("solov2_r50_fpn_1x_coco", {**tiny, **low})
    model = build_model(config)
    model.eval()
    export_model(model, config, tmp_path / "export", layout="paddlex", verify_export=False)
    image = draw_scene(np.random.default_rng(0), (50, 70)).image  # 70 is scaled to 89.6, which is rounded
    cv2.imwrite(str(tmp_path / "picture.png"), image[:, :, ::-1])
    theirs = paddlex.create_model(model_name="SOLOv2", model_dir=str(tmp_path / "export"), device="cpu")
    (found,) = theirs.predict(str(tmp_path / "picture.png"), threshold=0.0)
    expected = Predictor(config, model=model)(image)
    assert len(expected) > 0
    assert [instance["class_id"] for instance in found["boxes"]] == expected.labels.tolist()
    np.testing.assert_allclose([instance["score"] for instance in found["boxes"]], expected.scores, atol=1e-5)
    # Both resize in float32, in another order of additions: a pixel on the threshold may fall on either side.
    masks = np.array(found["masks"]).astype(bool)
    assert masks.shape == expected.masks.shape and np.mean(masks != expected.masks) < 1e-4
