"""The two heads of SOLOv2: one grid per level, what each branch sees, where it starts; one map at stride 4."""

import numpy as np
import paddle
import pytest

from ppsolo.models.layers import Norm
from ppsolo.models.solov2 import MaskFeatureHead, SOLOv2Head


def tiny_head(**changes) -> SOLOv2Head:
    settings = {"in_channels": 8, "channels": 8, "num_convs": 2, "kernel_channels": 4, "num_grids": (8, 6, 4, 3, 2)}
    return SOLOv2Head(num_classes=3, norm=Norm("gn", groups=4), **{**settings, **changes})


def pyramid(batch: int = 2) -> list[paddle.Tensor]:
    return [paddle.randn([batch, 8, max(1, 16 >> i), max(1, 24 >> i)]) for i in range(5)]


def test_one_class_and_one_kernel_per_cell():
    logits, kernels = tiny_head(dcn_layers=(1,), dcn_bias=True)(pyramid())
    assert [list(x.shape) for x in logits] == [[2, 3, g, g] for g in (8, 6, 4, 3, 2)]
    assert [list(x.shape) for x in kernels] == [[2, 4, g, g] for g in (8, 6, 4, 3, 2)]


def test_classes_start_at_one_percent():
    logits, _ = tiny_head()([paddle.zeros_like(x) for x in pyramid()])
    np.testing.assert_allclose(paddle.nn.functional.sigmoid(logits[0]).numpy(), 0.01, rtol=1e-3)


def test_categories_do_not_see_coordinates():
    # Features that are constant over the image leave the category branch alike in cells away from the border.
    logits, kernels = tiny_head(num_convs=1, num_grids=(12, 8, 8, 8, 8))([paddle.ones_like(x) for x in pyramid()])
    inner = logits[0].numpy()[0, :, 3:-3, 3:-3]
    assert np.ptp(inner, axis=(1, 2)).max() < 1e-5
    assert np.ptp(kernels[0].numpy()[0, :, 3:-3, 3:-3], axis=(1, 2)).max() > 1e-3


def test_drop_block_only_while_training():
    head = tiny_head(drop_block=True)
    features = pyramid()
    head.eval()
    first, second = (head(features)[0][0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    head.train()
    assert not np.array_equal(head(features)[0][0].numpy(), first)


@pytest.mark.parametrize("deformable", [False, True])
def test_one_map_at_stride_four(deformable):
    head = MaskFeatureHead(
        in_channels=8, mid_channels=8, out_channels=12, norm=Norm("gn", groups=4), deformable=deformable, dcn_bias=True
    )
    pyramid = [paddle.randn([2, 8, 16 // 2**i, 24 // 2**i]) for i in range(4)]
    y = head(pyramid)
    assert y.shape == [2, 12, 16, 24]
    assert y.min().item() >= 0.0
    assert any("offset" in name for name, _ in head.named_parameters()) == deformable


def test_only_the_deepest_level_sees_coordinates():
    head = MaskFeatureHead(in_channels=8, mid_channels=8, out_channels=8, norm=Norm("gn", groups=4))
    assert [tower[0].conv.weight.shape[1] for tower in head.levels] == [8, 8, 8, 10]
    assert [len(tower) for tower in head.levels] == [1, 1, 2, 3]
