"""Shapes, widths and the gate of MobileNetV3."""

import numpy as np
import paddle

from ppsolo.models.mobilenetv3 import MobileNetV3, SqueezeExcite, scaled


def test_features_are_tapped_before_each_stride():
    net = MobileNetV3(scale=0.25)
    features = net(paddle.randn([1, 3, 64, 96]))
    assert [list(x.shape[2:]) for x in features] == [[16, 24], [8, 12], [4, 6], [2, 3]]
    assert tuple(x.shape[1] for x in features) == net.out_channels


def test_published_widths():
    assert MobileNetV3().out_channels == (72, 240, 672, 960)


def test_gate_has_slope_one_fifth():
    layer = SqueezeExcite(4)
    paddle.nn.initializer.Constant(0.0)(layer.expand.weight)
    paddle.nn.initializer.Assign(np.array([0.0, 1.0, 5.0, -5.0], "float32"))(layer.expand.bias)
    y = layer(paddle.ones([1, 4, 2, 2])).numpy()
    np.testing.assert_allclose(y[0, :, 0, 0], [0.5, 0.7, 1.0, 0.0], atol=1e-6)


def test_scaled_widths_are_multiples_of_eight():
    assert [scaled(16, 0.25), scaled(72, 0.5), scaled(72, 1.0), scaled(18, 1.0)] == [8, 40, 72, 24]
