"""The mask-feature head: sizes, sign and the deformable variant."""

import paddle
import pytest

from ppsolo.models.layers import Norm
from ppsolo.models.mask_feature import MaskFeatureHead


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
