"""PaddleDetection's own code on what ppsolo writes; runs where paddledet 2.6 is installed."""

import os
import sys

import cv2
import numpy as np
import paddle
import pytest

from ppsolo import build_model, load_config
from ppsolo.checkpoint.load import save_weights
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.cli import main
from ppsolo.data.synthetic import draw_scene
from ppsolo.deploy.export import export_model
from ppsolo.predictor import Predictor

SYSTEM = "solov2_r50_fpn_1x_coco"
# The same system in its own words.
THEIRS = """
architecture: SOLOv2
num_classes: 80
use_gpu: false
SOLOv2: {backbone: ResNet, neck: FPN, solov2_head: SOLOv2Head, mask_head: SOLOv2MaskHead}
ResNet: {depth: 50, norm_type: bn, freeze_at: 0, return_idx: [0, 1, 2, 3], num_stages: 4}
FPN: {out_channel: 256}
SOLOv2Head:
  seg_feat_channels: 512
  stacked_convs: 4
  num_grids: [40, 36, 24, 16, 12]
  kernel_out_channels: 256
  solov2_loss: SOLOv2Loss
  mask_nms: MaskMatrixNMS
SOLOv2MaskHead: {mid_channels: 128, out_channels: 256, start_level: 0, end_level: 3}
SOLOv2Loss: {ins_loss_weight: 3.0, focal_loss_gamma: 2.0, focal_loss_alpha: 0.25}
MaskMatrixNMS: {pre_nms_top_n: 500, post_nms_top_n: 100}
"""


def test_its_loader_takes_every_array_that_convert_writes(tmp_path):
    pytest.importorskip("ppdet", reason="paddledet is not installed")
    from ppdet.core.workspace import create
    from ppdet.core.workspace import load_config as load_their_config
    from ppdet.utils.checkpoint import load_pretrain_weight

    paddle.seed(0)
    model = build_model(load_config(SYSTEM))
    save_weights(model, tmp_path / "ours.pdparams")
    converted = tmp_path / "theirs.pdparams"
    weights = f"weights={tmp_path / 'ours.pdparams'}"
    assert main(["convert", "-c", SYSTEM, "-o", weights, "--output", str(converted)]) == 0
    (tmp_path / "theirs.yml").write_text(THEIRS)
    their_model = create(load_their_config(str(tmp_path / "theirs.yml")).architecture)
    load_pretrain_weight(their_model, str(tmp_path / "theirs"))
    arrays, state = read_checkpoint(converted), their_model.state_dict()
    assert arrays.keys() == state.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), array, err_msg=name)


# Scaled by 1.28 the sides of the first are whole; 70 becomes 89.6.
@pytest.mark.parametrize("size", [(50, 75), (50, 70)])
def test_its_deploy_script_answers_from_the_export(tiny, tmp_path, monkeypatch, size):
    checkout = os.environ.get("PADDLEDETECTION")
    if not checkout:
        pytest.skip("PADDLEDETECTION is not set to a checkout of PaddleDetection, which has deploy/python")
    pytest.importorskip("ppdet", reason="paddledet is not installed")
    monkeypatch.setattr(sys, "path", [os.path.join(checkout, "deploy", "python"), *sys.path])
    from infer import DetectorSOLOv2

    low = {"postprocess.score_threshold": 0.005, "postprocess.update_threshold": 0.001}
    paddle.seed(0)
    config = load_config(SYSTEM, {**tiny, **low})
    model = build_model(config)
    model.eval()
    export_model(model, config, tmp_path / "export", layout="paddledetection", verify_export=False)
    image = draw_scene(np.random.default_rng(0), size).image
    cv2.imwrite(str(tmp_path / "picture.png"), image[:, :, ::-1])
    detector = DetectorSOLOv2(str(tmp_path / "export"), device="CPU", output_dir=str(tmp_path))
    found = detector.predict_image([str(tmp_path / "picture.png")], visual=False)
    # Its deploy code scales both sides by one ratio, where its training code rounds each side first.
    predictor = Predictor(load_config(SYSTEM, {**tiny, **low, "preprocess.round_sides": False}), model=model)
    prepared = predictor.prepare(image)
    # And it cuts masks at the rounded sides.
    rounded = tuple(round(side * 1.28) for side in size)
    expected = predictor.finish(predictor.detect(prepared.image[None]), prepared.size._replace(resized=rounded))
    assert len(expected) > 0
    np.testing.assert_array_equal(found["label"], expected.labels)
    np.testing.assert_allclose(found["score"], expected.scores, atol=1e-5)
    assert found["segm"].shape == expected.masks.shape
    assert np.mean(found["segm"].astype(bool) != expected.masks) < 1e-4
