"""The pyramid: sizes, the top-down path and the extra level."""

import numpy as np
import paddle

from ppsolo.models.fpn import FPN


def test_pyramid_sizes():
    features = [paddle.randn([2, channels, 32 // 2**i, 16 // 2**i]) for i, channels in enumerate((4, 8, 12, 16))]
    pyramid = FPN((4, 8, 12, 16), 6)(features)
    assert [list(x.shape) for x in pyramid] == [
        [2, 6, 32, 16],
        [2, 6, 16, 8],
        [2, 6, 8, 4],
        [2, 6, 4, 2],
        [2, 6, 2, 1],
    ]
    np.testing.assert_array_equal(pyramid[4].numpy(), pyramid[3].numpy()[:, :, ::2, ::2])


def test_top_down_path_repeats_pixels():
    neck = FPN((1, 1), 1)
    for conv in [*neck.laterals, *neck.outputs]:
        weight = np.zeros(conv.weight.shape, "float32")
        weight[0, 0, weight.shape[2] // 2, weight.shape[3] // 2] = 1.0
        conv.weight.set_value(weight)
        conv.bias.set_value(paddle.zeros([1]))
    fine, coarse = paddle.zeros([1, 1, 4, 4]), paddle.to_tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    pyramid = neck([fine, coarse])
    np.testing.assert_array_equal(pyramid[0].numpy()[0, 0], np.kron([[1, 2], [3, 4]], np.ones((2, 2))))
