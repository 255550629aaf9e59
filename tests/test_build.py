"""Every shipped configuration builds, and tiny networks run."""

import numpy as np
import paddle
import pytest

from ppsolo.build.network import build_model, build_postprocess
from ppsolo.build.pipeline import build_preprocess, category_ids, class_names
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.config import find_config, load_config

CONFIGS = sorted(path.stem for path in find_config("solov2_r50_fpn_1x").parent.glob("*.yml"))


def test_there_is_a_configuration_for_every_published_system():
    assert {entry.config for entry in ZOO.values()} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_builds(name, model_shapes):
    config = load_config(name)
    assert model_shapes(name)["head.category.bias"] == (config.num_classes,)
    assert build_preprocess(config).short_side == config.preprocess.short_side
    assert build_postprocess(config).strides == config.postprocess.strides


@pytest.mark.parametrize("name", ["solov2_r50_fpn_1x", "solov2_r101_vd_fpn_3x_coco", "solov2_r50_enhance_coco"])
def test_a_tiny_network_runs_in_both_modes(name, tiny):
    model = build_model(load_config(name, tiny))
    images = paddle.randn([2, 3, 64, 96])
    for mode in ("train", "eval"):
        getattr(model, mode)()
        raw = model(images)
        assert [list(x.shape) for x in raw.category_logits] == [[2, 3, g, g] for g in (8, 6, 4, 3, 2)]
        assert [list(x.shape) for x in raw.kernels] == [[2, 8, g, g] for g in (8, 6, 4, 3, 2)]
        assert raw.mask_features.shape == [2, 8, 16, 24]


def test_batch_of_n_is_n_times_one(tiny):
    model = build_model(load_config("solov2_r101_vd_fpn_3x", tiny))
    model.eval()
    images = paddle.randn([3, 3, 64, 64])
    together = model(images)
    for image in range(3):
        alone = model(images[image : image + 1])
        # other batch sizes may take other kernels: float32 rounding
        np.testing.assert_allclose(together.mask_features[image].numpy(), alone.mask_features[0].numpy(), atol=1e-5)
        for ours, theirs in zip(together.kernels, alone.kernels, strict=True):
            np.testing.assert_allclose(ours[image].numpy(), theirs[0].numpy(), atol=1e-5)


def test_class_names_and_ids():
    coco = load_config("solov2_r50_fpn_1x")
    assert class_names(coco)[0] == "person" and class_names(coco)[79] == "toothbrush"
    assert category_ids(coco)[11] == 13 and category_ids(coco)[79] == 90
    other = load_config("solov2_r50_fpn_1x", {"num_classes": 2})
    assert class_names(other) == ("class 0", "class 1")
    assert category_ids(other) == (1, 2)
    named = load_config("solov2_r50_fpn_1x", {"num_classes": 2, "class_names": ["a", "b"], "category_ids": [7, 3]})
    assert class_names(named) == ("a", "b") and category_ids(named) == (7, 3)
