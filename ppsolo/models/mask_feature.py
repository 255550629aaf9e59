"""Mask-feature head: one feature map at stride 4; the kernels of all instances are applied to it."""

from collections.abc import Sequence

import paddle
from paddle import nn

from ppsolo.models.layers import GROUP_NORM, ConvNorm, Norm, append_coordinates, rescale


class UpsamplingTower(nn.Sequential):
    """Blocks, each followed by a bilinear x2 resize: [N, C, H, W] -> [N, C', 2^n H, 2^n W] for n blocks."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for block in self:
            x = rescale(block(x), 2)
        return x


class MaskFeatureHead(nn.Layer):
    """P2..P5 -> mask features [N, out_channels, H/4, W/4], non-negative (SOLOv2 sec. 3.2.2, fig. 3).

    Level i passes i times (3x3 convolution, GroupNorm, ReLU, bilinear x2); P2 passes one such block without resizing.
    P5 first gets normalised coordinates. The sum passes a last 1x1 block.
    deformable: all of these convolutions are DCNv2, also the last 1x1; `dcn_bias`: see `ConvNorm`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        mid_channels: int = 128,
        out_channels: int = 256,
        levels: int = 4,
        norm: Norm = GROUP_NORM,
        deformable: bool = False,
        dcn_bias: bool = False,
    ):
        super().__init__()

        def block(inputs: int, outputs: int, kernel_size: int) -> ConvNorm:
            return ConvNorm(
                inputs,
                outputs,
                kernel_size,
                norm=norm,
                deformable=deformable,
                dcn_bias=dcn_bias,
                init_std=0.01,
            )

        towers: list[nn.Layer] = [nn.Sequential(block(in_channels, mid_channels, 3))]
        for level in range(1, levels):
            inputs = in_channels + 2 if level == levels - 1 else in_channels
            deeper = (block(mid_channels, mid_channels, 3) for _ in range(level - 1))
            towers.append(UpsamplingTower(block(inputs, mid_channels, 3), *deeper))
        self.levels = nn.LayerList(towers)
        self.output = block(mid_channels, out_channels, 1)

    def forward(self, pyramid: Sequence[paddle.Tensor]) -> paddle.Tensor:
        levels = [*pyramid[:-1], append_coordinates(pyramid[-1])]
        total = self.levels[0](levels[0])
        for level in range(1, len(self.levels)):
            total = total + self.levels[level](levels[level])
        return self.output(total)
