"""Shapes, frozen parts and the two variants of ResNet."""

import numpy as np
import paddle
import pytest

from ppsolo.models.layers import Norm
from ppsolo.models.resnet import ResNet

TINY = {"blocks": (1, 2, 1, 1), "width": 8}


@pytest.mark.parametrize("variant", ["b", "d"])
def test_features_halve_and_widen(variant):
    net = ResNet(**TINY, variant=variant, dcn_stages=(2, 4))
    features = net(paddle.randn([2, 3, 64, 96]))
    assert [list(x.shape) for x in features] == [[2, 32, 16, 24], [2, 64, 8, 12], [2, 128, 4, 6], [2, 256, 2, 3]]
    assert net.out_channels == (32, 64, 128, 256)


def test_parameter_count_of_resnet_50():
    count = sum(int(np.prod(p.shape)) for name, p in ResNet().named_parameters() if "norm" not in name)
    # 23,454,912: torchvision's ResNet-50 without classifier (23,508,032) less its 53,120 norm scales and biases
    assert count == 23_454_912


def test_frozen_stages_stop_gradients():
    net = ResNet(**TINY, norm=Norm(), frozen_stages=1)
    sum(x.sum() for x in net(paddle.randn([2, 3, 64, 64]))).backward()
    trained = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None and "stages" in name}
    assert trained == {"1", "2", "3"}
    assert all(p.grad is None for p in net.stem.parameters())


def test_nothing_is_frozen_at_minus_one():
    net = ResNet(**TINY, norm=Norm(), frozen_stages=-1)
    running = ("_mean", "_variance")
    assert not any(p.stop_gradient for name, p in net.named_parameters() if not name.endswith(running))


def test_strided_vd_shortcut_averages_valid_pixels_only(reference):
    recorded = np.load(reference / "golden" / "dygraph__ops.npz")
    pool = ResNet(**TINY, variant="d").stages[1][0].shortcut.pool
    np.testing.assert_allclose(pool(paddle.to_tensor(recorded["pool_x"])).numpy(), recorded["avg_ceil"], atol=1e-6)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="'c'"):
        ResNet(**TINY, variant="c")
