"""ResNet backbone: bottleneck blocks, plain and vd, with deformable convolution in chosen stages."""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppsolo.models.layers import FROZEN_BATCH_NORM, ConvNorm, Norm, freeze

EXPANSION = 4


class Bottleneck(nn.Layer):
    """1x1 -> 3x3 (strided, perhaps deformable) -> 1x1, plus the input (He et al., arXiv 1512.03385, fig. 5).

    If the shape changes, the input passes a 1x1 convolution; with stride in "d", after a 2x2 mean.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        variant: str,
        deformable: bool,
        norm: Norm,
    ):
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = ConvNorm(in_channels, width, 1, norm=norm)
        self.conv2 = ConvNorm(
            width,
            width,
            3,
            stride=stride,
            norm=norm,
            deformable=deformable,
        )
        self.conv3 = ConvNorm(width, out_channels, 1, norm=norm, activation=None)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            pooled = variant == "d" and stride == 2
            # A window that crosses the edge averages only its valid pixels.
            pool = nn.AvgPool2D(2, stride=2, ceil_mode=True, exclusive=True) if pooled else nn.Identity()
            conv = ConvNorm(in_channels, out_channels, 1, stride=1 if pooled else stride, norm=norm, activation=None)
            self.shortcut = nn.Sequential(("pool", pool), ("conv", conv))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        residual = self.shortcut(x) if self.shortcut else x
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + residual)


class ResNet(nn.Layer):
    """Images [N, 3, H, W] -> C2..C5, [N, 4 width 2^i, H / 2^(i+2), W / 2^(i+2)] for i = 0..3.

    blocks: bottlenecks per stage, (3, 4, 6, 3) for ResNet-50.
    variant: "b" (7x7 stem, strided 1x1 shortcut) or "d" (three 3x3 in the stem, mean before the shortcut: "vd").
    dcn_stages: 1-based stages whose 3x3 convolutions are all deformable (2, 3, 4 are res3, res4, res5).
    frozen_stages: -1 trains all, 0 freezes the stem, n >= 1 freezes the stem and stages 1..n. Frozen parameters get no
        gradient; `norm.frozen` says whether norms use running statistics.
    width: channels inside the first stage's blocks, 64 in the published systems.
    norm: see `ConvNorm`.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        variant: str = "b",
        dcn_stages: Sequence[int] = (),
        norm: Norm = FROZEN_BATCH_NORM,
        frozen_stages: int = 1,
        width: int = 64,
    ):
        super().__init__()
        if variant == "b":
            kernel_size, widths = 7, (width,)
        elif variant == "d":
            kernel_size, widths = 3, (width // 2, width // 2, width)
        else:
            raise ValueError(f"ResNet variant is {variant!r}: choose 'b' or 'd'")
        self.stem = nn.Sequential(
            *(
                ConvNorm(
                    inputs,
                    outputs,
                    kernel_size,
                    stride=2 if index == 0 else 1,
                    norm=norm,
                )
                for index, (inputs, outputs) in enumerate(zip((3, *widths[:-1]), widths, strict=True))
            )
        )
        stages = []
        channels = width
        for stage, count in enumerate(blocks):
            stage_width = width * 2**stage
            layers = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(
                    Bottleneck(
                        channels,
                        stage_width,
                        stride=stride,
                        variant=variant,
                        deformable=stage + 1 in dcn_stages,
                        norm=norm,
                    )
                )
                channels = stage_width * EXPANSION
            stages.append(nn.Sequential(*layers))
        self.stages = nn.LayerList(stages)
        self.out_channels = tuple(width * 2**stage * EXPANSION for stage in range(len(blocks)))
        for part in [self.stem, *self.stages][: frozen_stages + 1]:
            freeze(part)

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        x = F.max_pool2d(self.stem(images), 3, stride=2, padding=1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
