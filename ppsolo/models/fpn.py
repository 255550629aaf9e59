"""Feature pyramid network (Lin et al., arXiv 1612.03144)."""

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn


def pyramid_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2D:
    """A convolution with bias and no norm, Xavier-uniform over fan-in, as in the published systems."""
    bound = math.sqrt(3.0 / (kernel_size**2 * in_channels))
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        weight_attr=paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound)),
    )


class FPN(nn.Layer):
    """C2..C5 -> P2..P6, each [N, out_channels, H, W] at strides 4, 8, 16, 32, 64.

    P6 is every second pixel of P5. The input sides must halve exactly (multiples of 32).
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256):
        super().__init__()
        self.laterals = nn.LayerList([pyramid_conv(channels, out_channels, 1) for channels in in_channels])
        self.outputs = nn.LayerList([pyramid_conv(out_channels, out_channels, 3) for _ in in_channels])

    def forward(self, features: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        merged = [lateral(features[level]) for level, lateral in enumerate(self.laterals)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] += F.interpolate(merged[level], scale_factor=2, mode="nearest")
        pyramid = [output(merged[level]) for level, output in enumerate(self.outputs)]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, stride=2)]
